// SPDX-License-Identifier: Apache-2.0
// Rows of samples, converted through linear float rows where they cannot be copied as they are.
#include "pixels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace vs3r {
namespace {

float float_of_half(uint16_t half) {
  uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = half >> 10 & 0x1F, fraction = half & 0x3FF;
  uint32_t bits;
  if (exponent == 0x1F) {
    bits = sign | 0x7F800000 | fraction << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {
    float value = static_cast<float>(fraction) * (1.0f / 16777216.0f);
    return sign ? -value : value;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// To the nearest, ties to even; what is too large becomes infinite.
uint16_t half_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
  if (magnitude < 0x38800000) {
    float tiny = std::fabs(value) * 16777216.0f;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::lrintf(tiny)));
  }
  uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000;
  return static_cast<uint16_t>(sign | rounded >> 13);
}

float clean(float value) { return std::isnan(value) ? 0.0f : value; }

template <typename Read>
void load(Read read, int channels, int64_t count, float* rgba) {
  for (int64_t i = 0; i < count; ++i) {
    for (int c = 0; c < 3; ++c) rgba[4 * i + c] = clean(read(i * channels + c));
    rgba[4 * i + 3] = channels == 4 ? clean(read(i * channels + 3)) : 1.0f;
  }
}

// `count` pixels as float RGBA, without NaN.
void load_row(const uint8_t* from, Depth depth, int channels, int64_t count, float* rgba) {
  auto at16 = [from](int64_t i) { uint16_t v; std::memcpy(&v, from + 2 * i, 2); return v; };
  switch (depth) {
    case Depth::kByte: return load([from](int64_t i) { return from[i] * (1.0f / 255); }, channels, count, rgba);
    case Depth::kShort: return load([at16](int64_t i) { return at16(i) * (1.0f / 65535); }, channels, count, rgba);
    case Depth::kHalf: return load([at16](int64_t i) { return float_of_half(at16(i)); }, channels, count, rgba);
    case Depth::kFloat: return load([from](int64_t i) { float v; std::memcpy(&v, from + 4 * i, 4); return v; }, channels, count, rgba);
  }
}

template <typename Write>
void store(const float* rgba, int channels, int64_t count, Write write) {
  for (int64_t i = 0; i < count; ++i) {
    for (int c = 0; c < channels; ++c) write(i * channels + c, rgba[4 * i + c]);
  }
}

void store_row(const float* rgba, Depth depth, int channels, int64_t count, uint8_t* to) {
  auto level = [](float value, float peak) { return std::lrintf(std::min(std::max(value, 0.0f), 1.0f) * peak); };
  auto put16 = [to](int64_t i, uint16_t v) { std::memcpy(to + 2 * i, &v, 2); };
  switch (depth) {
    case Depth::kByte: return store(rgba, channels, count, [&](int64_t i, float v) { to[i] = static_cast<uint8_t>(level(v, 255)); });
    case Depth::kShort: return store(rgba, channels, count, [&](int64_t i, float v) { put16(i, static_cast<uint16_t>(level(v, 65535))); });
    case Depth::kHalf: return store(rgba, channels, count, [&](int64_t i, float v) { put16(i, half_of_float(v)); });
    case Depth::kFloat: return store(rgba, channels, count, [&](int64_t i, float v) { std::memcpy(to + 4 * i, &v, 4); });
  }
}

void premultiply(float* rgba, int64_t count) {
  for (int64_t i = 0; i < count; ++i, rgba += 4) {
    if (rgba[3] != 1.0f) for (int c = 0; c < 3; ++c) rgba[c] *= rgba[3];
  }
}

void unpremultiply(float* rgba, int64_t count) {
  for (int64_t i = 0; i < count; ++i, rgba += 4) {
    if (rgba[3] != 1.0f && rgba[3] > 0) for (int c = 0; c < 3; ++c) rgba[c] /= rgba[3];
  }
}

void clear_row(const Image& to, int x1, int x2, int y) {
  if (x2 > x1) std::memset(to.at(x1, y), 0, static_cast<size_t>((x2 - x1) * to.pixel_bytes()));
}

// Where the picture of the frame lies: all of `picture` where the shapes agree, else as large as fits, centred.
struct Fit {
  double x1, y1, x2, y2;
};

Fit fit(const EngineFrame& from, const Image& to) {
  double width = width_of(to.picture), height = height_of(to.picture);
  double scale_x = width / static_cast<double>(from.width), scale_y = height / static_cast<double>(from.height);
  double aspect = to.pixel_aspect / from.pixel_aspect;
  // The frame's pixels are 1 / aspect wide here. Sizes are rounded: a pixel's difference is none. Of aspects there are
  // several roundings: 16:11 and 64:45 are both wide PAL.
  const double tolerance = from.pixel_aspect == 1 ? 0 : 0.03;
  bool is_same_shape = std::fabs(static_cast<double>(from.width) * scale_y / aspect - width) <= std::max(1.5, tolerance * width) ||
                       std::fabs(static_cast<double>(from.height) * scale_x * aspect - height) <= std::max(1.5, tolerance * height);
  if (is_same_shape) return {double(to.picture.x1), double(to.picture.y1), double(to.picture.x2), double(to.picture.y2)};
  double scale = std::min(scale_x * aspect, scale_y);
  double half_width = scale / aspect * static_cast<double>(from.width) / 2, half_height = scale * static_cast<double>(from.height) / 2;
  double centre_x = to.picture.x1 + width / 2, centre_y = to.picture.y1 + height / 2;
  return {centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height};
}

// The samples that make one sample of a resized row, and their shares.
struct Taps {
  int64_t first = 0;
  std::vector<float> shares;
};

// Triangle filter, widened when the picture shrinks. `position` is in samples of the source, corner origin.
Taps taps_at(double position, double scale, int64_t size) {
  double radius = std::max(1.0, scale);
  Taps taps;
  taps.first = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(position - radius - 0.5)));
  int64_t last = std::min<int64_t>(size - 1, static_cast<int64_t>(std::floor(position + radius - 0.5)));
  double sum = 0;
  for (int64_t i = taps.first; i <= last; ++i) {
    double share = std::max(0.0, 1 - std::fabs(static_cast<double>(i) + 0.5 - position) / radius);
    taps.shares.push_back(static_cast<float>(share));
    sum += share;
  }
  if (sum <= 0) {
    taps.first = std::min<int64_t>(std::max<int64_t>(0, static_cast<int64_t>(position)), size - 1);
    taps.shares.assign(1, 1.0f);
    return taps;
  }
  for (float& share : taps.shares) share /= static_cast<float>(sum);
  return taps;
}

