// SPDX-License-Identifier: Apache-2.0
// Every wait has an end: a time, and a question that is asked while waiting.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>

namespace vs3r {

using Clock = std::chrono::steady_clock;

struct Deadline {
  Clock::time_point end;
  std::function<bool()> aborted;  // may be empty; asked at least every 20 ms

  static Deadline in(double seconds, std::function<bool()> aborted = {}) {
    return {Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)), std::move(aborted)};
  }
  double left_s() const { return std::max(0.0, std::chrono::duration<double>(end - Clock::now()).count()); }
  bool is_aborted() const { return aborted && aborted(); }
  bool is_over() const { return Clock::now() >= end || is_aborted(); }
  // The same end or `seconds` from now, whichever comes first.
  Deadline at_most(double seconds) const {
    Deadline shorter = in(seconds, aborted);
    shorter.end = std::min(shorter.end, end);
    return shorter;
  }
};

}  // namespace vs3r
