// SPDX-License-Identifier: Apache-2.0
// Sockets and frames of ZMTP 3.1.
#include "zmtp.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(_WIN32)
#include <winsock2.h>
#include <ws2tcpip.h>
#else
#include <arpa/inet.h>
#include <cerrno>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#endif

namespace vs3r {
namespace {

constexpr uint8_t kMore = 1, kLong = 2, kCommand = 4;
constexpr size_t kLargestPart = size_t{512} << 20;
constexpr size_t kMostParts = 65;
constexpr double kPollSlice_s = 0.02, kHeartbeat_s = 1;
constexpr char kPing[] = "\x04PING", kPong[] = "\x04PONG";

#if defined(_WIN32)
int last_error() { return WSAGetLastError(); }
bool would_block(int error) { return error == WSAEWOULDBLOCK || error == WSAEINPROGRESS; }
bool is_connecting(int error) { return error == WSAENOTCONN; }
void close_socket(std::intptr_t s) { closesocket(static_cast<SOCKET>(s)); }
constexpr int kSendFlags = 0;
using Native = SOCKET;
struct Winsock {
  Winsock() { WSADATA data; WSAStartup(MAKEWORD(2, 2), &data); }
};
void start_sockets() { static Winsock winsock; }
bool make_nonblocking(std::intptr_t s) { u_long on = 1; return ioctlsocket(static_cast<SOCKET>(s), FIONBIO, &on) == 0; }
// Not WSAPoll: before 2020's Windows it never told that a connection could not be made.
bool is_ready(std::intptr_t s, bool to_read, int wait_ms) {
  fd_set wanted, failed;
  FD_ZERO(&wanted);
  FD_SET(static_cast<SOCKET>(s), &wanted);
  failed = wanted;
  timeval wait{wait_ms / 1000, wait_ms % 1000 * 1000};
  return ::select(0, to_read ? &wanted : nullptr, to_read ? nullptr : &wanted, &failed, &wait) > 0;
}
#else
int last_error() { return errno; }
bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINPROGRESS || error == EINTR; }
bool is_connecting(int error) { return error == ENOTCONN; }
void close_socket(std::intptr_t s) { ::close(static_cast<int>(s)); }
#if defined(MSG_NOSIGNAL)
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif
using Native = int;
void start_sockets() {}
bool make_nonblocking(std::intptr_t s) {
  int fd = static_cast<int>(s);
  return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}
bool is_ready(std::intptr_t s, bool to_read, int wait_ms) {
  pollfd item{static_cast<int>(s), static_cast<short>(to_read ? POLLIN : POLLOUT), 0};
  return ::poll(&item, 1, wait_ms) > 0;
}
#endif

// Windows says of one that could not connect only that it is not connected, as of one that is still at it.
bool has_failed(std::intptr_t s) {
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(static_cast<Native>(s), SOL_SOCKET, SO_ERROR, reinterpret_cast<char*>(&error), &size) == 0 && error != 0;
}

// A connecting socket, or -1.
std::intptr_t connecting_socket(const std::string& endpoint) {
  start_sockets();
  sockaddr_storage address{};
  socklen_t size = 0;
#if !defined(_WIN32)
  if (endpoint.rfind("ipc://", 0) == 0) {
    std::string path = endpoint.substr(6);
    auto* local = reinterpret_cast<sockaddr_un*>(&address);
    if (path.empty() || path.size() >= sizeof local->sun_path) return -1;
    local->sun_family = AF_UNIX;
    std::memcpy(local->sun_path, path.data(), path.size());
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
    if (path[0] == '@') {
      local->sun_path[0] = '\0';
      --size;
    }
  }
#endif
  if (endpoint.rfind("tcp://", 0) == 0) {
    size_t colon = endpoint.rfind(':');
    std::string host = endpoint.substr(6, colon - 6);
    auto* inet = reinterpret_cast<sockaddr_in*>(&address);
    inet->sin_family = AF_INET;
    inet->sin_port = htons(static_cast<uint16_t>(std::strtoul(endpoint.c_str() + colon + 1, nullptr, 10)));
    if (inet_pton(AF_INET, host.c_str(), &inet->sin_addr) != 1) return -1;
    size = sizeof(sockaddr_in);
  }
  if (size == 0) return -1;
  auto s = static_cast<std::intptr_t>(::socket(address.ss_family, SOCK_STREAM, 0));
  if (s < 0) return -1;
  if (address.ss_family == AF_INET) {
    int on = 1;
    setsockopt(static_cast<Native>(s), IPPROTO_TCP, TCP_NODELAY, reinterpret_cast<const char*>(&on), sizeof on);
  }
#if defined(SO_NOSIGPIPE)
  int quiet = 1;
  setsockopt(static_cast<Native>(s), SOL_SOCKET, SO_NOSIGPIPE, &quiet, sizeof quiet);
#endif
  // A local socket that cannot be connected at once, because too many wait to be accepted, never will be.
  if (!make_nonblocking(s) || (::connect(static_cast<Native>(s), reinterpret_cast<sockaddr*>(&address), size) != 0 &&
                               (address.ss_family != AF_INET || !would_block(last_error())))) {
    close_socket(s);
    return -1;
  }
  return s;
}

std::string metadata(const std::string& name, const std::string& value) {
  std::string out(1, static_cast<char>(name.size()));
  out += name;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value.size() >> shift & 0xFF);
  return out + value;
}