void draw_resized(const EngineFrame& from, const Image& to, const Fit& area, int x1, int x2, int y1, int y2) {
  double scale_x = static_cast<double>(from.width) / (area.x2 - area.x1), scale_y = static_cast<double>(from.height) / (area.y2 - area.y1);
  std::vector<Taps> columns;
  for (int x = x1; x < x2; ++x) columns.push_back(taps_at((x + 0.5 - area.x1) * scale_x, scale_x, from.width));
  std::vector<float> source(static_cast<size_t>(from.width) * 4), sum(source.size()), row(static_cast<size_t>(x2 - x1) * 4);
  for (int y = y1; y < y2; ++y) {
    Taps rows = taps_at((area.y2 - (y + 0.5)) * scale_y, scale_y, from.height);
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (size_t k = 0; k < rows.shares.size(); ++k) {
      if (rows.shares[k] == 0) continue;
      load_row(from.data + (rows.first + static_cast<int64_t>(k)) * from.row_bytes, from.depth, 4, from.width, source.data());
      premultiply(source.data(), from.width);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += rows.shares[k] * source[i];
    }
    for (size_t x = 0; x < columns.size(); ++x) {
      float pixel[4] = {};
      const float* sample = sum.data() + columns[x].first * 4;
      for (float share : columns[x].shares) {
        for (int c = 0; c < 4; ++c) pixel[c] += share * *sample++;
      }
      std::copy(pixel, pixel + 4, row.data() + 4 * x);
    }
    if (!to.is_premultiplied) unpremultiply(row.data(), x2 - x1);
    store_row(row.data(), to.depth, to.channels, x2 - x1, to.at(x1, y));
  }
}

