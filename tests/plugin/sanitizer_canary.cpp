// SPDX-License-Identifier: Apache-2.0
// Does on purpose what the sanitizers are there to find, so that a run that finds nothing means something.
#include <cstdint>
#include <thread>

namespace {

int g_shared = 0;
void* volatile g_last = nullptr;

}  // namespace

extern "C" void leak() {
  g_last = new int64_t[8];
  g_last = nullptr;
}

extern "C" int overflow() {
  auto* cells = new int[4]();
  volatile int past = 4;
  int value = cells[past];
  delete[] cells;
  return value;
}

extern "C" int undefined() {
  volatile int largest = INT32_MAX;
  return largest + 1;
}

extern "C" void race() {
  auto work = [] {
    for (int i = 0; i < 1000; ++i) g_shared = g_shared + 1;
  };
  std::thread other(work);
  work();
  other.join();
}
