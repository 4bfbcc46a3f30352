// SPDX-License-Identifier: Apache-2.0
// Finding, starting and asking the engine.
#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <exception>

#include "launch.h"

namespace vs3r {
namespace {

constexpr double kConnect_s = 2, kLaunch_s = 35, kLongestPause_s = 30;
constexpr size_t kIdleConnections = 8, kRememberedAnalyses = 64;
constexpr double kKeeperPause_s = 0.5;

bool read_connection(protocol::Connection* out) {
  std::string text;
  return protocol::read_file(protocol::connection_directory() + "/engine.json", &text) && protocol::parse_connection(text, out);
}

// That run of the engine is still the one to talk to.
bool is_running(const std::string& run) {
  protocol::Connection now;
  return read_connection(&now) && now.engine == run && may_be_running(now.pid);
}

}  // namespace

Answer Engine::ask(const std::string& type, const Json& body, const std::vector<PartView>& buffers, const Deadline& deadline,
                   double transfer_s) {
  Answer answer = ask_running(type, body, buffers, deadline, transfer_s);
  want_engine(answer.in_the_way);
  return answer;
}

Answer Engine::ask_running(const std::string& type, const Json& body, const std::vector<PartView>& buffers, const Deadline& deadline,
                           double transfer_s) {
  std::unique_ptr<Dealer> dealer;
  while (true) {
    {
      std::lock_guard lock(mutex_);
      if (idle_.empty()) break;
      dealer = std::move(idle_.back());
      idle_.pop_back();
    }
    if (dealer->is_alive(deadline)) break;
    dealer.reset();
  }
  Answer none;
  if (!dealer) dealer = connected(false, deadline, &none.in_the_way);
  if (!dealer && deadline.is_aborted()) none.kind = Answer::Kind::kAborted;
  if (!dealer) return none;
  return ask_over(std::move(dealer), type, body, buffers, deadline, transfer_s, true);
}

Answer Engine::ask_over(std::unique_ptr<Dealer> dealer, const std::string& type, const Json& body, const std::vector<PartView>& buffers,
                        const Deadline& deadline, double transfer_s, bool is_pooled) {
  const std::string id = std::to_string(next_id_++);
  const std::string request = protocol::encode_request(type, id, session_, body);
  std::vector<PartView> parts = {{request.data(), request.size()}};
  parts.insert(parts.end(), buffers.begin(), buffers.end());
  Answer answer;
  std::vector<Part> received;
  WireState state = dealer->send(parts, deadline);
  while (state == WireState::kOk) {
    state = dealer->receive(&received, deadline, transfer_s);
    if (state != WireState::kOk) break;
    std::string_view text(reinterpret_cast<const char*>(received[0].data.get()), received[0].size);
    if (!protocol::parse_reply(text, &answer.reply)) {
      state = WireState::kClosed;
    } else if (answer.reply.id == id || answer.reply.id.empty()) {
      break;
    }
  }
  if (state == WireState::kOk) {
    received.erase(received.begin());
    answer.buffers = std::move(received);
    answer.kind = answer.reply.is_ok ? Answer::Kind::kOk : Answer::Kind::kError;
    state_ = answer.reply.error.code == "protocol-version" ? EngineState::kOtherVersion : EngineState::kRunning;
    std::lock_guard lock(mutex_);
    launch_pause_s_ = 1;
    if (is_pooled && idle_.size() < kIdleConnections) idle_.push_back(std::move(dealer));
    return answer;
  }
  // A connection that missed its reply is thrown away: the reply may still come.
  if (deadline.is_aborted()) {
    answer.kind = Answer::Kind::kAborted;
  } else if (state == WireState::kTimedOut) {
    answer.kind = Answer::Kind::kTimedOut;
  } else {
    answer.kind = Answer::Kind::kNoEngine;
    answer.in_the_way = EngineState::kStarting;
  }
  return answer;
}

Answer Engine::cancel(const std::string& job_id) {
  Deadline deadline = Deadline::in(protocol::kReply_s);
  Answer answer;
  std::unique_ptr<Dealer> dealer = connected(true, deadline, &answer.in_the_way);
  if (dealer) answer = ask_over(std::move(dealer), "cancel", protocol::job(job_id), {}, deadline, 2.0, false);
  want_engine(answer.in_the_way);
  return answer;
}

std::unique_ptr<Dealer> Engine::connected(bool to_control, const Deadline& deadline, EngineState* in_the_way) {
  protocol::Connection connection;
  if (!read_connection(&connection)) {
    *in_the_way = EngineState::kStarting;
    return nullptr;
  }
  if (!protocol::same_major(connection.protocol)) {
    *in_the_way = EngineState::kOtherVersion;
    return nullptr;
  }
  if (!may_be_running(connection.pid)) {
    *in_the_way = EngineState::kStarting;
    return nullptr;
  }
  auto dealer = std::make_unique<Dealer>();
  WireState state = dealer->open(to_control ? connection.control : connection.request, connection.username, connection.token,
                                 deadline.at_most(kConnect_s));
  if (state == WireState::kOk) {
    std::lock_guard lock(mutex_);
    connection_ = connection;
    return dealer;
  }
  // Too little time for a handshake says nothing about the engine.
  if (state == WireState::kTimedOut && deadline.is_over()) return nullptr;
  // One that is just ending hangs up as well.
  const bool is_refused = state == WireState::kRefused && is_running(connection.engine);
  *in_the_way = is_refused ? EngineState::kRefused : EngineState::kStarting;
  return nullptr;
}

std::string Engine::trouble() const {
  switch (state_.load()) {
    case EngineState::kUnknown:
    case EngineState::kRunning: return "";
    case EngineState::kStarting: return "The engine is being started.";
    case EngineState::kNotInstalled: return "The VS3R engine is not installed for this user. Install it, or run the vs3r program once.";
    case EngineState::kStartFailed: return "The VS3R engine does not start. Run \"vs3r doctor\" to see why.";
    case EngineState::kOtherVersion: return "Engine and plug-in are of different versions. Install the same version of both.";
    case EngineState::kRefused: return "The engine refuses this program. Run \"vs3r engine stop\" and try again.";
  }
  return "";
}

bool Engine::is_resting() const {
  const EngineState now = state_;
  std::lock_guard lock(mutex_);
  return (now == EngineState::kNotInstalled || now == EngineState::kStartFailed) && Clock::now() < next_launch_;
}

std::string Engine::instance() const {
  std::lock_guard lock(mutex_);
  return connection_.engine;
}

void Engine::watch(const std::string& job_id) {
  if (job_id.empty()) return;
  {
    std::lock_guard lock(mutex_);
    if (analyses_.count(job_id)) return;
    if (analyses_.size() >= kRememberedAnalyses) {
      auto over = std::find_if(analyses_.begin(), analyses_.end(), [](const auto& one) { return one.second.is_over; });
      analyses_.erase(over == analyses_.end() ? analyses_.begin() : over);
    }
    analyses_[job_id];
  }
  wake();
}

Analysis Engine::analysis(const std::string& job_id) const {
  std::lock_guard lock(mutex_);
  auto found = analyses_.find(job_id);
  if (found != analyses_.end()) return found->second;
  Analysis forgotten;
  forgotten.is_over = true;
  return forgotten;
}

void Engine::pause(const std::string& source, bool is_paused) {
  std::lock_guard lock(mutex_);
  if (is_paused) paused_.insert(source);
  if (!is_paused) paused_.erase(source);
}

bool Engine::is_paused(const std::string& source) const {
  std::lock_guard lock(mutex_);
  return paused_.count(source) != 0;
}

void Engine::hold_uploads(const std::string& run) {
  {
    std::lock_guard lock(mutex_);
    uploads_run_ = run;
  }
  if (!run.empty()) wake();
}

void Engine::want_engine(EngineState because) {
  if (because == EngineState::kUnknown) return;
  if (because == EngineState::kStarting) {
    EngineState now = state_;
    // A failure stays visible while the next attempt is made.
    if (now == EngineState::kUnknown || now == EngineState::kRunning) state_ = EngineState::kStarting;
    {
      std::lock_guard lock(mutex_);
      engine_wanted_ = true;
    }
    wake();
  } else {
    state_ = because;
    ++failed_starts_;
  }
}

void Engine::wake() {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  was_woken_ = true;
  if (!keeper_.joinable()) keeper_ = std::thread([this] { keep(); });
  woken_.notify_all();
}

void Engine::stop() {
  std::thread keeper;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    keeper = std::move(keeper_);
    woken_.notify_all();
  }
  if (keeper.joinable()) keeper.join();
  std::lock_guard lock(mutex_);
  idle_.clear();
  analyses_.clear();
  paused_.clear();
  engine_wanted_ = was_woken_ = false;
  next_launch_ = {};
  launch_pause_s_ = 1;
  state_ = EngineState::kUnknown;
  stopping_ = false;
}

