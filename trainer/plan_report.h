// A plan in words, tables and JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/step_plan.h"

namespace hiptrain {

std::string memory_table(const MemoryPlan& plan);
std::string time_table(const StepTime& time);

// Two lines for a log: how the step is cut and placed; what that takes of memory and, with rates, of time.
std::vector<std::string> plan_lines(const StepPlan& plan, const std::string& rates_of);

// Why a run that does not fit is refused, with the table. longest: the most tokens that would fit; 0: none.
std::string refusal_text(const StepPlan& plan, int64_t longest);

nlohmann::ordered_json plan_json(const StepPlan& plan);

}  // namespace hiptrain
