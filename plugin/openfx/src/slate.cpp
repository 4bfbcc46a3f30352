// SPDX-License-Identifier: Apache-2.0
// What is drawn over a picture that is not stabilized yet.
#include <algorithm>
#include <cstring>

#include "pixels.h"

namespace vs3r {
namespace {

// ASCII 32 to 95, five columns each, the lowest bit is the top row. Small letters are drawn as capitals.
constexpr uint8_t kFont[64][5] = {
    {0, 0, 0, 0, 0}, {0, 0, 0x5F, 0, 0}, {0, 7, 0, 7, 0}, {0x14, 0x7F, 0x14, 0x7F, 0x14}, {0x24, 0x2A, 0x7F, 0x2A, 0x12},
    {0x23, 0x13, 8, 0x64, 0x62}, {0x36, 0x49, 0x55, 0x22, 0x50}, {0, 5, 3, 0, 0}, {0, 0x1C, 0x22, 0x41, 0}, {0, 0x41, 0x22, 0x1C, 0},
    {8, 0x2A, 0x1C, 0x2A, 8}, {8, 8, 0x3E, 8, 8}, {0, 0x50, 0x30, 0, 0}, {8, 8, 8, 8, 8}, {0, 0x60, 0x60, 0, 0}, {0x20, 0x10, 8, 4, 2},
    {0x3E, 0x51, 0x49, 0x45, 0x3E}, {0, 0x42, 0x7F, 0x40, 0}, {0x42, 0x61, 0x51, 0x49, 0x46}, {0x21, 0x41, 0x45, 0x4B, 0x31},
    {0x18, 0x14, 0x12, 0x7F, 0x10}, {0x27, 0x45, 0x45, 0x45, 0x39}, {0x3C, 0x4A, 0x49, 0x49, 0x30}, {1, 0x71, 9, 5, 3},
    {0x36, 0x49, 0x49, 0x49, 0x36}, {6, 0x49, 0x49, 0x29, 0x1E}, {0, 0x36, 0x36, 0, 0}, {0, 0x56, 0x36, 0, 0}, {8, 0x14, 0x22, 0x41, 0},
    {0x14, 0x14, 0x14, 0x14, 0x14}, {0, 0x41, 0x22, 0x14, 8}, {2, 1, 0x51, 9, 6}, {0x32, 0x49, 0x79, 0x41, 0x3E},
    {0x7E, 0x11, 0x11, 0x11, 0x7E}, {0x7F, 0x49, 0x49, 0x49, 0x36}, {0x3E, 0x41, 0x41, 0x41, 0x22}, {0x7F, 0x41, 0x41, 0x22, 0x1C},
    {0x7F, 0x49, 0x49, 0x49, 0x41}, {0x7F, 9, 9, 9, 1}, {0x3E, 0x41, 0x49, 0x49, 0x7A}, {0x7F, 8, 8, 8, 0x7F}, {0, 0x41, 0x7F, 0x41, 0},
    {0x20, 0x40, 0x41, 0x3F, 1}, {0x7F, 8, 0x14, 0x22, 0x41}, {0x7F, 0x40, 0x40, 0x40, 0x40}, {0x7F, 2, 0x0C, 2, 0x7F},
    {0x7F, 4, 8, 0x10, 0x7F}, {0x3E, 0x41, 0x41, 0x41, 0x3E}, {0x7F, 9, 9, 9, 6}, {0x3E, 0x41, 0x51, 0x21, 0x5E},
    {0x7F, 9, 0x19, 0x29, 0x46}, {0x46, 0x49, 0x49, 0x49, 0x31}, {1, 1, 0x7F, 1, 1}, {0x3F, 0x40, 0x40, 0x40, 0x3F},
    {0x1F, 0x20, 0x40, 0x20, 0x1F}, {0x3F, 0x40, 0x38, 0x40, 0x3F}, {0x63, 0x14, 8, 0x14, 0x63}, {7, 8, 0x70, 8, 7},
    {0x61, 0x51, 0x49, 0x45, 0x43}, {0, 0x7F, 0x41, 0x41, 0}, {2, 4, 8, 0x10, 0x20}, {0, 0x41, 0x41, 0x7F, 0}, {4, 2, 1, 2, 4},
    {0x40, 0x40, 0x40, 0x40, 0x40}};
constexpr int kAdvance = 6, kLine = 10, kMargin = 3;

std::vector<std::string> wrapped(const std::string& text, size_t columns) {
  std::vector<std::string> lines(1);
  size_t at = 0;
  while (at < text.size()) {
    size_t end = std::min(text.find(' ', at), text.size());
    std::string word = text.substr(at, std::min(end - at, columns));  // what is longer than a line is cut
    end = word.size() < end - at ? at + word.size() - 1 : end;
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > columns) lines.emplace_back();
    if (!lines.back().empty()) lines.back() += ' ';
    lines.back() += word;
    at = end + 1;
  }
  return lines;
}

void set_gray(const Image& to, int x, int y, float value) {
  uint8_t* pixel = to.at(x, y);
  for (int c = 0; c < to.channels; ++c) {
    float sample = c == 3 ? 1.0f : value;
    switch (to.depth) {
      case Depth::kByte: pixel[c] = static_cast<uint8_t>(sample * 255); break;
      case Depth::kShort: { auto v = static_cast<uint16_t>(sample * 65535); std::memcpy(pixel + 2 * c, &v, 2); break; }
      case Depth::kHalf: { uint16_t v = sample == 0 ? 0 : sample == 1 ? 0x3C00 : 0x3B00; std::memcpy(pixel + 2 * c, &v, 2); break; }
      case Depth::kFloat: std::memcpy(pixel + 4 * c, &sample, 4); break;
    }
  }
}

}  // namespace

