// SPDX-License-Identifier: Apache-2.0
// Pictures in memory: every depth and component order of a host, copied, converted and resampled into one another, and the
// text that is drawn into them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ofx_abi.h"

namespace vs3r {

enum class Depth { kByte, kShort, kHalf, kFloat };
int bytes_of(Depth depth);

// A picture as a host hands it over: y points up, rows may lie in either order.
struct Image {
  uint8_t* data = nullptr;  // of the pixel (bounds.x1, bounds.y1)
  int64_t row_bytes = 0;    // from a row to the one above; may be negative
  ofx::RectI bounds{};
  ofx::RectI picture{};  // where the whole picture lies, in the same pixels; may reach beyond the bounds
  Depth depth = Depth::kFloat;
  int channels = 4;  // RGB or RGBA
  bool is_premultiplied = false;
  double pixel_aspect = 1;  // shown width of a pixel over its height, above 0

  int64_t pixel_bytes() const { return bytes_of(depth) * channels; }
  uint8_t* at(int x, int y) const { return data + (y - bounds.y1) * row_bytes + (x - bounds.x1) * pixel_bytes(); }
};

// A picture as the engine sends it: RGBA, rows from the top, alpha not premultiplied.
struct EngineFrame {
  const uint8_t* data = nullptr;
  int64_t width = 0, height = 0, row_bytes = 0;
  Depth depth = Depth::kHalf;
  double pixel_aspect = 1;
};

ofx::RectI intersection(const ofx::RectI& a, const ofx::RectI& b);
bool is_empty(const ofx::RectI& rect);
inline int width_of(const ofx::RectI& rect) { return rect.x2 - rect.x1; }
inline int height_of(const ofx::RectI& rect) { return rect.y2 - rect.y1; }

// `frame` is turned anticlockwise; its pixels are the ones returned from then on.
std::vector<uint8_t> turn(EngineFrame* frame, int quarter_turns);
// `window` of `to` holds the engine's frame, scaled to fill `to.picture`; where their shapes differ it fits inside, centred,
// with transparent black around it.
void draw_frame(const EngineFrame& from, const Image& to, const ofx::RectI& window);
// `window` of `to` holds what `from` shows there; transparent black beyond it.
void copy_picture(const Image& from, const Image& to, const ofx::RectI& window);
// In ASCII, whatever language the host has set.
inline char capital(char letter) { return letter >= 'a' && letter <= 'z' ? static_cast<char>(letter - 'a' + 'A') : letter; }
// Lines of text on a dark band at the lower left, and where the split is, a line.
void draw_slate(const std::string& text, const Image& to, const ofx::RectI& window);
void draw_split(const Image& to, const ofx::RectI& window, int x);

// The picture as `put_frames` takes it: RGBA or RGB, rows from the top without padding, alpha not premultiplied, no NaN.
// The picture is black where the image does not reach.
std::vector<uint8_t> packed(const Image& from);

// Mean brightness of an 8 by 8 grid: nearly the same for every size and depth of one picture.
struct Signature {
  float cells[64];
};
Signature signature(const Image& from);
float difference(const Signature& a, const Signature& b);  // of white, in the mean

}  // namespace vs3r