void draw_as_it_is(const EngineFrame& from, const Image& to, int x1, int x2, int y1, int y2) {
  int64_t pixel = 4 * bytes_of(from.depth);
  std::vector<float> row(static_cast<size_t>(x2 - x1) * 4);
  for (int y = y1; y < y2; ++y) {
    const uint8_t* source = from.data + (to.picture.y2 - 1 - y) * from.row_bytes + (x1 - to.picture.x1) * pixel;
    if (from.depth == to.depth && to.channels == 4 && !to.is_premultiplied) {
      std::memcpy(to.at(x1, y), source, static_cast<size_t>((x2 - x1) * pixel));
      continue;
    }
    load_row(source, from.depth, 4, x2 - x1, row.data());
    if (to.is_premultiplied) premultiply(row.data(), x2 - x1);
    store_row(row.data(), to.depth, to.channels, x2 - x1, to.at(x1, y));
  }
}

}  // namespace

int bytes_of(Depth depth) { return depth == Depth::kByte ? 1 : depth == Depth::kFloat ? 4 : 2; }

ofx::RectI intersection(const ofx::RectI& a, const ofx::RectI& b) {
  return {std::max(a.x1, b.x1), std::max(a.y1, b.y1), std::min(a.x2, b.x2), std::min(a.y2, b.y2)};
}

std::vector<uint8_t> turn(EngineFrame* frame, int quarter_turns) {
  const EngineFrame from = *frame;
  const size_t pixel = static_cast<size_t>(4 * bytes_of(from.depth));
  const bool is_odd = quarter_turns % 2 != 0;
  if (is_odd) std::swap(frame->width, frame->height);
  frame->row_bytes = frame->width * static_cast<int64_t>(pixel);
  std::vector<uint8_t> pixels(static_cast<size_t>(frame->row_bytes * frame->height));
  uint8_t* to = pixels.data();
  for (int64_t y = 0; y < frame->height; ++y) {
    for (int64_t x = 0; x < frame->width; ++x, to += pixel) {
      int64_t row = is_odd ? x : y, column = is_odd ? y : x;
      if (quarter_turns == 2 || quarter_turns == 3) row = from.height - 1 - row;
      if (quarter_turns == 1 || quarter_turns == 2) column = from.width - 1 - column;
      std::memcpy(to, from.data + row * from.row_bytes + column * static_cast<int64_t>(pixel), pixel);
    }
  }
  frame->data = pixels.data();
  return pixels;
}

bool is_empty(const ofx::RectI& rect) { return rect.x2 <= rect.x1 || rect.y2 <= rect.y1; }

void draw_frame(const EngineFrame& from, const Image& to, const ofx::RectI& asked) {
  ofx::RectI window = intersection(asked, to.bounds);
  if (is_empty(window) || is_empty(to.picture)) return;
  Fit area = fit(from, to);
  // A pixel belongs to the picture where its centre does.
  int x1 = std::max(window.x1, static_cast<int>(std::ceil(area.x1 - 0.5))), x2 = std::min(window.x2, static_cast<int>(std::ceil(area.x2 - 0.5)));
  int y1 = std::max(window.y1, static_cast<int>(std::ceil(area.y1 - 0.5))), y2 = std::min(window.y2, static_cast<int>(std::ceil(area.y2 - 0.5)));
  x2 = std::max(x1, x2);
  for (int y = window.y1; y < window.y2; ++y) {
    bool is_inside = y >= y1 && y < y2;
    clear_row(to, window.x1, is_inside ? std::min(x1, window.x2) : window.x2, y);
    if (is_inside) clear_row(to, std::max(x2, window.x1), window.x2, y);
  }
  if (x2 <= x1 || y2 <= y1) return;
  // Of the same numbers of pixels, but of another aspect, it fills only a part of the picture.
  bool is_all = area.x1 == to.picture.x1 && area.x2 == to.picture.x2 && area.y1 == to.picture.y1 && area.y2 == to.picture.y2;
  bool is_same_size = width_of(to.picture) == from.width && height_of(to.picture) == from.height;
  if (is_all && is_same_size) {
    draw_as_it_is(from, to, x1, x2, y1, y2);
  } else {
    draw_resized(from, to, area, x1, x2, y1, y2);
  }
}