void draw_slate(const std::string& text, const Image& to, const ofx::RectI& asked) {
  ofx::RectI window = intersection(intersection(asked, to.bounds), to.picture);
  if (is_empty(window)) return;
  int width = width_of(to.picture), height = height_of(to.picture);
  int zoom = std::max(1, std::min(height / 240, width / 240));
  auto columns = static_cast<size_t>(std::max(1, (width / zoom - 2 * kMargin) / kAdvance));
  std::vector<std::string> lines = wrapped(text, columns);
  size_t longest = 0;
  for (const std::string& line : lines) longest = std::max(longest, line.size());
  int band_width = std::min(width, zoom * (2 * kMargin + kAdvance * static_cast<int>(longest)));
  int band_height = std::min(height, zoom * (2 * kMargin + kLine * static_cast<int>(lines.size())));
  for (int y = std::max(window.y1, to.picture.y1); y < std::min(window.y2, to.picture.y1 + band_height); ++y) {
    for (int x = std::max(window.x1, to.picture.x1); x < std::min(window.x2, to.picture.x1 + band_width); ++x) {
      int column = (x - to.picture.x1) / zoom - kMargin, row = (band_height - 1 - (y - to.picture.y1)) / zoom - kMargin;
      bool is_lit = false;
      if (column >= 0 && row >= 0 && row / kLine < static_cast<int>(lines.size())) {
        const std::string& line = lines[static_cast<size_t>(row / kLine)];
        size_t letter = static_cast<size_t>(column / kAdvance);
        if (letter < line.size() && column % kAdvance < 5 && row % kLine < 7) {
          int code = capital(line[letter]);
          is_lit = code >= 32 && code < 96 && (kFont[code - 32][column % kAdvance] >> row % kLine & 1);
        }
      }
      set_gray(to, x, y, is_lit ? 0.875f : 0.0f);
    }
  }
}

void draw_split(const Image& to, const ofx::RectI& asked, int x) {
  ofx::RectI window = intersection(asked, to.bounds);
  if (is_empty(window) || x < window.x1 || x >= window.x2) return;
  for (int y = window.y1; y < window.y2; ++y) set_gray(to, x, y, 0.875f);
}

}  // namespace vs3r
