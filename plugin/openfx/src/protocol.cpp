// SPDX-License-Identifier: Apache-2.0
// Messages and files of PROTOCOL.md.
#include "protocol.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(_WIN32)
#include "windows_text.h"
#endif

namespace vs3r::protocol {
namespace {

#if defined(_WIN32)
// The narrow functions would lose what the user's code page lacks, and the C library has a copy of its own, made before the
// host set anything.
std::string variable(const char* name) {
  std::wstring value(GetEnvironmentVariableW(wide(name).c_str(), nullptr, 0), L'\0');
  value.resize(std::min<size_t>(value.size(), GetEnvironmentVariableW(wide(name).c_str(), value.data(), static_cast<DWORD>(value.size()))));
  return narrow(value);
}
std::FILE* opened(const std::string& path) { return _wfopen(wide(path).c_str(), L"rb"); }
#else
std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}
std::FILE* opened(const std::string& path) { return std::fopen(path.c_str(), "rb"); }
#endif

[[maybe_unused]] std::string home() { return variable("HOME"); }

std::string joined(const std::string& root, const char* rest) { return root.empty() ? "" : root + rest; }

}  // namespace

std::string connection_directory() {
  if (std::string given = variable("VS3R_RUNTIME_DIR"); !given.empty()) return given;
#if defined(_WIN32)
  return joined(variable("LOCALAPPDATA"), "\\vs3r\\run");
#elif defined(__APPLE__)
  return joined(home(), "/Library/Application Support/vs3r/run");
#else
  if (std::string runtime = variable("XDG_RUNTIME_DIR"); !runtime.empty()) return runtime + "/vs3r";
  return joined(home(), "/.cache/vs3r/run");
#endif
}

std::string launch_file() {
  if (std::string given = variable("VS3R_CONFIG_DIR"); !given.empty()) return given + "/launch.json";
#if defined(_WIN32)
  return joined(variable("LOCALAPPDATA"), "\\vs3r\\launch.json");
#elif defined(__APPLE__)
  return joined(home(), "/Library/Application Support/vs3r/launch.json");
#else
  if (std::string config = variable("XDG_CONFIG_HOME"); !config.empty()) return config + "/vs3r/launch.json";
  return joined(home(), "/.config/vs3r/launch.json");
#endif
}

bool read_file(const std::string& path, std::string* text) {
  text->clear();
  std::FILE* file = path.empty() ? nullptr : opened(path);
  if (!file) return false;
  char piece[4096];
  size_t got;
  while ((got = std::fread(piece, 1, sizeof piece, file)) > 0 && text->size() < (1 << 20)) text->append(piece, got);
  std::fclose(file);
  return true;
}

bool parse_connection(std::string_view text, Connection* out) {
  Json json;
  if (!Json::parse(text, &json) || !json.is_object()) return false;
  out->protocol = json["protocol"].text();
  out->engine = json["engine"].text();
  out->request = json["request"].text();
  out->control = json["control"].text();
  out->username = json["username"].text("vs3r");
  out->token = json["token"].text();
  out->pid = json["pid"].integer();
  return !out->protocol.empty() && !out->request.empty();
}

bool parse_launch(std::string_view text, std::vector<std::string>* program) {
  Json json;
  program->clear();
  if (!Json::parse(text, &json)) return false;
  for (const Json& word : json["program"].items()) program->push_back(word.text());
  return !program->empty();
}

bool same_major(const std::string& version) {
  size_t dot = version.find('.');
  return version.substr(0, dot) == std::string(kVersion).substr(0, std::strcspn(kVersion, "."));
}

double ratio(const std::string& text) {
  char* end = nullptr;
  const long above = std::strtol(text.c_str(), &end, 10), below = *end == '/' ? std::strtol(end + 1, nullptr, 10) : 1;
  return above > 0 && below > 0 ? static_cast<double>(above) / static_cast<double>(below) : 1;
}

std::string Error::text() const { return hint.empty() ? message : message + " " + hint; }

