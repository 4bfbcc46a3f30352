// SPDX-License-Identifier: Apache-2.0
// Suites of the host behind ordinary functions.
#include "host.h"

namespace vs3r {
namespace {

Suites g_suites;

std::optional<Depth> depth_named(const std::string& name) {
  if (name == ofx::kDepthByte) return Depth::kByte;
  if (name == ofx::kDepthShort) return Depth::kShort;
  if (name == ofx::kDepthHalf) return Depth::kHalf;
  if (name == ofx::kDepthFloat) return Depth::kFloat;
  return std::nullopt;
}

template <typename Suite>
const Suite* fetch(ofx::Host* host, const char* name, int version) {
  return static_cast<const Suite*>(host->fetchSuite(host->host, name, version));
}

// Some hosts say that a picture has no end, with the largest integers there are.
bool is_finite(const ofx::RectI& rect) {
  constexpr int kEnd = 1 << 24;
  return rect.x1 > -kEnd && rect.y1 > -kEnd && rect.x2 < kEnd && rect.y2 < kEnd;
}

}  // namespace

const Suites& suites() { return g_suites; }

bool fetch_suites(ofx::Host* host) {
  if (!host || !host->fetchSuite) return false;
  Suites found;
  found.host = host->host;
  found.property = fetch<ofx::PropertySuite>(host, ofx::kPropertySuite, 1);
  found.effect = fetch<ofx::ImageEffectSuite>(host, ofx::kImageEffectSuite, 1);
  found.parameter = fetch<ofx::ParameterSuite>(host, ofx::kParameterSuite, 1);
  for (int version : {2, 1}) {
    if (!found.message && (found.message = fetch<ofx::MessageSuite>(host, ofx::kMessageSuite, version))) found.message_version = version;
  }
  found.progress_v2 = fetch<ofx::ProgressSuiteV2>(host, ofx::kProgressSuite, 2);
  if (!found.progress_v2) found.progress_v1 = fetch<ofx::ProgressSuiteV1>(host, ofx::kProgressSuite, 1);
  g_suites = found;
  return found.property && found.effect && found.parameter;
}

std::optional<int> find_int(ofx::PropertySet set, const char* name) {
  int value = 0;
  if (!set || suites().property->getInt(set, name, 0, &value) != ofx::kOk) return std::nullopt;
  return value;
}

int get_int(ofx::PropertySet set, const char* name, int otherwise, int index) {
  int value = 0;
  return set && suites().property->getInt(set, name, index, &value) == ofx::kOk ? value : otherwise;
}

double get_double(ofx::PropertySet set, const char* name, double otherwise, int index) {
  double value = 0;
  return set && suites().property->getDouble(set, name, index, &value) == ofx::kOk ? value : otherwise;
}

std::string get_string(ofx::PropertySet set, const char* name, int index) {
  char* value = nullptr;
  if (!set || suites().property->getString(set, name, index, &value) != ofx::kOk || !value) return "";
  return value;
}

void set_int(ofx::PropertySet set, const char* name, int value, int index) { suites().property->setInt(set, name, index, value); }
void set_double(ofx::PropertySet set, const char* name, double value, int index) { suites().property->setDouble(set, name, index, value); }
void set_string(ofx::PropertySet set, const char* name, const char* value, int index) {
  suites().property->setString(set, name, index, value);
}

ofx::RectI get_rect(ofx::PropertySet set, const char* name) {
  int values[4] = {};
  if (!set || suites().property->getIntN(set, name, 4, values) != ofx::kOk) return {};
  return {values[0], values[1], values[2], values[3]};
}

ClipImage::ClipImage(ofx::ImageClip clip, ofx::Time time) {
  if (!clip || suites().effect->clipGetImage(clip, time, nullptr, &set_) != ofx::kOk) set_ = nullptr;
  if (!set_) return;
  void* data = nullptr;
  suites().property->getPointer(set_, ofx::prop::kData, 0, &data);
  std::optional<Depth> depth = depth_named(get_string(set_, ofx::prop::kPixelDepth));
  const std::string components = get_string(set_, ofx::prop::kComponents);
  image_.bounds = get_rect(set_, ofx::prop::kBounds);
  image_.picture = get_rect(set_, ofx::prop::kRegionOfDefinition);
  if (is_empty(image_.picture) || !is_finite(image_.picture)) image_.picture = image_.bounds;
  image_.row_bytes = get_int(set_, ofx::prop::kRowBytes, 0);
  image_.channels = components == ofx::kComponentRgba ? 4 : components == ofx::kComponentRgb ? 3 : 0;
  image_.is_premultiplied = image_.channels == 4 && get_string(set_, ofx::prop::kPreMultiplication) == ofx::kPremultiplied;
  if (double aspect = get_double(set_, ofx::prop::kPixelAspectRatio, 1); aspect > 0) image_.pixel_aspect = aspect;
  if (depth) image_.depth = *depth;
  bool has_pixels = !is_empty(image_.bounds) && is_finite(image_.bounds);
  int64_t packed = has_pixels ? width_of(image_.bounds) * image_.pixel_bytes() : 0;
  bool is_sound = depth && image_.channels && has_pixels && (image_.row_bytes >= packed || -image_.row_bytes >= packed);
  image_.data = is_sound ? static_cast<uint8_t*>(data) : nullptr;
}

ClipImage::~ClipImage() {
  if (set_) suites().effect->clipReleaseImage(set_);
}

Progress::Progress(ofx::ImageEffect effect, const char* label) : effect_(effect) {
  if (suites().progress_v2) suites().progress_v2->progressStart(effect_, label, "");
  if (suites().progress_v1) suites().progress_v1->progressStart(effect_, label);
}

Progress::~Progress() {
  if (suites().progress_v2) suites().progress_v2->progressEnd(effect_);
  if (suites().progress_v1) suites().progress_v1->progressEnd(effect_);
}

bool Progress::update(double fraction) {
  ofx::Status status = ofx::kOk;
  if (suites().progress_v2) status = suites().progress_v2->progressUpdate(effect_, fraction);
  if (suites().progress_v1) status = suites().progress_v1->progressUpdate(effect_, fraction);
  return status != ofx::kReplyNo;
}

void show_error(ofx::ImageEffect effect, const std::string& text) {
  const ofx::MessageSuite* messages = suites().message;
  if (!messages) return;
  if (suites().message_version >= 2) {
    messages->setPersistentMessage(effect, ofx::kMessageError, "vs3r", "%s", text.c_str());
  } else {
    messages->message(effect, ofx::kMessageLog, "vs3r", "%s", text.c_str());
  }
}

void clear_error(ofx::ImageEffect effect) {
  if (suites().message_version >= 2) suites().message->clearPersistentMessage(effect);
}

}  // namespace vs3r
