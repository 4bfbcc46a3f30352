// SPDX-License-Identifier: Apache-2.0
// For the tests: the plug-in's reader and writer of PROTOCOL.md, over the golden files.
//   protocol_check encode FOLDER     writes the examples' requests, as .msg files
//   protocol_check decode FILE.msg   prints what the plug-in understands of a reply or file, and the JSON written again
//   protocol_check numbers           reads numbers, one a line, and writes them again
#include <cstdio>
#include <cstring>
#include <iostream>

#include "protocol.h"

using namespace vs3r;
namespace p = vs3r::protocol;

namespace {

const char kSession[] = "b6a90d3e5c714f08";

void write_message(const std::string& path, const std::vector<std::string>& parts) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  for (const std::string& part : parts) {
    unsigned char size[4];
    for (int i = 0; i < 4; ++i) size[i] = static_cast<unsigned char>(part.size() >> 8 * i);
    std::fwrite(size, 1, 4, file);
    std::fwrite(part.data(), 1, part.size(), file);
  }
  std::fclose(file);
}

std::vector<std::string> read_message(const std::string& path) {
  std::string all;
  std::vector<std::string> parts;
  p::read_file(path, &all);
  for (size_t at = 0; at + 4 <= all.size();) {
    size_t size = 0;
    for (int i = 0; i < 4; ++i) size |= static_cast<size_t>(static_cast<unsigned char>(all[at + static_cast<size_t>(i)])) << 8 * i;
    parts.push_back(all.substr(at + 4, size));
    at += 4 + size;
  }
  return parts;
}

int encode(const std::string& folder) {
  auto request = [&](const char* name, const char* type, Json body) {
    write_message(folder + "/request-" + name + ".msg", {p::encode_request(type, "17", kSession, std::move(body))});
  };
  p::Source file;
  file.path = "/media/A001_C004.mov";
  p::FrameRequest frame;
  frame.source = file;
  frame.frame_index = 12;
  frame.settings.values = {{"path.smoothness", 70}, {"frame.framing", "crop"}};
  frame.format = "float32";
  frame.reduction = 2;
  frame.wait_s = 0.05;
  request("probe", "probe", p::probe(file));
  request("frame", "frame", p::frame(frame));
  request("status", "status", p::job("j-81c0"));
  request("cancel", "cancel", p::job("j-81c0"));
  return 0;
}

int decode(const std::string& path) {
  std::vector<std::string> parts = read_message(path);
  p::Reply reply;
  p::Connection connection;
  std::vector<std::string> program;
  Json json;
  Json::parse(parts[0], &json);
  if (p::parse_reply(parts[0], &reply)) {
    p::FrameReply frame;
    std::cout << "reply " << reply.type << " " << reply.id << " " << (reply.is_ok ? "ok" : "error " + reply.error.code) << "\n";
    if (reply.type == "frame" && p::parse_frame(reply.body, parts.size() > 1 ? parts[1].size() : 0, &frame)) {
      if (frame.is_ready) std::cout << "ready " << frame.width << " " << frame.height << " " << frame.format << " " << frame.row_bytes << "\n";
      else std::cout << "pending " << frame.stage << " " << frame.fraction << " " << frame.job_id << " " << frame.retry_s << "\n";
    }
  } else if (p::parse_connection(parts[0], &connection)) {
    std::cout << "connection " << connection.engine << " " << connection.pid << " " << connection.username << "\n";
  } else if (p::parse_launch(parts[0], &program)) {
    std::cout << "launch " << program.size() << "\n";
  } else {
    std::cout << "other\n";
  }
  std::cout << json.write() << std::endl;
  return 0;
}

int numbers() {
  std::string line;
  while (std::getline(std::cin, line)) {
    Json value;
    std::cout << (Json::parse(line, &value) ? Json(value.number()).write() : "no") << "\n";
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count == 3 && !std::strcmp(words[1], "encode")) return encode(words[2]);
  if (count == 3 && !std::strcmp(words[1], "decode")) return decode(words[2]);
  if (count == 2 && !std::strcmp(words[1], "numbers")) return numbers();
  return 2;
}
