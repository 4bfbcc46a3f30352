// SPDX-License-Identifier: Apache-2.0
// The engine as this process sees it: found, started where none runs, asked from any thread. Nothing here knows of OpenFX.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "deadline.h"
#include "protocol.h"
#include "zmtp.h"

namespace vs3r {

enum class EngineState {
  kUnknown,       // nobody has asked yet
  kRunning,       // it answers
  kStarting,      // it is being started, or there is a wait before the next attempt
  kNotInstalled,  // nothing says how to start one
  kStartFailed,   // the launch program ended without an engine
  kOtherVersion,  // it speaks another protocol
  kRefused,       // it does not take our token
};

struct Answer {
  enum class Kind { kOk, kError, kNoEngine, kTimedOut, kAborted };
  Kind kind = Kind::kNoEngine;
  protocol::Reply reply;      // with kOk and kError
  std::vector<Part> buffers;  // with kOk
  EngineState in_the_way = EngineState::kUnknown;  // with kNoEngine, if that is known
};

struct MediaShape {
  int64_t width = 0, height = 0;
  int quarter_turns = 0;    // anticlockwise, until the picture is upright
  double pixel_aspect = 1;  // shown width of a pixel over its height
};

// What the engine knows of a clip.
struct Media {
  MediaShape shape;
  int64_t frames = 0;  // 0: not known
  double rate = 0;     // frames per second; 0: not known
};

// The state of an analysis that somebody waits for.
struct Analysis {
  std::string stage;
  double fraction = 0;
  bool is_over = false;
  Json findings;  // once it is done: what was learned of the camera
};

class Engine {
 public:
  ~Engine() { stop(); }

  // One request, from any thread. Never longer than the deadline, but for `transfer_s` while a reply is coming in.
  // Where no engine can be reached, one is being started afterwards, and the answer is kNoEngine.
  Answer ask(const std::string& type, const Json& body, const std::vector<PartView>& buffers, const Deadline& deadline,
             double transfer_s = 2.0);
  Answer cancel(const std::string& job_id);

  EngineState state() const { return state_; }
  // What is wrong and what to do; "" while nothing is.
  std::string trouble() const;
  // A start has just failed, and the next one is not due yet.
  bool is_resting() const;
  // Counts the starts that have failed: one that waits for an engine gives up when this goes up.
  int failed_starts() const { return failed_starts_; }
  const std::string& session() const { return session_; }
  // Names the engine's run: another one has none of our uploads.
  std::string instance() const;

  // From now on, until it is over, the session is kept alive and the job's progress is known.
  void watch(const std::string& job_id);
  Analysis analysis(const std::string& job_id) const;
  // The user has cancelled the analysis of that file or upload, in whichever instance: a host may have several for one clip.
  void pause(const std::string& source, bool is_paused);
  bool is_paused(const std::string& source) const;
  // Goes up whenever something that was waited for has arrived.
  int arrivals() const { return arrivals_; }
  void note_arrival() { ++arrivals_; }
  // The session is kept alive for the uploads of this run of the engine, until it ends; "": there are none.
  void hold_uploads(const std::string& run);

  // No thread and no connection is left. The next `ask` begins anew.
  void stop();

 private:
  // The same, but where no engine can be reached, none is started.
  Answer ask_running(const std::string& type, const Json& body, const std::vector<PartView>& buffers, const Deadline& deadline,
                     double transfer_s = 2.0);
  std::unique_ptr<Dealer> connected(bool to_control, const Deadline& deadline, EngineState* in_the_way);
  Answer ask_over(std::unique_ptr<Dealer> dealer, const std::string& type, const Json& body, const std::vector<PartView>& buffers,
                  const Deadline& deadline, double transfer_s, bool is_pooled);
  void want_engine(EngineState because);
  void wake();
  void keep();
  void launch();
  void poll_jobs();
  void ping(const std::string& run);

  std::string session_ = random_name();
  std::atomic<EngineState> state_{EngineState::kUnknown};
  std::atomic<int> failed_starts_{0}, arrivals_{0};
  std::atomic<uint64_t> next_id_{1};
  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;  // of everything below
  std::condition_variable woken_;
  std::thread keeper_;
  bool engine_wanted_ = false, was_woken_ = false;
  protocol::Connection connection_;
  std::string uploads_run_;  // the engine's run that holds our uploads
  std::vector<std::unique_ptr<Dealer>> idle_;
  std::map<std::string, Analysis> analyses_;
  std::set<std::string> paused_;
  Clock::time_point next_launch_{};
  double launch_pause_s_ = 1;

 public:
  static std::string random_name();  // 16 characters, different each time
};

}  // namespace vs3r