bool is_command(const Part& part, const char* prefix) {
  size_t size = std::strlen(prefix);
  return part.size >= size && std::memcmp(part.data.get(), prefix, size) == 0;
}

}  // namespace

WireState Dealer::open(const std::string& endpoint, const std::string& username, const std::string& password, const Deadline& deadline) {
  close();
  socket_ = connecting_socket(endpoint);
  if (socket_ < 0) return WireState::kClosed;
  WireState state = greet(username, password, deadline);
  if (state != WireState::kOk) close();
  return state;
}

WireState Dealer::greet(const std::string& username, const std::string& password, const Deadline& deadline) {
  uint8_t ours[64] = {0xFF};
  ours[9] = 0x7F;
  ours[10] = 3;
  ours[11] = 1;
  std::memcpy(ours + 12, "PLAIN", 5);
  uint8_t theirs[64];
  WireState state = write(ours, sizeof ours, deadline);
  if (state == WireState::kOk) state = read(theirs, sizeof theirs, deadline);
  if (state != WireState::kOk) return state;
  if (theirs[0] != 0xFF || theirs[10] < 3 || std::memcmp(theirs + 12, "PLAIN\0", 6) != 0) return WireState::kRefused;
  std::string hello("\x05HELLO");
  for (const std::string& text : {username, password}) {
    hello += static_cast<char>(text.size());
    hello += text;
  }
  const std::string initiate = "\x08INITIATE" + metadata("Socket-Type", "DEALER") + metadata("Identity", "");
  const std::pair<std::string, const char*> steps[] = {{hello, "\x07WELCOME"}, {initiate, "\x05READY"}};
  for (const auto& [command, answer] : steps) {
    uint8_t flags;
    Part part;
    state = write_command(command, deadline);
    if (state == WireState::kOk) state = read_frame(&flags, &part, deadline);
    // An engine that does not know the token ends the connection, with or without a word.
    if (state == WireState::kClosed) return WireState::kRefused;
    if (state != WireState::kOk) return state;
    if (!(flags & kCommand) || !is_command(part, answer)) return WireState::kRefused;
  }
  return WireState::kOk;
}

WireState Dealer::send(const std::vector<PartView>& parts, const Deadline& deadline) {
  for (size_t i = 0; i < parts.size(); ++i) {
    uint8_t header[9];
    size_t size = parts[i].size, header_size = 2;
    header[0] = static_cast<uint8_t>((i + 1 < parts.size() ? kMore : 0) | (size > 255 ? kLong : 0));
    header[1] = static_cast<uint8_t>(size);
    if (size > 255) {
      header_size = 9;
      for (int b = 0; b < 8; ++b) header[1 + b] = static_cast<uint8_t>(static_cast<uint64_t>(size) >> (56 - 8 * b));
    }
    WireState state = write(header, header_size, deadline);
    if (state == WireState::kOk) state = write(parts[i].data, size, deadline);
    if (state != WireState::kOk) {
      close();
      return state;
    }
  }
  return WireState::kOk;
}

