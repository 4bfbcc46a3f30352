// SPDX-License-Identifier: Apache-2.0
// PROTOCOL.md, this plug-in's part of it: where an engine is found, the requests it sends, the replies it reads.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"

namespace vs3r::protocol {

constexpr const char* kVersion = "1.0";
constexpr double kReply_s = 2.0, kProbe_s = 10.0, kPut_s = 30.0;  // section 7, Deadlines
constexpr double kPing_s = 2.0;

struct Connection {
  std::string protocol, engine, request, control, username, token;
  int64_t pid = 0;
};

struct Source {
  std::string path, upload;  // exactly one is not empty
  const std::string& name() const { return path.empty() ? upload : path; }
};

struct Settings {
  std::string preset;
  std::vector<std::pair<std::string, Json>> values;
  Json json() const;
};

struct FrameRequest {
  Source source;
  Settings settings;
  int64_t frame_index = 0;
  std::string format = "half";
  int reduction = 1;
  double wait_s = 0;
  int prefetch = 8;
  bool analyze = true;
};

struct UploadedFrame {
  int64_t frame_index = 0;
  std::string format, channels;
};

struct Error {
  std::string code, message, hint;
  // One line for people.
  std::string text() const;
};

struct Reply {
  std::string type, id, engine;
  bool is_ok = false;
  Json body;
  Error error;
};

struct FrameReply {
  bool is_ready = false;
  int64_t width = 0, height = 0, row_bytes = 0;
  std::string format;
  std::string stage, job_id;
  double fraction = 0, retry_s = 0;
};

// "" where the platform says nothing about the place.
std::string connection_directory();
std::string launch_file();
// False where the text is not that file.
bool parse_connection(std::string_view text, Connection* out);
bool parse_launch(std::string_view text, std::vector<std::string>* program);
bool same_major(const std::string& version);
// "4/3" or "1"; 1 where it is neither.
double ratio(const std::string& text);
bool read_file(const std::string& path, std::string* text);

Json source_json(const Source& source);
Json probe(const Source& source);
Json analyze(const Source& source, const Settings& settings);
Json frame(const FrameRequest& request);
Json put_frames(const std::string& source_id, int64_t width, int64_t height, const std::string& rate,
                const std::vector<UploadedFrame>& frames);
Json job(const std::string& job_id);  // of status and cancel; "" is about no job
std::string encode_request(const std::string& type, const std::string& id, const std::string& session, Json body);

// False where this is no reply of ours: not JSON, or without its fields. Another major version is the error `protocol-version`.
bool parse_reply(std::string_view text, Reply* out);
// False where the fields contradict the message or the buffer's size.
bool parse_frame(const Json& body, size_t buffer_size, FrameReply* out);
int sample_bytes(const std::string& format);

}  // namespace vs3r::protocol
