// SPDX-License-Identifier: Apache-2.0
// The controls: what they are called, what they may be, and what values they have.
#include "effect.h"
#include "settings.generated.h"

namespace vs3r {
namespace {

using namespace ofx;

PropertySet define(ParamSet parameters, const char* type, const char* name, const char* label, const char* help) {
  PropertySet set = nullptr;
  if (suites().parameter->paramDefine(parameters, type, name, &set) != kOk || !set) return nullptr;
  set_string(set, prop::kLabel, label);
  if (help && *help) set_string(set, prop::kHint, help);
  return set;
}

// Stabilization is one decision for the whole clip.
void fix_in_time(PropertySet set) { set_int(set, prop::kAnimates, 0); }

std::string shown(const char* value) {
  std::string text = value;
  text[0] = capital(text[0]);
  for (char& c : text) c = c == '-' ? ' ' : c;
  return text;
}

void define_number(ParamSet parameters, const char* name, const settings::Number& of) {
  PropertySet set = define(parameters, kParamDouble, name, of.label, of.help);
  if (!set) return;
  set_double(set, prop::kDefault, of.initial);
  for (const char* low : {prop::kMin, prop::kDisplayMin}) set_double(set, low, of.low);
  for (const char* high : {prop::kMax, prop::kDisplayMax}) set_double(set, high, of.high);
  set_int(set, prop::kDigits, 1);
  fix_in_time(set);
}

PropertySet define_choice(ParamSet parameters, const char* name, const char* label, const char* help, int initial) {
  PropertySet set = define(parameters, kParamChoice, name, label, help);
  if (!set) return nullptr;
  set_int(set, prop::kDefault, initial);
  fix_in_time(set);
  return set;
}

PropertySet define_text(ParamSet parameters, const char* name, const char* label, const char* help, const char* mode) {
  PropertySet set = define(parameters, kParamString, name, label, help);
  if (!set) return nullptr;
  set_string(set, prop::kStringMode, mode);
  set_string(set, prop::kDefault, "");
  fix_in_time(set);
  return set;
}

int int_of(Param parameter) {
  int value = 0;
  if (parameter) suites().parameter->paramGetValue(parameter, &value);
  return value;
}

double double_of(Param parameter, double otherwise) {
  double value = otherwise;
  if (parameter) suites().parameter->paramGetValue(parameter, &value);
  return value;
}

std::string text_of(Param parameter) {
  char* value = nullptr;
  if (parameter) suites().parameter->paramGetValue(parameter, &value);
  return value ? value : "";
}

// As people paste it: file managers put quotes around, and line ends come along.
std::string bare(const std::string& text) {
  static constexpr const char* kAround = " \t\r\n\"'";
  const size_t first = text.find_first_not_of(kAround);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kAround) - first + 1);
}

template <typename Items>
const auto& at(const Items& items, int index, int count) {
  return items[index >= 0 && index < count ? index : 0];
}

constexpr int kLastFrame = 10'000'000;
constexpr int kPresetCount = sizeof settings::kPresets / sizeof *settings::kPresets;

}  // namespace

void describe_parameters(ParamSet parameters) {
  if (PropertySet status = define_text(parameters, "status", "Status", "What VS3R is doing, and what to do when it cannot go on.", kStringLabel)) {
    set_string(status, prop::kDefault, "Ready.");
    set_int(status, prop::kPersistent, 0);
    set_int(status, prop::kEvaluateOnChange, 0);
    set_int(status, prop::kCanUndo, 0);
  }
  define(parameters, kParamPushButton, "analyze", "Analyze / Cancel",
         "Find camera and scene now, instead of at the first frame shown. Pressed while that runs: stop it.");
  if (PropertySet preset = define_choice(parameters, "preset", "Preset", "A look to start from; sets smoothness and strength.", 0)) {
    for (int i = 0; i < kPresetCount; ++i) set_string(preset, prop::kChoiceOption, shown(settings::kPresets[i].name).c_str(), i);
  }
  define_number(parameters, "smoothness", settings::kSmoothness);
  define_number(parameters, "strength", settings::kStrength);
  const std::pair<const char*, const settings::Choice*> choices[] = {{"framing", &settings::kFraming}, {"quality", &settings::kQuality}};
  for (const auto& [name, of] : choices) {
    if (PropertySet set = define_choice(parameters, name, of->label, of->help, of->initial)) {
      for (int i = 0; i < of->count; ++i) set_string(set, prop::kChoiceOption, shown(of->values[i]).c_str(), i);
    }
  }
  if (PropertySet view = define_choice(parameters, "view", "View", "What the viewer shows. Split: original left, stabilized right.", 0)) {
    int index = 0;
    for (const char* option : {"Stabilized", "Original", "Split"}) set_string(view, prop::kChoiceOption, option, index++);
  }
  if (PropertySet group = define(parameters, kParamGroup, "source_group", "Source", "")) set_int(group, prop::kGroupOpen, 0);
  if (PropertySet file = define_text(parameters, "file", "File", "The clip's media file, where the host does not name it by itself.", kStringFilePath)) {
    set_int(file, prop::kStringPathExists, 1);
    set_string(file, prop::kParent, "source_group");
  }
  if (PropertySet first = define(parameters, kParamInteger, "first_frame", "First Frame",
                                 "The number of the file's frame (the first is 0) with which the clip begins here, where its start is trimmed and the "
                                 "host does not name the frame by itself. -1: the whole file is shown.")) {
    set_int(first, prop::kDefault, -1);
    for (const char* low : {prop::kMin, prop::kDisplayMin}) set_int(first, low, -1);
    for (const char* high : {prop::kMax, prop::kDisplayMax}) set_int(first, high, kLastFrame);
    fix_in_time(first);
    set_string(first, prop::kParent, "source_group");
  }
  if (PropertySet state = define_text(parameters, "state", "State", "", kStringSingleLine)) {
    set_int(state, prop::kSecret, 1);
    set_int(state, prop::kEvaluateOnChange, 0);
    set_int(state, prop::kCanUndo, 0);
  }
  if (PropertySet redraw = define(parameters, kParamInteger, "redraw", "Redraw", "")) {
    set_int(redraw, prop::kSecret, 1);
    set_int(redraw, prop::kDefault, 0);
    set_int(redraw, prop::kPersistent, 0);
    set_int(redraw, prop::kCanUndo, 0);
    fix_in_time(redraw);
  }
}

