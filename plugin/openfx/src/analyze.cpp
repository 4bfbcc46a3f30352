// SPDX-License-Identifier: Apache-2.0
// What the controls do: the preset, and Analyze, which sends the clip's pixels where the engine cannot read its file.
#include <climits>
#include <cmath>
#include <cstdio>

#include "effect.h"

namespace vs3r {
namespace {

using namespace ofx;

constexpr double kStart_s = 40;  // for an engine that has to be started first
constexpr double kButton_s = 3;  // longest that the button holds the host up where the engine reads the file itself
constexpr auto kPause = std::chrono::milliseconds(100);
constexpr double kProgress_s = 0.5;  // how often a slow engine lets the host ask whether to go on
constexpr int kMostFrames = 200000;
constexpr int kLargestSide = 16384;
constexpr const char* kReadingCancelled = "Reading the clip was cancelled.";

std::mutex g_uploads_mutex;
std::map<std::string, std::shared_ptr<const Upload>> g_uploads;

std::string rate_of(double rate) {
  if (!(rate > 0)) return "25";
  for (int base : {24, 30, 48, 60, 120}) {
    if (std::fabs(rate - base / 1.001) < 0.003) return std::to_string(base * 1000) + "/1001";
  }
  if (std::fabs(rate - std::round(rate)) < 1e-6) return std::to_string(std::lround(rate));
  return std::to_string(std::lround(rate * 1000)) + "/1000";
}

// What went wrong, for people.
std::string in_words(const Answer& answer) {
  if (answer.kind == Answer::Kind::kError) return answer.reply.error.text();
  std::string trouble = engine().trouble();
  return trouble.empty() ? "The engine does not answer." : trouble;
}

// Nothing failed yet: an engine is on its way up.
bool is_coming(const Answer& answer) {
  const EngineState state = engine().state();
  return answer.kind == Answer::Kind::kNoEngine && (state == EngineState::kStarting || state == EngineState::kUnknown);
}

}  // namespace

std::shared_ptr<const Upload> find_upload(const std::string& id) {
  std::lock_guard lock(g_uploads_mutex);
  auto found = g_uploads.find(id);
  return found == g_uploads.end() ? nullptr : found->second;
}

void keep_upload(std::shared_ptr<const Upload> upload) {
  {
    std::lock_guard lock(g_uploads_mutex);
    g_uploads[upload->id] = upload;
  }
  engine().hold_uploads(upload->engine);
}

void forget_uploads() {
  std::lock_guard lock(g_uploads_mutex);
  engine().hold_uploads("");
  g_uploads.clear();
}

Status Effect::changed(PropertySet in_args) {
  const std::string name = get_string(in_args, prop::kName);
  const bool is_by_user = get_string(in_args, prop::kChangeReason) == kChangeUserEdited;
  if (get_string(in_args, prop::kType) == kTypeParameter && is_by_user) {
    // Whatever was wrong, it may not be any more: the next render tells.
    if (has_error_.exchange(false)) clear_error(handle_);
    if (name == "preset") preset_chosen();
    if (name == "analyze") analyze_or_cancel();
  }
  // Our own changes come back here as well.
  if (name != "status" && name != "redraw" && name != "state") refresh();
  return kOk;
}

void Effect::analyze_or_cancel() {
  const Controls now = controls();
  Json before;
  Json::parse(now.state, &before);
  protocol::Source source;
  source.path = source_path();
  if (source.path.empty()) source.path = now.file;
  if (source.path.empty()) source.upload = before["upload"].text();
  std::string job_id;
  {
    std::lock_guard lock(mutex_);
    if (job_source_ == source.name()) job_id = job_id_;
  }
  Analysis running = engine().analysis(job_id);
  if (!job_id.empty() && !running.is_over && engine().state() == EngineState::kRunning && !engine().is_paused(source.name())) {
    engine().pause(source.name(), true);
    Answer answer = engine().cancel(job_id);
    say(answer.kind == Answer::Kind::kOk ? "The analysis was cancelled." : in_words(answer));
    return;
  }
  engine().pause(source.name(), false);
  std::string unnamed = source.path.empty() ? "" : problem_of_path(source.path);
  if (!unnamed.empty()) {
    say(unnamed);
    return;
  }
  if (source.path.empty()) {
    source.upload = "u-" + Engine::random_name();
    std::string problem = upload_clip(source.upload);
    if (!problem.empty()) {
      say(problem);
      return;
    }
    change_state({{"preset", before["preset"].text(now.settings.preset)}, {"upload", source.upload}, {"analysis", {}}, {"findings", {}}});
  }
  has_slate_ = true;
  const Deadline press = Deadline::in(kButton_s);
  Answer answer;
  while (true) {
    answer = engine().ask("analyze", protocol::analyze(source, now.settings), {}, press);
    if (!is_coming(answer) || press.is_over()) break;
    std::this_thread::sleep_for(kPause);
  }
  if (answer.kind != Answer::Kind::kOk) {
    say(in_words(answer));
    return;
  }
  const std::string& started = answer.reply.body["job_id"].text();
  engine().watch(started);
  say("Analysing.");
  std::lock_guard lock(mutex_);
  job_id_ = started;
  job_source_ = source.name();
}

std::string Effect::upload_clip(const std::string& id) {
  double range[2] = {get_double(source_properties_, prop::kFrameRange, 0, 0), get_double(source_properties_, prop::kFrameRange, 0, 1)};
  if (!source_ || !get_int(source_properties_, prop::kConnected, 0)) return "There is no clip to analyse.";
  if (!(range[1] >= range[0]) || range[1] - range[0] > kMostFrames) return "The host does not say where the clip ends. Name its file under Source.";
  if (range[1] > range[0] && !get_int(suites().host, prop::kTemporalClipAccess, 0)) {
    return "This host shows one frame at a time only. Name the clip's file under Source.";
  }
  auto upload = std::make_shared<Upload>();
  upload->id = id;
  upload->first = static_cast<int>(std::lround(range[0]));
  const int end = static_cast<int>(std::lround(range[1])) + 1;
  const std::string rate = rate_of(get_double(source_properties_, prop::kFrameRate, 25));
  Progress progress(handle_, "VS3R reads the clip");
  const Deadline start = Deadline::in(kStart_s);
  auto shown = Clock::now();
  bool is_cancelled = false;
  double fraction = 0;
  auto show = [&] {
    shown = Clock::now();
    is_cancelled = is_cancelled || !progress.update(fraction);
    return is_cancelled;
  };
  auto cancelled = [&] { return is_cancelled || (Clock::now() - shown > std::chrono::duration<double>(kProgress_s) && show()); };
  for (int time = upload->first; time < end;) {
    fraction = static_cast<double>(time - upload->first) / (end - upload->first);
    if (show()) return kReadingCancelled;
    ClipImage original(source_, time);
    if (!original.is_readable()) return "The host gives no picture for frame " + std::to_string(time) + ".";
    const Image& image = original.image();
    const MediaShape shape{width_of(image.picture), height_of(image.picture), 0, image.pixel_aspect};
    if (shape.width > kLargestSide || shape.height > kLargestSide) return "The picture is larger than 16384 pixels.";
    if (upload->signatures.empty()) upload->shape = shape;
    if (shape.width != upload->shape.width || shape.height != upload->shape.height) return "The clip changes its size at frame " + std::to_string(time) + ".";
    std::vector<uint8_t> pixels = packed(image);
    Json body = protocol::put_frames(id, shape.width, shape.height, rate,
                                     {{time - upload->first, format_of(image.depth), image.channels == 4 ? "rgba" : "rgb"}});
    Answer answer = engine().ask("put_frames", body, {{pixels.data(), pixels.size()}}, Deadline::in(protocol::kPut_s, cancelled));
    if (answer.kind == Answer::Kind::kAborted) return kReadingCancelled;
    if (upload->signatures.empty() && is_coming(answer) && !start.is_over()) {
      std::this_thread::sleep_for(kPause);
      continue;
    }
    if (answer.kind != Answer::Kind::kOk) return in_words(answer);
    if (!upload->signatures.empty() && answer.reply.engine != upload->engine) return "The engine was restarted. Press Analyze again.";
    upload->engine = answer.reply.engine;
    upload->signatures.push_back(signature(image));
    ++time;
  }
  keep_upload(upload);
  return "";
}

}  // namespace vs3r