void Engine::keep() {
  auto pinged = Clock::time_point();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    bool has_work = engine_wanted_ || !uploads_run_.empty();
    for (const auto& [id, analysis] : analyses_) has_work |= !analysis.is_over;
    auto is_called = [this] { return was_woken_ || stopping_; };
    if (has_work) {
      woken_.wait_for(lock, std::chrono::duration<double>(kKeeperPause_s), is_called);
    } else {
      woken_.wait(lock, is_called);
    }
    was_woken_ = false;
    if (stopping_) break;
    bool must_launch = engine_wanted_ && Clock::now() >= next_launch_;
    const std::string run = uploads_run_;
    lock.unlock();
    try {
      if (must_launch) launch();
      poll_jobs();
      if (!run.empty() && Clock::now() - pinged > std::chrono::duration<double>(protocol::kPing_s)) {
        pinged = Clock::now();
        ping(run);
      }
    } catch (const std::exception&) {
      // Too little memory, say. The host lives on, and the next round tries again.
    }
    lock.lock();
  }
}

void Engine::launch() {
  std::string text;
  std::vector<std::string> program;
  bool is_installed = protocol::read_file(protocol::launch_file(), &text) && protocol::parse_launch(text, &program);
  bool is_up = is_installed && run_program(program, kLaunch_s, [this] { return stopping_.load(); }) == 0;
  {
    std::lock_guard lock(mutex_);
    engine_wanted_ = false;
    next_launch_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(launch_pause_s_));
    launch_pause_s_ = std::min(kLongestPause_s, launch_pause_s_ * 2);
  }
  if (stopping_) return;
  state_ = is_up ? EngineState::kUnknown : is_installed ? EngineState::kStartFailed : EngineState::kNotInstalled;
  if (!is_up) ++failed_starts_;
  note_arrival();
}