Effect::Effect(ImageEffect handle) : handle_(handle) {
  suites().effect->getPropertySet(handle_, &properties_);
  ParamSet parameters = nullptr;
  suites().effect->getParamSet(handle_, &parameters);
  const std::pair<const char*, Param*> all[] = {{"status", &status_}, {"preset", &preset_}, {"smoothness", &smoothness_}, {"strength", &strength_},
                                                {"framing", &framing_}, {"quality", &quality_}, {"view", &view_}, {"file", &file_},
                                                {"first_frame", &first_frame_},
                                                {"state", &state_}, {"redraw", &redraw_}};
  for (const auto& [name, parameter] : all) {
    if (suites().parameter->paramGetHandle(parameters, name, parameter, nullptr) != kOk) *parameter = nullptr;
  }
  suites().effect->clipGetHandle(handle_, "Source", &source_, &source_properties_);
  suites().effect->clipGetHandle(handle_, "Output", &output_, nullptr);
  seen_arrivals_ = engine().arrivals();
}

Effect* Effect::of(const void* handle) {
  PropertySet set = nullptr;
  auto effect = static_cast<ImageEffect>(const_cast<void*>(handle));
  if (suites().effect->getPropertySet(effect, &set) != kOk) return nullptr;
  void* data = nullptr;
  suites().property->getPointer(set, prop::kInstanceData, 0, &data);
  return static_cast<Effect*>(data);
}

Controls Effect::controls() const {
  Controls out;
  const settings::Preset& preset = at(settings::kPresets, int_of(preset_), kPresetCount);
  out.file = bare(text_of(file_));
  out.first_frame = first_frame_ ? std::max(int_of(first_frame_), -1) : -1;
  out.state = text_of(state_);
  Json state;
  Json::parse(out.state, &state);
  // A host without buttons never told us that the preset was chosen: then numbers nobody touched are the preset's.
  bool is_applied = state["preset"].text(settings::kPresets[0].name) == preset.name;
  auto value = [is_applied](double shown_value, double initial, double of_preset) {
    return is_applied || shown_value != initial ? shown_value : of_preset;
  };
  double smoothness = value(double_of(smoothness_, settings::kSmoothness.initial), settings::kSmoothness.initial, preset.smoothness);
  out.strength = value(double_of(strength_, settings::kStrength.initial), settings::kStrength.initial, preset.strength);
  out.view = static_cast<View>(std::min(std::max(int_of(view_), 0), 2));
  out.settings.preset = preset.name;
  out.settings.values = {{settings::kSmoothness.key, smoothness},
                         {settings::kStrength.key, out.strength},
                         {settings::kFraming.key, at(settings::kFraming.values, int_of(framing_), settings::kFraming.count)},
                         {settings::kQuality.key, at(settings::kQuality.values, int_of(quality_), settings::kQuality.count)}};
  return out;
}

void Effect::preset_chosen() {
  const settings::Preset& preset = at(settings::kPresets, int_of(preset_), kPresetCount);
  if (smoothness_) suites().parameter->paramSetValue(smoothness_, preset.smoothness);
  if (strength_) suites().parameter->paramSetValue(strength_, preset.strength);
  change_state({{"preset", preset.name}});
}

void Effect::change_state(const std::map<std::string, Json>& changes) {
  Json before, after = Json::object();
  Json::parse(text_of(state_), &before);
  after.set("v", 1);
  for (const char* name : {"preset", "upload", "analysis", "findings"}) {
    auto change = changes.find(name);
    const Json& value = change == changes.end() ? before[name] : change->second;
    if (!value.is_null()) after.set(name, value);
  }
  set_text(state_, after.write());
}

void Effect::refresh() {
  std::string text, job_id;
  {
    std::lock_guard lock(mutex_);
    text = said_;
    job_id = job_id_;
  }
  if (!text.empty() && text != text_of(status_)) set_text(status_, text);
  Json state;
  Json::parse(text_of(state_), &state);
  Analysis analysis = engine().analysis(job_id);
  if (state_ && !job_id.empty() && analysis.is_over && state["analysis"].text() != job_id) {
    change_state({{"analysis", job_id}, {"findings", analysis.findings}});
  }
  int arrivals = engine().arrivals();
  if (arrivals != seen_arrivals_ && has_slate_.exchange(false) && redraw_) {
    suites().parameter->paramSetValue(redraw_, int_of(redraw_) + 1);
  }
  seen_arrivals_ = arrivals;
}

void Effect::set_text(Param parameter, const std::string& text) {
  if (parameter) suites().parameter->paramSetValue(parameter, text.c_str());
}

void Effect::say(const std::string& text) {
  std::lock_guard lock(mutex_);
  said_ = text;
}

}  // namespace vs3r
