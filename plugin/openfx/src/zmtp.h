// SPDX-License-Identifier: Apache-2.0
// A DEALER that speaks ZMTP 3.1 (rfc.zeromq.org/spec/37) with the PLAIN mechanism over TCP or a local socket: what a host
// needs of ZeroMQ, with no library, no threads and nothing to shut down.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "deadline.h"

namespace vs3r {

// One received part. Its memory is not cleared first, so that pixels are touched once.
struct Part {
  std::unique_ptr<uint8_t[]> data;
  size_t size = 0;
};

struct PartView {
  const void* data;
  size_t size;
};

enum class WireState { kOk, kTimedOut, kClosed, kRefused };  // kRefused: the peer does not accept our token or our protocol

class Dealer {
 public:
  Dealer() = default;
  ~Dealer() { close(); }
  Dealer(const Dealer&) = delete;
  Dealer& operator=(const Dealer&) = delete;

  // endpoint: "ipc://PATH" or "tcp://ADDRESS:PORT". Any state but kOk leaves it closed.
  WireState open(const std::string& endpoint, const std::string& username, const std::string& password, const Deadline& deadline);
  // Sends one message. Anything but kOk leaves it closed: a message cannot be taken back half way.
  WireState send(const std::vector<PartView>& parts, const Deadline& deadline);
  // Receives one message. kTimedOut before its first byte leaves the connection as it is. Once bytes arrive they may take
  // `transfer_s` more, whatever the deadline; after that the connection is closed.
  WireState receive(std::vector<Part>* parts, const Deadline& deadline, double transfer_s);
  // Answers heartbeats that have come in. False where the connection is gone, or stuck in the middle of one.
  bool is_alive(const Deadline& deadline);
  void close();

 private:
  WireState greet(const std::string& username, const std::string& password, const Deadline& deadline);
  WireState read(void* data, size_t size, const Deadline& deadline);
  WireState write(const void* data, size_t size, const Deadline& deadline);
  WireState read_frame(uint8_t* flags, Part* part, const Deadline& deadline);
  WireState write_command(const std::string& body, const Deadline& deadline);
  WireState answer_command(const Part& part, const Deadline& deadline);
  bool wait(bool to_read, const Deadline& deadline);

  std::intptr_t socket_ = -1;
};

}  // namespace vs3r
