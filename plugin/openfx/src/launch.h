// SPDX-License-Identifier: Apache-2.0
// Other programs, started from inside a host without touching it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace vs3r {

// Runs a program without console, streams, shell or the host's Python and library paths, and waits for its end.
// Its exit code; -1 where it could not be run, was still running after `wait_s`, or `given_up` said so (it then runs on).
int run_program(const std::vector<std::string>& program, double wait_s, const std::function<bool()>& given_up);
// False only where it is certain that no such process runs.
bool may_be_running(int64_t process_id);
// Bytes that nobody can foresee.
void random_bytes(void* data, size_t size);

}  // namespace vs3r
