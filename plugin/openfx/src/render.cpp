// SPDX-License-Identifier: Apache-2.0
// Rendering: which frame of which media the host means, that frame from the engine, and what is shown until it comes.
#include <climits>
#include <cmath>
#include <cstdio>
#include <optional>

#include "effect.h"

namespace vs3r {
namespace {

using namespace ofx;

constexpr double kInteractive_s = 0.25;
constexpr double kReserve_s = 0.06;  // of the interactive budget, for the way back
constexpr double kFinalWait_s = 2;   // how long the engine may hold one reply back
constexpr double kTransfer_s = 2, kFinalTransfer_s = 30;
constexpr double kSilence_s = 60;   // a final render gives up on an engine that cannot be reached for this long
constexpr double kStall_s = 600;    // and on an analysis that does not move
constexpr int kRoundingPixels = 1;
constexpr double kSameShape = 0.02;  // of a picture's aspect, what rounding may change
constexpr double kShortestPause_s = 0.02, kLongestPause_s = 1;
constexpr double kLastTime = 1e9;
constexpr double kSameRate = 0.0005;  // 29.97 and 30 are two
constexpr double kSameTime = 1e-3;    // of a frame
constexpr double kRoundedFrames = 2;  // hosts round a clip's ends
// Differences of signatures. One picture at a half and a quarter of its size: up to 0.0063 in real clips; neighbours in a
// hand-held one: 0.004 to 0.019.
constexpr float kOtherClip = 0.02f, kOtherFrame = 0.006f;
constexpr const char* kSenseless = "The engine's answer makes no sense. Install the same version of both.";

// The frame that is shown at a time: the nearest one. Half way it is the earlier: a second field is there, and belongs to it.
int64_t frame_at(Time time) {
  constexpr double kNoise = 1e-6;
  return std::fabs(time) <= kLastTime ? static_cast<int64_t>(std::ceil(time - 0.5 - kNoise)) : -1;
}

Depth depth_of(const std::string& format) {
  return format == "uint8" ? Depth::kByte : format == "uint16" ? Depth::kShort : format == "half" ? Depth::kHalf : Depth::kFloat;
}

// The media as the host shows it in `to`: size and pixels as they are then, and the turns that lead there.
MediaShape as_shown(const MediaShape& media, bool is_named_by_host, const Image& to) {
  const bool is_odd = media.quarter_turns % 2 != 0;
  MediaShape upright = media;
  if (is_odd) upright = {media.height, media.width, media.quarter_turns, 1 / media.pixel_aspect};
  if (is_named_by_host) return upright;
  // Other hosts may show what is stored, on its side or squeezed. Their picture's shape tells.
  const double wanted = width_of(to.picture) * to.pixel_aspect / std::max(1, height_of(to.picture));
  MediaShape nearest = upright;
  double least = HUGE_VAL;
  for (MediaShape one : {upright, MediaShape{media.width, media.height, is_odd ? 0 : media.quarter_turns, media.pixel_aspect}}) {
    for (double pixel_aspect : {one.pixel_aspect, to.pixel_aspect}) {
      one.pixel_aspect = pixel_aspect;
      double shape = static_cast<double>(one.width) * pixel_aspect / static_cast<double>(one.height);
      double difference = std::fabs(std::log(shape / wanted));
      if (difference < least - kSameShape) {
        least = difference;
        nearest = one;
      }
    }
  }
  return nearest;
}

// The smallest picture of the engine that is not smaller than the host's, either way.
int reduction_for(const MediaShape& shown, const Image& to) {
  const double across = static_cast<double>(shown.width), down = static_cast<double>(shown.height);
  const double widening = shown.pixel_aspect / to.pixel_aspect;
  const double scale = std::min(width_of(to.picture) / (across * widening), height_of(to.picture) / down) * std::max(1.0, widening);
  for (int reduction : {8, 4, 2}) {
    if (std::ceil(across / reduction) + kRoundingPixels > scale * across) return reduction;
  }
  return 1;
}

std::string in_words(const std::string& stage, double fraction) {
  if (stage == "render") return "VS3R rendering";
  if (stage == "open") return "VS3R opening the file";
  char text[64];
  std::snprintf(text, sizeof text, "VS3R analysing %.0f %%", 100 * fraction);
  return text;
}

std::mutex g_media_mutex;
std::map<std::string, Media> g_media;

std::optional<Media> known_media(const Binding& binding) {
  if (binding.upload) return Media{binding.upload->shape, 0, 0};
  std::lock_guard lock(g_media_mutex);
  auto found = g_media.find(binding.source.path);
  return found == g_media.end() ? std::nullopt : std::optional(found->second);
}

Media learned_media(const std::string& path, const Json& probed) {
  Media media;
  media.shape.width = std::max<int64_t>(1, probed["width"].integer());
  media.shape.height = std::max<int64_t>(1, probed["height"].integer());
  media.shape.quarter_turns = static_cast<int>((probed["rotation_deg"].integer() / 90 % 4 + 4) % 4);
  media.shape.pixel_aspect = protocol::ratio(probed["pixel_aspect"].text());
  const auto& range = probed["available_range"].items();
  if (range.size() == 2) media.frames = range[1].integer() - range[0].integer();
  if (!probed["rate"].is_null()) media.rate = protocol::ratio(probed["rate"].text());
  std::lock_guard lock(g_media_mutex);
  return g_media[path] = media;
}

void forget_media(const std::string& path) {
  std::lock_guard lock(g_media_mutex);
  g_media.erase(path);
}

std::string before_the_first(const std::string& path) { return "This frame lies before the first frame of " + path + "."; }

bool is_reduced(const MediaShape& shape, int reduction, const protocol::FrameReply& frame) {
  return frame.width == (shape.width + reduction - 1) / reduction && frame.height == (shape.height + reduction - 1) / reduction;
}

}  // namespace

const char* format_of(Depth depth) {
  return depth == Depth::kByte ? "uint8" : depth == Depth::kShort ? "uint16" : depth == Depth::kHalf ? "half" : "float32";
}

std::string problem_of_path(const std::string& path) {
  if (!is_utf8(path)) return "The name of the clip's file is not UTF-8 text. Rename the file.";
  const bool has_drive = path.size() > 1 && path[1] == ':';
  if (path[0] == '/' || path[0] == '\\' || has_drive) return "";
  return "The clip's file must be named with its whole path, from the root folder on. \"" + path + "\" is a part of one.";
}

std::string Effect::source_path() const { return get_string(properties_, prop::kSrcFilePath); }

std::pair<Time, int64_t> Effect::shown_frames() const {
  double first = get_double(source_properties_, prop::kFrameRange, 0, 0), last = get_double(source_properties_, prop::kFrameRange, 0, 1);
  // Some hosts say "for ever", and a host that shows one frame at a time gives that frame as the range.
  bool is_known = first > INT_MIN / 2 && last < INT_MAX / 2 && last > first;
  if (!is_known) return {0, 0};
  return {first, static_cast<int64_t>(std::llround(last - first)) + 1};
}

std::string Effect::file_frame(const Controls& controls, const Media& media, Time time, int64_t* frame) const {
  const auto [first, count] = shown_frames();
  const double offset = time - first;
  const double host_rate = get_double(source_properties_, prop::kFrameRate, get_double(properties_, prop::kFrameRate, 0));
  const bool is_one_rate = host_rate <= 0 || media.rate <= 0 || std::fabs(host_rate / media.rate - 1) < kSameRate;
  auto is_count = [count = count](double expected) { return std::fabs(static_cast<double>(count) - expected) <= kRoundedFrames; };
  const double frames = static_cast<double>(media.frames);
  *frame = frame_at(offset);
  if (!(std::fabs(offset) <= kLastTime)) return "";  // no time at all: no frame
  if (controls.first_frame < 0 && (media.frames == 0 || is_count(frames))) return "";
  if (!is_one_rate) {
    // The whole file at the host's rate: the frame that is on at that time.
    if (controls.first_frame < 0 && count > 0 && is_count(frames * host_rate / media.rate)) {
      *frame = static_cast<int64_t>(std::floor(offset * media.rate / host_rate + kSameTime));
      return "";
    }
    char text[200];
    std::snprintf(text, sizeof text, "The project runs at %.6g frames a second, the file at %.6g: which frame is shown cannot be known. "
                  "Give the project the file's rate.", host_rate, media.rate);
    return text;
  }
  if (controls.first_frame >= 0) {
    *frame += controls.first_frame;
  } else if (count > 0) {
    return "The host shows " + std::to_string(count) + " of the file's " + std::to_string(media.frames) +
           " frames and does not say which. Set First Frame under Source.";
  }
  return "";
}

Binding Effect::bind(const Controls& controls, PropertySet in_args, Time time) const {
  Binding out;
  std::string path = source_path();
  std::optional<int> frame = find_int(in_args, prop::kSrcFrame);
  if (!path.empty() || !controls.file.empty()) {
    // Looked up at every render: a pasted effect belongs to the clip it now lies on.
    out.source.path = path.empty() ? controls.file : path;
    out.is_named_by_host = !path.empty();
    out.time = time;
    out.is_frame_named = frame && out.is_named_by_host;
    if (out.is_frame_named) out.frame_index = *frame;
    out.problem = problem_of_path(out.source.path);
    if (out.problem.empty() && out.frame_index < 0) out.problem = before_the_first(out.source.path);
    return out;
  }
  Json state;
  Json::parse(controls.state, &state);
  out.upload = find_upload(state["upload"].text());
  const char* press = suites().progress_v1 || suites().progress_v2 ? "Press Analyze." : "Press Analyze, or name the clip's file under Source.";
  if (!out.upload) {
    out.problem = std::string("This clip has not been analysed. ") + press;
  } else if (std::string now = engine().instance(); !now.empty() && now != out.upload->engine) {
    out.problem = std::string("The engine was restarted and has lost this clip's pictures. ") + press;
  } else {
    out.source.upload = out.upload->id;
    out.frame_index = frame_at(time - out.upload->first);
    if (out.frame_index < 0 || out.frame_index >= static_cast<int64_t>(out.upload->signatures.size())) {
      out.problem = std::string("This frame lies outside the analysed part of the clip. ") + press;
      return out;
    }
    ClipImage original(source_, time);
    if (!original.is_readable()) {
      out.problem = "The host gives no picture for this frame.";
      return out;
    }
    const Signature seen = signature(original.image());
    const float here = difference(seen, out.upload->signatures[static_cast<size_t>(out.frame_index)]);
    float least = here;
    for (const Signature& one : out.upload->signatures) least = std::min(least, difference(seen, one));
    if (here >= kOtherClip) {
      out.problem = std::string("The clip is another one than the one analysed. ") + press;
    } else if (here > 2 * least + kOtherFrame) {
      out.problem = std::string("The clip's frames lie at other times than when it was analysed. ") + press;
    }
  }
  return out;
}

std::string Effect::request_for(const Binding& binding, const Controls& controls, const Media& media, const Image& to,
                                protocol::FrameRequest* request) const {
  request->source = binding.source;
  request->settings = controls.settings;
  request->frame_index = binding.frame_index;
  if (!binding.upload && !binding.is_frame_named) {
    std::string problem = file_frame(controls, media, binding.time, &request->frame_index);
    if (!problem.empty()) return problem;
    if (request->frame_index < 0) return before_the_first(binding.source.path);
  }
  request->format = format_of(to.depth);
  request->reduction = reduction_for(as_shown(media.shape, binding.is_named_by_host, to), to);
  return "";
}

std::string Effect::frame_within(const Binding& binding, const Controls& controls, const Image& to, bool is_final, const Deadline& deadline,
                                 Delivered* out) {
  Answer& answer = out->answer;
  protocol::FrameReply& frame = out->frame;
  protocol::FrameRequest request;
  const int starts = engine().failed_starts();
  const double transfer_s = is_final ? kFinalTransfer_s : kTransfer_s;
  auto heard = Clock::now(), moved = heard;
  double fraction = -1;
  std::optional<Media> media = known_media(binding);
  bool is_probed_anew = false;
  std::string news = "VS3R is waiting for its engine";
  while (!deadline.is_over()) {
    double pause_s = 0.05;
    Deadline turn = is_final ? deadline.at_most(media ? protocol::kReply_s + kFinalWait_s : protocol::kProbe_s) : deadline;
    if (!media) {
      answer = engine().ask("probe", protocol::probe(binding.source), {}, turn, transfer_s);
      if (answer.kind == Answer::Kind::kOk) {
        media = learned_media(binding.source.path, answer.reply.body);
        continue;
      }
    } else {
      if (std::string problem = request_for(binding, controls, *media, to, &request); !problem.empty()) return problem;
      request.wait_s = is_final ? kFinalWait_s : std::max(0.0, deadline.left_s() - kReserve_s);
      request.analyze = is_final || !engine().is_paused(binding.source.name());
      answer = engine().ask("frame", protocol::frame(request), {}, turn, transfer_s);
    }
    switch (answer.kind) {
      case Answer::Kind::kOk: {
        size_t buffer_size = answer.buffers.empty() ? 0 : answer.buffers[0].size;
        if (!protocol::parse_frame(answer.reply.body, buffer_size, &frame)) return kSenseless;
        if (frame.is_ready && is_reduced(media->shape, request.reduction, frame)) {
          out->shape = media->shape;
          return "";
        }
        if (frame.is_ready) {
          // Another file lies there under the same name by now.
          if (binding.upload || is_probed_anew) return kSenseless;
          forget_media(binding.source.path);
          media.reset();
          is_probed_anew = true;
          continue;
        }
        engine().watch(frame.job_id);
        {
          std::lock_guard lock(mutex_);
          if (!frame.job_id.empty()) job_id_ = frame.job_id, job_source_ = binding.source.name();
        }
        news = in_words(frame.stage, frame.fraction);
        heard = Clock::now();
        if (frame.fraction != fraction) moved = heard;
        fraction = frame.fraction;
        pause_s = std::clamp(frame.retry_s, kShortestPause_s, kLongestPause_s);
        break;
      }
      case Answer::Kind::kError: {
        const protocol::Error& error = answer.reply.error;
        heard = Clock::now();
        if (error.code == "not-analyzed") return "The analysis was cancelled. Press Analyze.";
        if (error.code == "unknown-source") return "The engine has lost this clip's pictures. Press Analyze.";
        if (error.code != "queue-full" && error.code != "engine-stopping" && error.code != "still-reading") return error.text();
        news = error.text();
        pause_s = 0.25;
        break;
      }
      case Answer::Kind::kAborted: return "aborted";
      case Answer::Kind::kNoEngine: {
        std::string trouble = engine().trouble();
        if (!trouble.empty()) news = trouble;
        if (engine().failed_starts() != starts || engine().is_resting() || (!is_final && engine().state() != EngineState::kStarting)) return news;
        break;
      }
      case Answer::Kind::kTimedOut: break;
    }
    if (!is_final && (answer.kind == Answer::Kind::kNoEngine || deadline.left_s() < kReserve_s)) break;
    auto seconds_since = [](Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); };
    if (is_final && seconds_since(heard) > kSilence_s) return news == "" ? "The engine does not answer." : "The engine does not answer. " + news;
    if (is_final && seconds_since(moved) > kStall_s) return "The analysis has not moved for ten minutes. Press Analyze twice, or run \"vs3r engine logs\".";
    for (Deadline rest = deadline.at_most(pause_s); !rest.is_over();) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return news;
}

Status Effect::pass_through(const Image& to, const RectI& window, Time time, const std::string& slate) const {
  ClipImage original(source_, time);
  // A clip without media is transparent black.
  copy_picture(original.is_readable() ? original.image() : Image(), to, window);
  if (!slate.empty()) draw_slate(slate, to, window);
  return kOk;
}

Status Effect::render(PropertySet in_args) {
  const Time time = get_double(in_args, prop::kTime, 0);
  const RectI window = get_rect(in_args, prop::kRenderWindow);
  ClipImage output(output_, time);
  if (!output.exists()) return kFailed;
  const Image& to = output.image();
  if (is_empty(window) || is_empty(to.bounds)) return kOk;
  if (!output.is_readable()) return kErrImageFormat;
  const Controls now = controls();
  bool is_thumbnail = get_string(in_args, prop::kThumbnailRender) == "true" || get_int(source_properties_, prop::kClipThumbnail, 0) != 0;
  if (is_thumbnail || now.view == View::kOriginal || now.strength == 0) return pass_through(to, window, time, "");

  const bool is_final = get_int(in_args, prop::kInteractiveRender, 0) == 0;
  auto aborted = [this] { return suites().effect->abort(handle_) != 0; };
  const Deadline deadline = is_final ? Deadline{Clock::time_point::max(), aborted} : Deadline::in(kInteractive_s, aborted);
  const Binding binding = bind(now, in_args, time);
  Delivered got;
  const std::string problem = binding.problem.empty() ? frame_within(binding, now, to, is_final, deadline, &got) : binding.problem;
  if (problem.empty()) {
    const protocol::FrameReply& frame = got.frame;
    const MediaShape shown = as_shown(got.shape, binding.is_named_by_host, to);
    EngineFrame stabilized{got.answer.buffers[0].data.get(), frame.width, frame.height, frame.row_bytes, depth_of(frame.format)};
    std::vector<uint8_t> turned;
    if (shown.quarter_turns != 0) turned = turn(&stabilized, shown.quarter_turns);
    stabilized.pixel_aspect = shown.pixel_aspect;
    RectI right = window;
    if (now.view == View::kSplit) {
      int middle = to.picture.x1 + width_of(to.picture) / 2;
      RectI left = intersection(window, {INT_MIN, INT_MIN, middle, INT_MAX});
      pass_through(to, left, time, "");
      right.x1 = std::max(right.x1, middle);
      if (!is_empty(right)) draw_frame(stabilized, to, right);
      draw_split(to, window, middle);
    } else {
      draw_frame(stabilized, to, right);
    }
    say("Stabilized.");
    if (has_error_.exchange(false)) clear_error(handle_);
    return kOk;
  }
  if (deadline.is_aborted()) return kFailed;
  say(problem);
  if (is_final) {
    has_error_ = true;
    show_error(handle_, "VS3R: " + problem);
    // A host that goes on all the same must not take what lies in its buffer, perhaps the original, for the frame.
    copy_picture(Image(), to, window);
    draw_slate(problem, to, window);
    return kFailed;
  }
  has_slate_ = true;
  return pass_through(to, window, time, problem);
}

Status Effect::is_identity(PropertySet in_args, PropertySet out_args) {
  const Controls now = controls();
  if (now.view != View::kOriginal && now.strength != 0) return kReplyDefault;
  set_string(out_args, prop::kName, "Source");
  set_double(out_args, prop::kTime, get_double(in_args, prop::kTime, 0));
  return kOk;
}

}  // namespace vs3r
