#include "trainer/model/model_settings.h"

#include <array>

#include "trainer/config/rope_config.h"
#include "trainer/formats/format_error.h"
#include "trainer/formats/json_file.h"

namespace hiptrain {
namespace {

using Json = nlohmann::ordered_json;

// The spelling of transformers 5, which holds rope_theta too, and the older one.
constexpr const char* kParameters = "rope_parameters";
constexpr const char* kScaling = "rope_scaling";
constexpr const char* kTheta = "rope_theta";
constexpr const char* kOriginalPositions = "original_max_position_embeddings";
constexpr const char* kPositions = "max_position_embeddings";

std::filesystem::path config_file(const ModelSection& model) {
  const std::filesystem::path path = model.path;
  return std::filesystem::is_directory(path) ? path / "config.json" : path;
}

bool has_value(const Json& object, const char* name) { return object.contains(name) && !object.at(name).is_null(); }

bool has_object(const Json& config, const char* name) { return has_value(config, name) && config.at(name).is_object(); }

// The objects of both spellings that are there.
std::vector<Json*> rope_objects(Json& config) {
  std::vector<Json*> objects;
  for (const char* name : {kParameters, kScaling})
    if (has_object(config, name)) objects.push_back(&config.at(name));
  return objects;
}

// The context of pretraining as config.json has it; null where it does not say.
Json original_positions(Json& config) {
  for (const Json* rope : rope_objects(config))
    if (has_value(*rope, kOriginalPositions)) return rope->at(kOriginalPositions);
  for (const char* name : {kOriginalPositions, kPositions})
    if (has_value(config, name)) return config.at(name);
  return nullptr;
}

// In place of an object that may hold more than a scaling; null is no scaling.
Json replaced(const Json& old, const Json& scaling) {
  Json kept = Json::object();
  for (const char* name : {kTheta, "partial_rotary_factor"})
    if (has_value(old, name)) kept[name] = old.at(name);
  if (kept.empty()) return scaling;
  Json object = scaling.is_null() ? Json::object({{"rope_type", "default"}}) : scaling;
  object.update(kept);
  return object;
}

void set_scaling(Json& config, const Json& scaling) {
  config.erase(kOriginalPositions);
  const std::vector<Json*> objects = rope_objects(config);
  for (Json* rope : objects) *rope = replaced(*rope, scaling);
  if (objects.empty() && !scaling.is_null()) config[kScaling] = scaling;
}

void set_theta(Json& config, double theta) {
  const bool is_inside = has_object(config, kParameters);
  for (Json* rope : rope_objects(config))
    if (is_inside || rope->contains(kTheta)) (*rope)[kTheta] = theta;
  if (!is_inside || config.contains(kTheta)) config[kTheta] = theta;
}

std::string type_of(const Json& rope) {
  for (const char* name : {"rope_type", "type"})
    if (has_value(rope, name) && rope.at(name).is_string()) return rope.at(name).get<std::string>();
  return "";
}

// transformers takes max_position_embeddings where a scaling does not say what it is relative to.
void keep_original_positions(Json& config, const Json& original, const std::string& what) {
  if (has_value(config, kOriginalPositions)) return;
  for (Json* rope : rope_objects(config)) {
    if (has_value(*rope, kOriginalPositions) || !is_relative_to_original(type_of(*rope))) continue;
    if (original.is_null())
      throw FormatError(what + " has no field '" + kPositions + "': model.rope_scaling must say what its " +
                        kOriginalPositions + " is");
    (*rope)[kOriginalPositions] = original;
  }
}

}  // namespace

nlohmann::ordered_json model_json(const ModelSection& model) {
  const std::string what = model_json_name(model), text = read_text_file(config_file(model));
  parse_json(text, what);  // refuses what the parser below would let pass
  Json config = Json::parse(text);
  if (model_settings(model).empty() || !config.is_object()) return config;
  const Json original = original_positions(config);
  if (model.rope_scaling != kModelsScaling)
    set_scaling(config, model.rope_scaling == kNoScaling ? Json() : Json::parse(model.rope_scaling));
  if (model.rope_theta != kAuto) set_theta(config, model.rope_theta);
  if (model.max_position_embeddings != kAuto) config[kPositions] = static_cast<uint64_t>(model.max_position_embeddings);
  keep_original_positions(config, original, what);
  return config;
}

std::string model_json_name(const ModelSection& model) {
  std::string settings;
  for (const std::string& name : model_settings(model)) settings += (settings.empty() ? " with " : ", ") + name;
  return config_file(model).string() + settings;
}

std::vector<std::string> model_settings(const ModelSection& model) {
  std::vector<std::string> names;
  if (model.rope_theta != kAuto) names.emplace_back("model.rope_theta");
  if (model.rope_scaling != kModelsScaling) names.emplace_back("model.rope_scaling");
  if (model.max_position_embeddings != kAuto) names.emplace_back("model.max_position_embeddings");
  return names;
}

}  // namespace hiptrain
