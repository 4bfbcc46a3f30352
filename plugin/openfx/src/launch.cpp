// SPDX-License-Identifier: Apache-2.0
// Processes on POSIX systems and Windows.
#include "launch.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#if defined(_WIN32)
#include "windows_text.h"
#else
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
extern char** environ;
#endif

namespace vs3r {
namespace {

constexpr auto kPause = std::chrono::milliseconds(20);

// The host's own paths would make another Python load the host's libraries.
template <typename Character>
bool is_left_out(const Character* entry) {
  for (const char* name : {"PYTHONHOME=", "PYTHONPATH=", "LD_LIBRARY_PATH="}) {
    size_t i = 0;
    while (name[i] && entry[i] == static_cast<Character>(name[i])) ++i;
    if (!name[i]) return true;
  }
  return false;
}

}  // namespace

#if defined(_WIN32)

namespace {

// One argument as CommandLineToArgvW takes it apart again.
std::wstring quoted(const std::wstring& word) {
  std::wstring out = L"\"";
  size_t backslashes = 0;
  for (wchar_t c : word) {
    if (c == L'"') out.append(backslashes + 1, L'\\');
    backslashes = c == L'\\' ? backslashes + 1 : 0;
    out += c;
  }
  out.append(backslashes, L'\\');
  return out + L'"';
}

}  // namespace

int run_program(const std::vector<std::string>& program, double wait_s, const std::function<bool()>& given_up) {
  std::wstring line, environment;
  for (const std::string& word : program) line += (line.empty() ? L"" : L" ") + quoted(wide(word));
  wchar_t* all = GetEnvironmentStringsW();
  for (wchar_t* entry = all; *entry; entry += wcslen(entry) + 1) {
    if (!is_left_out(entry)) environment.append(entry, wcslen(entry) + 1);
  }
  FreeEnvironmentStringsW(all);
  environment += L'\0';
  STARTUPINFOW startup{};
  startup.cb = sizeof startup;
  PROCESS_INFORMATION process{};
  if (!CreateProcessW(nullptr, line.data(), nullptr, nullptr, FALSE,
                      CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP | CREATE_UNICODE_ENVIRONMENT, environment.data(), nullptr, &startup, &process)) {
    return -1;
  }
  CloseHandle(process.hThread);
  DWORD code = static_cast<DWORD>(-1);
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(wait_s);
  while (std::chrono::steady_clock::now() < end && !given_up()) {
    if (WaitForSingleObject(process.hProcess, 20) == WAIT_OBJECT_0) {
      GetExitCodeProcess(process.hProcess, &code);
      break;
    }
  }
  CloseHandle(process.hProcess);
  return static_cast<int>(code);
}

bool may_be_running(int64_t process_id) {
  HANDLE process = OpenProcess(SYNCHRONIZE, FALSE, static_cast<DWORD>(process_id));
  if (!process) return GetLastError() != ERROR_INVALID_PARAMETER;
  bool runs = WaitForSingleObject(process, 0) == WAIT_TIMEOUT;
  CloseHandle(process);
  return runs;
}

extern "C" BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);  // RtlGenRandom
void random_bytes(void* data, size_t size) { SystemFunction036(data, static_cast<ULONG>(size)); }

#else

int run_program(const std::vector<std::string>& program, double wait_s, const std::function<bool()>& given_up) {
  std::vector<char*> arguments, environment;
  for (const std::string& word : program) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  for (char** entry = environ; *entry; ++entry) {
    if (!is_left_out(*entry)) environment.push_back(*entry);
  }
  environment.push_back(nullptr);
  posix_spawn_file_actions_t streams;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&streams);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&streams, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&streams, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&streams, 2, "/dev/null", O_WRONLY, 0);
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
#if defined(POSIX_SPAWN_SETSID)
  flags |= POSIX_SPAWN_SETSID;
#endif
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  for (int number : {SIGPIPE, SIGINT, SIGTERM, SIGCHLD}) sigaddset(&defaults, number);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, flags);
  pid_t child = -1;
  int failure = posix_spawnp(&child, arguments[0], &streams, &attributes, arguments.data(), environment.data());
  posix_spawn_file_actions_destroy(&streams);
  posix_spawnattr_destroy(&attributes);
  if (failure != 0) return -1;
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(wait_s);
  while (std::chrono::steady_clock::now() < end && !given_up()) {
    int status = 0;
    pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    // A host that ignores its children's ends has taken this one's exit code.
    if (ended < 0 && errno == ECHILD) return 0;
    std::this_thread::sleep_for(kPause);
  }
  return -1;
}

bool may_be_running(int64_t process_id) { return ::kill(static_cast<pid_t>(process_id), 0) == 0 || errno != ESRCH; }

void random_bytes(void* data, size_t size) {
  std::memset(data, 0, size);
  if (std::FILE* file = std::fopen("/dev/urandom", "rb")) {
    [[maybe_unused]] size_t got = std::fread(data, 1, size, file);
    std::fclose(file);
  }
}

#endif

}  // namespace vs3r
