// A plan in words, tables and JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/planner/step_plan.h"

namespace hiptrain {

std::string memory_table(const MemoryPlan& plan);
std::string time_table(const StepTime& time);

// Two lines for a log: how the step is cut and placed; what that takes of memory and, with rates, of time.
std::vector<std::string> plan_lines(const StepPlan& plan, const std::string& rates_of);

// Why a run that does not fit is refused, with the table and what would make it fit (StepPlanner::remedies).
std::string refusal_text(const StepPlan& plan, const std::vector<std::string>& remedies);

// Throws std::invalid_argument with the table of what needs what, and what to change, if the plan does not fit.
void require_fits(const StepPlanner& planner, const StepPlan& plan);

nlohmann::ordered_json plan_json(const StepPlan& plan);

}  // namespace hiptrain