void copy_picture(const Image& from, const Image& to, const ofx::RectI& asked) {
  ofx::RectI window = intersection(asked, to.bounds), shared = intersection(window, from.bounds);
  if (is_empty(window)) return;
  bool is_nothing = is_empty(shared);
  std::vector<float> row(is_nothing ? 0 : static_cast<size_t>(width_of(shared)) * 4);
  for (int y = window.y1; y < window.y2; ++y) {
    if (is_nothing || y < shared.y1 || y >= shared.y2) {
      clear_row(to, window.x1, window.x2, y);
      continue;
    }
    clear_row(to, window.x1, shared.x1, y);
    clear_row(to, shared.x2, window.x2, y);
    int64_t count = width_of(shared);
    if (from.depth == to.depth && from.channels == to.channels) {
      std::memcpy(to.at(shared.x1, y), from.at(shared.x1, y), static_cast<size_t>(count * to.pixel_bytes()));
    } else {
      load_row(from.at(shared.x1, y), from.depth, from.channels, count, row.data());
      store_row(row.data(), to.depth, to.channels, count, to.at(shared.x1, y));
    }
  }
}

std::vector<uint8_t> packed(const Image& from) {
  int64_t width = width_of(from.picture), height = height_of(from.picture);
  std::vector<uint8_t> out(static_cast<size_t>(width * height * from.pixel_bytes()));
  ofx::RectI inside = intersection(from.picture, from.bounds);
  if (is_empty(inside)) return out;
  int64_t count = width_of(inside);
  bool is_plain = !from.is_premultiplied && (from.depth == Depth::kByte || from.depth == Depth::kShort);
  std::vector<float> row(static_cast<size_t>(count) * 4);
  for (int y = inside.y1; y < inside.y2; ++y) {
    uint8_t* to = out.data() + ((from.picture.y2 - 1 - y) * width + inside.x1 - from.picture.x1) * from.pixel_bytes();
    if (is_plain) {
      std::memcpy(to, from.at(inside.x1, y), static_cast<size_t>(count * from.pixel_bytes()));
      continue;
    }
    load_row(from.at(inside.x1, y), from.depth, from.channels, count, row.data());
    if (from.is_premultiplied) unpremultiply(row.data(), count);
    store_row(row.data(), from.depth, from.channels, count, to);
  }
  return out;
}

Signature signature(const Image& from) {
  constexpr int kCells = 8, kSamples = 16;
  Signature out{};
  double width = width_of(from.picture), height = height_of(from.picture);
  for (int row = 0; row < kCells * kSamples; ++row) {
    int y = from.picture.y1 + static_cast<int>((row + 0.5) / (kCells * kSamples) * height);
    for (int column = 0; column < kCells * kSamples; ++column) {
      int x = from.picture.x1 + static_cast<int>((column + 0.5) / (kCells * kSamples) * width);
      if (x < from.bounds.x1 || x >= from.bounds.x2 || y < from.bounds.y1 || y >= from.bounds.y2) continue;
      float rgba[4] = {};
      load_row(from.at(x, y), from.depth, from.channels, 1, rgba);
      float bright = std::min(std::max((rgba[0] + rgba[1] + rgba[2]) / 3, 0.0f), 1.0f);
      out.cells[row / kSamples * kCells + column / kSamples] += bright / (kSamples * kSamples);
    }
  }
  return out;
}

float difference(const Signature& a, const Signature& b) {
  float sum = 0;
  for (int i = 0; i < 64; ++i) sum += std::fabs(a.cells[i] - b.cells[i]);
  return sum / 64;
}

}  // namespace vs3r
