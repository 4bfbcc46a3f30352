// SPDX-License-Identifier: Apache-2.0
// One instance of the effect: its controls, what its frames are bound to, what it tells the user.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine.h"
#include "host.h"
#include "protocol.h"

namespace vs3r {

enum class View { kStabilized, kOriginal, kSplit };

// The values of the controls at the time of one action.
struct Controls {
  protocol::Settings settings;
  double strength = 100;
  View view = View::kStabilized;
  std::string file, state;
  int first_frame = -1;  // of the file, where the host's clip begins; -1: the host shows the whole file
};

// Pixels of a clip that were sent to the engine, and what they looked like.
struct Upload {
  std::string id, engine;  // engine: the run that holds them
  int first = 0;           // host time of frame 0
  MediaShape shape;
  std::vector<Signature> signatures;
};

// The uploads of this process's session, by id. What is not here must be uploaded again.
std::shared_ptr<const Upload> find_upload(const std::string& id);
void keep_upload(std::shared_ptr<const Upload> upload);
void forget_uploads();

// A depth's name in PROTOCOL.md.
const char* format_of(Depth depth);

// Why this cannot be the file's name; "" where it may be.
std::string problem_of_path(const std::string& path);

// What one frame of the host is to the engine; with `problem`, why it is nothing.
struct Binding {
  protocol::Source source;
  int64_t frame_index = 0;  // not where only the file is named: see file_frame
  ofx::Time time = 0;
  bool is_named_by_host = false, is_frame_named = false;
  std::shared_ptr<const Upload> upload;
  std::string problem;
};

// A frame that is ready, with its pixels, and the media that it is of.
struct Delivered {
  Answer answer;
  protocol::FrameReply frame;
  MediaShape shape;
};

class Effect {
 public:
  explicit Effect(ofx::ImageEffect handle);
  static Effect* of(const void* handle);

  ofx::Status render(ofx::PropertySet in_args);
  ofx::Status is_identity(ofx::PropertySet in_args, ofx::PropertySet out_args);
  ofx::Status changed(ofx::PropertySet in_args);
  // On the host's main thread, in an action that may set values: status text, state, and a redraw where results came in.
  void refresh();

 private:
  Controls controls() const;
  std::string source_path() const;
  Binding bind(const Controls& controls, ofx::PropertySet in_args, ofx::Time time) const;
  // The clip as the host shows it: the time of its first frame, and how many there are; 0 and 0 where the host does not say.
  std::pair<ofx::Time, int64_t> shown_frames() const;
  // The file's frame that the host shows at a time; "" or why that cannot be known.
  std::string file_frame(const Controls& controls, const Media& media, ofx::Time time, int64_t* frame) const;
  // What the engine is asked for; "" or why that cannot be known.
  std::string request_for(const Binding& binding, const Controls& controls, const Media& media, const Image& to,
                          protocol::FrameRequest* request) const;
  // "" where the frame has come; else what to tell the user.
  std::string frame_within(const Binding& binding, const Controls& controls, const Image& to, bool is_final, const Deadline& deadline,
                           Delivered* out);
  ofx::Status pass_through(const Image& to, const ofx::RectI& window, ofx::Time time, const std::string& slate) const;
  void preset_chosen();
  void analyze_or_cancel();
  std::string upload_clip(const std::string& id);
  static void set_text(ofx::Param parameter, const std::string& text);  // nothing where the host has no such parameter
  // What is saved with the project, with these changes; null leaves something out.
  void change_state(const std::map<std::string, Json>& changes);
  void say(const std::string& text);

  ofx::ImageEffect handle_;
  ofx::PropertySet properties_ = nullptr;
  ofx::ImageClip source_ = nullptr, output_ = nullptr;
  ofx::PropertySet source_properties_ = nullptr;
  ofx::Param status_ = nullptr, preset_ = nullptr, smoothness_ = nullptr, strength_ = nullptr, framing_ = nullptr, quality_ = nullptr,
             view_ = nullptr, file_ = nullptr, first_frame_ = nullptr, state_ = nullptr, redraw_ = nullptr;
  std::atomic<bool> has_slate_{false}, has_error_{false};
  int seen_arrivals_ = 0;

  mutable std::mutex mutex_;  // of what follows
  std::string said_, job_id_, job_source_;  // the analysis that was last heard of, and of what
};

// The process's engine: one for all instances.
Engine& engine();

// Describes clips and parameters of one context.
void describe_parameters(ofx::ParamSet parameters);

}  // namespace vs3r