Json Settings::json() const {
  Json out = Json::object();
  if (!preset.empty()) out.set("preset", preset);
  if (!values.empty()) {
    Json all = Json::object();
    for (const auto& [key, value] : values) all.set(key, value);
    out.set("values", std::move(all));
  }
  return out;
}

Json source_json(const Source& source) {
  Json out = Json::object();
  return std::move(source.path.empty() ? out.set("upload", source.upload) : out.set("path", source.path));
}

Json probe(const Source& source) { return std::move(Json::object().set("source", source_json(source))); }

Json analyze(const Source& source, const Settings& settings) {
  return std::move(Json::object().set("source", source_json(source)).set("settings", settings.json()));
}

Json frame(const FrameRequest& request) {
  return std::move(Json::object()
                       .set("source", source_json(request.source))
                       .set("frame_index", request.frame_index)
                       .set("settings", request.settings.json())
                       .set("format", request.format)
                       .set("reduction", request.reduction)
                       .set("wait_s", request.wait_s)
                       .set("prefetch", request.prefetch)
                       .set("analyze", request.analyze));
}

Json put_frames(const std::string& source_id, int64_t width, int64_t height, const std::string& rate,
                const std::vector<UploadedFrame>& frames) {
  Json entries = Json::array();
  for (const UploadedFrame& one : frames) {
    entries.add(std::move(Json::object()
                              .set("frame_index", one.frame_index)
                              .set("format", one.format)
                              .set("channels", one.channels)
                              .set("row_bytes", 0)
                              .set("row_order", "top-down")));
  }
  return std::move(Json::object()
                       .set("source_id", source_id)
                       .set("width", width)
                       .set("height", height)
                       .set("frames", std::move(entries))
                       .set("rate", rate));
}

Json job(const std::string& job_id) { return std::move(Json::object().set("job_id", job_id.empty() ? Json() : Json(job_id))); }

std::string encode_request(const std::string& type, const std::string& id, const std::string& session, Json body) {
  return Json::object().set("v", kVersion).set("type", type).set("id", id).set("session", session).set("body", std::move(body)).write();
}

bool parse_reply(std::string_view text, Reply* out) {
  Json json;
  *out = Reply();
  if (!Json::parse(text, &json) || !json.is_object()) return false;
  out->type = json["type"].text();
  out->id = json["id"].text();
  out->engine = json["engine"].text();
  const std::string& version = json["v"].text();
  const std::string& status = json["status"].text();
  if (version.empty() || (status != "ok" && status != "error")) return false;
  if (!same_major(version)) {
    out->error = {"protocol-version", "The engine speaks protocol " + version + ", this plug-in " + kVersion + ".",
                  "Install the same version of both."};
    return true;
  }
  out->is_ok = status == "ok";
  out->body = json["body"];
  if (!out->is_ok) {
    const Json& error = json["error"];
    out->error = {error["code"].text(), error["message"].text(), error["hint"].text()};
  }
  return true;
}

int sample_bytes(const std::string& format) {
  if (format == "uint8") return 1;
  if (format == "uint16" || format == "half") return 2;
  return format == "float32" ? 4 : 0;
}

bool parse_frame(const Json& body, size_t buffer_size, FrameReply* out) {
  *out = FrameReply();
  const std::string& state = body["state"].text();
  if (state == "pending") {
    out->stage = body["stage"].text();
    out->job_id = body["job_id"].text();
    out->fraction = body["fraction"].number();
    out->retry_s = body["retry_s"].number(0.1);
    return true;
  }
  out->is_ready = true;
  out->width = body["width"].integer();
  out->height = body["height"].integer();
  out->format = body["format"].text();
  out->row_bytes = body["row_bytes"].integer();
  if (state != "ready" || out->width <= 0 || out->height <= 0 || out->width > 65536 || out->height > 65536) return false;
  const int64_t packed = out->width * 4 * sample_bytes(out->format);
  return packed > 0 && out->row_bytes >= packed && static_cast<uint64_t>(out->row_bytes) <= buffer_size &&
         buffer_size >= static_cast<size_t>(out->row_bytes) * static_cast<size_t>(out->height - 1) + static_cast<size_t>(packed);
}

}  // namespace vs3r::protocol