WireState Dealer::receive(std::vector<Part>* parts, const Deadline& deadline, double transfer_s) {
  parts->clear();
  while (socket_ >= 0) {
    if (!wait(true, deadline)) return WireState::kTimedOut;
    Deadline transfer = Deadline::in(transfer_s, deadline.aborted);
    uint8_t flags = 0;
    do {
      Part part;
      WireState state = read_frame(&flags, &part, transfer);
      if (state == WireState::kOk && (flags & kCommand)) {
        state = answer_command(part, transfer);
      } else if (state == WireState::kOk && parts->size() == kMostParts) {
        state = WireState::kClosed;
      } else if (state == WireState::kOk) {
        parts->push_back(std::move(part));
      }
      if (state != WireState::kOk) {
        close();
        return state;
      }
    } while ((flags & kMore) || ((flags & kCommand) && !parts->empty()));
    if (!parts->empty()) return WireState::kOk;
  }
  return WireState::kClosed;
}

bool Dealer::is_alive(const Deadline& deadline) {
  const Deadline now = Deadline::in(0), soon = deadline.at_most(kHeartbeat_s);
  while (socket_ >= 0 && wait(true, now)) {
    uint8_t flags;
    Part part;
    // Nobody waits for a reply here, so that anything but a heartbeat is a stranger's.
    if (read_frame(&flags, &part, soon) != WireState::kOk || !(flags & kCommand) || answer_command(part, soon) != WireState::kOk) close();
  }
  return socket_ >= 0;
}

void Dealer::close() {
  if (socket_ >= 0) close_socket(socket_);
  socket_ = -1;
}

WireState Dealer::answer_command(const Part& part, const Deadline& deadline) {
  if (!is_command(part, kPing)) return WireState::kOk;
  constexpr size_t kTtl = 2;
  std::string pong = kPong;
  size_t head = sizeof kPing - 1 + kTtl;
  if (part.size > head) pong.append(reinterpret_cast<const char*>(part.data.get()) + head, part.size - head);
  return write_command(pong, deadline);
}

WireState Dealer::write_command(const std::string& body, const Deadline& deadline) {
  if (body.size() > 255) return WireState::kRefused;
  std::string frame{static_cast<char>(kCommand), static_cast<char>(body.size())};
  frame += body;
  return write(frame.data(), frame.size(), deadline);
}

WireState Dealer::read_frame(uint8_t* flags, Part* part, const Deadline& deadline) {
  uint8_t head[2], rest[7];
  WireState state = read(head, 2, deadline);
  if (state != WireState::kOk) return state;
  *flags = head[0];
  uint64_t size = head[1];
  if (*flags & kLong) {
    if ((state = read(rest, 7, deadline)) != WireState::kOk) return state;
    for (uint8_t byte : rest) size = size << 8 | byte;
  }
  if (size > kLargestPart || (*flags & ~(kMore | kLong | kCommand))) return WireState::kClosed;
  part->data.reset(new (std::nothrow) uint8_t[size + 1]);
  if (!part->data) return WireState::kClosed;
  part->size = size;
  return read(part->data.get(), size, deadline);
}

WireState Dealer::read(void* data, size_t size, const Deadline& deadline) {
  auto* to = static_cast<char*>(data);
  while (size > 0) {
    auto got = ::recv(static_cast<Native>(socket_), to, size > 1 << 24 ? 1 << 24 : static_cast<int>(size), 0);
    if (got > 0) {
      to += got;
      size -= static_cast<size_t>(got);
    } else if (got == 0 || !would_block(last_error())) {
      return WireState::kClosed;
    } else if (!wait(true, deadline) || deadline.is_over()) {
      return WireState::kTimedOut;
    }
  }
  return WireState::kOk;
}

WireState Dealer::write(const void* data, size_t size, const Deadline& deadline) {
  const auto* from = static_cast<const char*>(data);
  while (size > 0) {
    auto sent = ::send(static_cast<Native>(socket_), from, size > 1 << 24 ? 1 << 24 : static_cast<int>(size), kSendFlags);
    if (sent > 0) {
      from += sent;
      size -= static_cast<size_t>(sent);
    } else if (!would_block(last_error()) && !is_connecting(last_error())) {
      return WireState::kClosed;
    } else if (!wait(false, deadline) || deadline.is_over()) {
      return WireState::kTimedOut;
    } else if (has_failed(socket_)) {
      return WireState::kClosed;
    }
  }
  return WireState::kOk;
}

bool Dealer::wait(bool to_read, const Deadline& deadline) {
  while (true) {
    if (is_ready(socket_, to_read, static_cast<int>(std::min(deadline.left_s(), kPollSlice_s) * 1000 + 0.999))) return true;
    if (deadline.is_over()) return false;
  }
}

}  // namespace vs3r
