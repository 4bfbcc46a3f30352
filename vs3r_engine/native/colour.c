// SPDX-License-Identifier: Apache-2.0
// Planes of code values to interleaved RGB or RGBA (frame.py has the matrix).

#include "kernels.h"

static inline float sample(const uint8_t *row, int bytes, int i) {
    if (bytes == 1) return row[i];
    return bytes == 2 ? ((const uint16_t *)row)[i] : ((const float *)row)[i];
}

WIDE static void read_row(const uint8_t *row, int bytes, int count, float *out) {
    if (bytes == 1) {
        for (int i = 0; i < count; i++) out[i] = row[i];
    } else if (bytes == 2) {
        for (int i = 0; i < count; i++) out[i] = ((const uint16_t *)row)[i];
    } else {
        memcpy(out, row, sizeof(float) * count);
    }
}

// A row of a subsampled plane at the picture's own width: sited on the first of the columns it stands for (MPEG-2), and
// in the middle of the rows; bilinear between, the border repeats. line: one sample more than the plane has.
WIDE static void chroma_row(const uint8_t *plane, ptrdiff_t stride, int width, int height, int bytes, int shift_x, int shift_y,
                            int row, int out_width, float *line, float *out) {
    float at = (row + 0.5f) / (1 << shift_y) - 0.5f;
    int first = (int)floorf(at);
    float share = at - first;
    const uint8_t *upper = plane + (first < 0 ? 0 : first < height ? first : height - 1) * stride;
    const uint8_t *lower = plane + (first + 1 < height ? first + 1 : height - 1) * stride;
    float *whole = shift_x ? line : out;
    read_row(upper, bytes, width, whole);
    if (share > 0 && lower != upper)
        for (int i = 0; i < width; i++) whole[i] += share * (sample(lower, bytes, i) - whole[i]);
    if (!shift_x) return;
    line[width] = line[width - 1];
    if (shift_x == 1) {
        for (int i = 0; i < out_width / 2; i++) {
            out[2 * i] = line[i];
            out[2 * i + 1] = 0.5f * (line[i] + line[i + 1]);
        }
        if (out_width % 2) out[out_width - 1] = line[width - 1];
        return;
    }
    int each = 1 << shift_x;
    for (int i = 0; i < out_width; i++) {
        int left = i >> shift_x;
        out[i] = line[left] + (line[left + 1] - line[left]) * (i - left * each) / each;
    }
}

// The nearest half float, ties to even; what is too large is infinite.
static inline uint16_t half_of(float value) {
    uint32_t bits, denormal;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    float shifted;
    memcpy(&shifted, &bits, sizeof bits);
    shifted += 0.5f;  // its last place is that of a denormal half
    memcpy(&denormal, &shifted, sizeof bits);
    denormal -= 0x3f000000;
    uint32_t normal = (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
    uint32_t large = bits > 0x7f800000 ? 0x7e00 : 0x7c00;
    uint32_t half = bits < 0x38800000 ? denormal : bits < 0x47800000 ? normal : large;
    return (uint16_t)(sign | half);
}

static inline uint8_t byte_of(float value) { return (uint8_t)(int)(held(value, 0, 1) * 255 + 0.5f); }
static inline uint16_t short_of(float value) { return (uint16_t)(int)(held(value, 0, 1) * 65535 + 0.5f); }
static inline float float_of(float value) { return value; }

#define INTERLEAVED(TYPE, NAME, OF)                                                                  \
    WIDE static void NAME(const float *const rows[4], int channels, int count, TYPE *out) {          \
        const float *red = rows[0], *green = rows[1], *blue = rows[2], *alpha = rows[3];             \
        if (channels == 3) {                                                                         \
            for (int i = 0; i < count; i++) {                                                        \
                out[3 * i] = OF(red[i]);                                                             \
                out[3 * i + 1] = OF(green[i]);                                                       \
                out[3 * i + 2] = OF(blue[i]);                                                        \
            }                                                                                        \
            return;                                                                                  \
        }                                                                                            \
        for (int i = 0; i < count; i++) {                                                            \
            out[4 * i] = OF(red[i]);                                                                 \
            out[4 * i + 1] = OF(green[i]);                                                           \
            out[4 * i + 2] = OF(blue[i]);                                                            \
            out[4 * i + 3] = OF(alpha[i]);                                                           \
        }                                                                                            \
    }

INTERLEAVED(uint8_t, interleaved_bytes, byte_of)
INTERLEAVED(uint16_t, interleaved_shorts, short_of)
INTERLEAVED(uint16_t, interleaved_halves, half_of)
INTERLEAVED(float, interleaved_floats, float_of)

WIDE static void mixed(float *const planes[3], const float matrix[12], int count, float *const out[3]) {
    const float *a = planes[0], *b = planes[1], *c = planes[2];
    for (int k = 0; k < 3; k++) {
        const float x = matrix[4 * k], y = matrix[4 * k + 1], z = matrix[4 * k + 2], offset = matrix[4 * k + 3];
        for (int i = 0; i < count; i++) out[k][i] = x * a[i] + y * b[i] + z * c[i] + offset;
    }
}

// kind of the samples written: 0 half, 1 uint8, 2 uint16, 4 float.
EXPORT int32_t interleaved(const uint8_t *const planes[4], const int64_t strides[4], int32_t width, int32_t height,
                           int32_t chroma_width, int32_t chroma_height, int32_t shift_x, int32_t shift_y, int32_t bytes,
                           const float *matrix, float alpha_scale, int32_t channels, int32_t kind, uint8_t *out) {
    float *scratch = malloc(sizeof(float) * ((size_t)width * 7 + chroma_width + 1));
    if (!scratch) return -1;
    float *read[3], *rgba[4], *line = scratch + (size_t)width * 7;
    for (int k = 0; k < 3; k++) read[k] = scratch + (size_t)width * k;
    for (int k = 0; k < 4; k++) rgba[k] = scratch + (size_t)width * (3 + k);
    for (int i = 0; i < width; i++) rgba[3][i] = 1;
    size_t pitch = (size_t)width * channels * (kind == 0 ? 2 : kind);
    for (int row = 0; row < height; row++, out += pitch) {
        read_row(planes[0] + row * strides[0], bytes, width, read[0]);
        for (int k = 1; k < 3; k++)
            chroma_row(planes[k], strides[k], chroma_width, chroma_height, bytes, shift_x, shift_y, row, width, line, read[k]);
        mixed(read, matrix, width, rgba);
        if (planes[3]) {
            read_row(planes[3] + row * strides[3], bytes, width, rgba[3]);
            for (int i = 0; i < width; i++) rgba[3][i] *= alpha_scale;
        }
        const float *const rows[4] = {rgba[0], rgba[1], rgba[2], rgba[3]};
        if (kind == 0) interleaved_halves(rows, channels, width, (uint16_t *)out);
        if (kind == 1) interleaved_bytes(rows, channels, width, out);
        if (kind == 2) interleaved_shorts(rows, channels, width, (uint16_t *)out);
        if (kind == 4) interleaved_floats(rows, channels, width, (float *)out);
    }
    free(scratch);
    return 0;
}
