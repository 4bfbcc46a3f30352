// SPDX-License-Identifier: Apache-2.0
// The host, as the plug-in uses it: suites, properties with defaults, and images that are always released.
#pragma once

#include <optional>
#include <string>

#include "ofx_abi.h"
#include "pixels.h"

namespace vs3r {

struct Suites {
  const ofx::PropertySuite* property = nullptr;
  const ofx::ImageEffectSuite* effect = nullptr;
  const ofx::ParameterSuite* parameter = nullptr;
  const ofx::MessageSuite* message = nullptr;  // may be missing
  int message_version = 0;
  const ofx::ProgressSuiteV1* progress_v1 = nullptr;  // at most one of the two
  const ofx::ProgressSuiteV2* progress_v2 = nullptr;
  ofx::PropertySet host = nullptr;
};

// Filled by `fetch_suites`, read from any thread afterwards.
const Suites& suites();
// False where the host lacks what no plug-in can do without.
bool fetch_suites(ofx::Host* host);

int get_int(ofx::PropertySet set, const char* name, int otherwise, int index = 0);
double get_double(ofx::PropertySet set, const char* name, double otherwise, int index = 0);
std::string get_string(ofx::PropertySet set, const char* name, int index = 0);
std::optional<int> find_int(ofx::PropertySet set, const char* name);
void set_int(ofx::PropertySet set, const char* name, int value, int index = 0);
void set_double(ofx::PropertySet set, const char* name, double value, int index = 0);
void set_string(ofx::PropertySet set, const char* name, const char* value, int index = 0);
ofx::RectI get_rect(ofx::PropertySet set, const char* name);

// An image of a clip, released with this object.
class ClipImage {
 public:
  ClipImage(ofx::ImageClip clip, ofx::Time time);
  ~ClipImage();
  ClipImage(const ClipImage&) = delete;
  ClipImage& operator=(const ClipImage&) = delete;

  bool exists() const { return set_ != nullptr; }
  // False where there is no memory or the host uses a layout that was not agreed on.
  bool is_readable() const { return image_.data != nullptr; }
  const Image& image() const { return image_; }

 private:
  ofx::PropertySet set_ = nullptr;
  Image image_;
};

// A progress bar of the host, where it has one. `update` is false once the user cancels.
class Progress {
 public:
  Progress(ofx::ImageEffect effect, const char* label);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  bool update(double fraction);

 private:
  ofx::ImageEffect effect_;
};

// A message that stays with the effect until it is cleared; a line of the host's log where the host has no such thing.
void show_error(ofx::ImageEffect effect, const std::string& text);
void clear_error(ofx::ImageEffect effect);

}  // namespace vs3r