void Engine::poll_jobs() {
  std::vector<std::string> open;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, analysis] : analyses_) {
      if (!analysis.is_over) open.push_back(id);
    }
  }
  for (const std::string& id : open) {
    if (stopping_) return;
    Answer answer = ask("status", protocol::job(id), {}, Deadline::in(protocol::kReply_s, [this] { return stopping_.load(); }));
    const Json& job = answer.reply.body["job"];
    const std::string& state = job["state"].text();
    // A job that the engine does not know ended with the engine that ran it.
    bool is_over = answer.kind == Answer::Kind::kError || state == "done" || state == "failed" || state == "cancelled";
    {
      std::lock_guard lock(mutex_);
      Analysis& analysis = analyses_[id];
      if (job.is_object()) {
        analysis.stage = job["stage"].text();
        analysis.fraction = job["fraction"].number();
        analysis.findings = job["result"]["findings"];
      }
      analysis.is_over = is_over;
    }
    if (is_over) note_arrival();
  }
}

void Engine::ping(const std::string& run) {
  if (is_running(run)) {
    ask_running("status", protocol::job(""), {}, Deadline::in(protocol::kReply_s, [this] { return stopping_.load(); }));
    return;
  }
  // The uploads ended with it, and nobody needs an engine for them.
  std::lock_guard lock(mutex_);
  if (uploads_run_ == run) uploads_run_.clear();
}

std::string Engine::random_name() {
  uint8_t bytes[8];
  random_bytes(bytes, sizeof bytes);
  std::string name;
  for (uint8_t byte : bytes) {
    char text[3];
    std::snprintf(text, sizeof text, "%02x", byte);
    name += text;
  }
  return name;
}

}  // namespace vs3r
