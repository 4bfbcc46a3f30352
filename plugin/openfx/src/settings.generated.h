// SPDX-License-Identifier: Apache-2.0
// Written by generate.py from vs3r_engine/settings.py. Do not edit.
#pragma once

namespace vs3r::settings {

constexpr const char* kProductVersion = "0.1.0";
constexpr unsigned kMajor = 0, kMinor = 1;

struct Number {
  const char *key, *label, *help;
  double initial, low, high;
};
struct Choice {
  const char *key, *label, *help;
  int initial, count;
  const char* values[4];
};
struct Preset {
  const char* name;
  double smoothness, strength;
};

constexpr Number kSmoothness = {"path.smoothness", "Smoothness", "How calm the camera path becomes.", 50.0, 0, 100};
constexpr Number kStrength = {"path.strength", "Strength", "Mix with the original path: 0 % is the original.", 100.0, 0, 100};
constexpr Choice kFraming = {"frame.framing", "Framing", "full: fill the edges; crop: zoom until nothing is missing; show-edges: leave them black.", 0, 3, {"full", "crop", "show-edges"}};
constexpr Choice kQuality = {"fill.quality", "Quality", "draft: half-size analysis of the fill, no diffusion; final: everything.", 1, 2, {"draft", "final"}};
constexpr Preset kPresets[] = {  // the first is the default
    {"natural", 50.0, 100.0},
    {"glide", 85.0, 100.0},
    {"locked", 50.0, 100.0},
    {"subtle", 30.0, 80.0},
};

}  // namespace vs3r::settings
