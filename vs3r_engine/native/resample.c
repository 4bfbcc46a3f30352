// SPDX-License-Identifier: Apache-2.0
// Planes read at fractional places with a cubic kernel: warped whole (methods/warp.py), or a layer of tiles at a time
// (methods/temporal).

#include "kernels.h"

EXPORT int32_t kernels_version(void) { return 5; }

// Repeated border of a copied plane, in samples: a kernel of four taps at positions held within two samples of it.
enum { BEFORE = 3, AFTER = 5 };

// Cubic convolution with a = -0.75, OpenCV's INTER_CUBIC, at offset t in [0, 1) after the second tap.
static inline void cubic_weights(float t, float w[4]) {
    const float a = -0.75f;
    float u = 1 - t;
    w[0] = a * t * u * u;
    w[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
    w[2] = ((a + 2) * u - (a + 3)) * u * u + 1;
    w[3] = 1 - w[0] - w[1] - w[2];
}

#define CUBIC_SCALAR(TYPE, NAME)                                                                                   \
    static void NAME(const uint8_t *plane, ptrdiff_t stride, const float *x, const float *y, int count,           \
                     float *out) {                                                                                 \
        for (int i = 0; i < count; i++) {                                                                          \
            float fx = floorf(x[i]), fy = floorf(y[i]), wx[4], wy[4], sum = 0;                                     \
            cubic_weights(x[i] - fx, wx);                                                                          \
            cubic_weights(y[i] - fy, wy);                                                                          \
            const uint8_t *at = plane + ((ptrdiff_t)fy - 1) * stride + ((ptrdiff_t)fx - 1) * (ptrdiff_t)sizeof(TYPE); \
            for (int k = 0; k < 4; k++, at += stride) {                                                            \
                TYPE taps[4];                                                                                      \
                memcpy(taps, at, sizeof taps);                                                                     \
                sum += wy[k] * (wx[0] * taps[0] + wx[1] * taps[1] + wx[2] * taps[2] + wx[3] * taps[3]);            \
            }                                                                                                      \
            out[i] = sum;                                                                                          \
        }                                                                                                          \
    }

CUBIC_SCALAR(uint8_t, cubic_scalar_1)
CUBIC_SCALAR(uint16_t, cubic_scalar_2)
CUBIC_SCALAR(float, cubic_scalar_4)

typedef void (*Cubic)(const uint8_t *, ptrdiff_t, const float *, const float *, int, float *);

#ifdef HAS_AVX2
#define CUBIC_WEIGHTS(TARGET, BITS, NAME)                                                                          \
    TARGET static inline void NAME(__m##BITS t, __m##BITS w[4]) {                                                  \
        const __m##BITS a = _mm##BITS##_set1_ps(-0.75f), one = _mm##BITS##_set1_ps(1);                              \
        const __m##BITS a2 = _mm##BITS##_set1_ps(1.25f), a3 = _mm##BITS##_set1_ps(2.25f);                           \
        __m##BITS u = _mm##BITS##_sub_ps(one, t);                                                                  \
        w[0] = _mm##BITS##_mul_ps(_mm##BITS##_mul_ps(a, t), _mm##BITS##_mul_ps(u, u));                              \
        w[1] = _mm##BITS##_fmadd_ps(_mm##BITS##_fmsub_ps(a2, t, a3), _mm##BITS##_mul_ps(t, t), one);                \
        w[2] = _mm##BITS##_fmadd_ps(_mm##BITS##_fmsub_ps(a2, u, a3), _mm##BITS##_mul_ps(u, u), one);                \
        w[3] = _mm##BITS##_mul_ps(_mm##BITS##_mul_ps(a, u), _mm##BITS##_mul_ps(t, t));                              \
    }

CUBIC_WEIGHTS(AVX2, 256, cubic_weights_8)

// Four taps in a row, as floats: `at` are byte offsets of the first.
AVX2 static inline void taps_1(const uint8_t *row, __m256i at, __m256 taps[4]) {
    const __m256i low = _mm256_set1_epi32(255);
    __m256i four = _mm256_i32gather_epi32((const int *)row, at, 1);
    taps[0] = _mm256_cvtepi32_ps(_mm256_and_si256(four, low));
    taps[1] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(four, 8), low));
    taps[2] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(four, 16), low));
    taps[3] = _mm256_cvtepi32_ps(_mm256_srli_epi32(four, 24));
}

AVX2 static inline void taps_2(const uint8_t *row, __m256i at, __m256 taps[4]) {
    const __m256i low = _mm256_set1_epi32(65535);
    for (int k = 0; k < 4; k += 2) {
        __m256i two = _mm256_i32gather_epi32((const int *)(row + 2 * k), at, 1);
        taps[k] = _mm256_cvtepi32_ps(_mm256_and_si256(two, low));
        taps[k + 1] = _mm256_cvtepi32_ps(_mm256_srli_epi32(two, 16));
    }
}

AVX2 static inline void taps_4(const uint8_t *row, __m256i at, __m256 taps[4]) {
    for (int k = 0; k < 4; k++) taps[k] = _mm256_i32gather_ps((const float *)(row + 4 * k), at, 1);
}

#define CUBIC_AVX2(BYTES)                                                                                          \
    AVX2 static void cubic_avx2_##BYTES(const uint8_t *plane, ptrdiff_t stride, const float *x, const float *y,    \
                                        int count, float *out) {                                                   \
        const __m256i one = _mm256_set1_epi32(1), pitch = _mm256_set1_epi32((int)stride);                          \
        int i = 0;                                                                                                 \
        for (; i + 8 <= count; i += 8) {                                                                           \
            __m256 at_x = _mm256_loadu_ps(x + i), at_y = _mm256_loadu_ps(y + i);                                   \
            __m256 left = _mm256_floor_ps(at_x), top = _mm256_floor_ps(at_y), wx[4], wy[4], sum;                   \
            cubic_weights_8(_mm256_sub_ps(at_x, left), wx);                                                        \
            cubic_weights_8(_mm256_sub_ps(at_y, top), wy);                                                         \
            __m256i column = _mm256_sub_epi32(_mm256_cvttps_epi32(left), one);                                     \
            __m256i line = _mm256_sub_epi32(_mm256_cvttps_epi32(top), one);                                        \
            __m256i at = _mm256_add_epi32(_mm256_mullo_epi32(line, pitch),                                         \
                                          _mm256_mullo_epi32(column, _mm256_set1_epi32(BYTES)));                   \
            sum = _mm256_setzero_ps();                                                                             \
            for (int k = 0; k < 4; k++, at = _mm256_add_epi32(at, pitch)) {                                        \
                __m256 taps[4], across;                                                                            \
                taps_##BYTES(plane, at, taps);                                                                     \
                across = _mm256_mul_ps(taps[0], wx[0]);                                                            \
                across = _mm256_fmadd_ps(taps[1], wx[1], across);                                                  \
                across = _mm256_fmadd_ps(taps[2], wx[2], across);                                                  \
                across = _mm256_fmadd_ps(taps[3], wx[3], across);                                                  \
                sum = _mm256_fmadd_ps(across, wy[k], sum);                                                         \
            }                                                                                                      \
            _mm256_storeu_ps(out + i, sum);                                                                        \
        }                                                                                                          \
        cubic_scalar_##BYTES(plane, stride, x + i, y + i, count - i, out + i);                                     \
    }

CUBIC_AVX2(1)
CUBIC_AVX2(2)
CUBIC_AVX2(4)

// 8-bit planes are most of all planes: sixteen samples at once where the processor can.
#define HAS_AVX512 __builtin_cpu_supports("avx512f")
#define AVX512 __attribute__((target("avx512f")))

CUBIC_WEIGHTS(AVX512, 512, cubic_weights_16)

AVX512 static void cubic_avx512_1(const uint8_t *plane, ptrdiff_t stride, const float *x, const float *y, int count, float *out) {
    const __m512i one = _mm512_set1_epi32(1), pitch = _mm512_set1_epi32((int)stride), low = _mm512_set1_epi32(255);
    int i = 0;
    for (; i + 16 <= count; i += 16) {
        __m512 at_x = _mm512_loadu_ps(x + i), at_y = _mm512_loadu_ps(y + i), wx[4], wy[4], sum = _mm512_setzero_ps();
        __m512 left = _mm512_roundscale_ps(at_x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        __m512 top = _mm512_roundscale_ps(at_y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        cubic_weights_16(_mm512_sub_ps(at_x, left), wx);
        cubic_weights_16(_mm512_sub_ps(at_y, top), wy);
        __m512i column = _mm512_sub_epi32(_mm512_cvttps_epi32(left), one), line = _mm512_sub_epi32(_mm512_cvttps_epi32(top), one);
        __m512i at = _mm512_add_epi32(_mm512_mullo_epi32(line, pitch), column);
        for (int k = 0; k < 4; k++, at = _mm512_add_epi32(at, pitch)) {
            __m512i four = _mm512_i32gather_epi32(at, plane, 1);
            __m512 across = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_and_si512(four, low)), wx[0]);
            across = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(four, 8), low)), wx[1], across);
            across = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(four, 16), low)), wx[2], across);
            across = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(four, 24)), wx[3], across);
            sum = _mm512_fmadd_ps(across, wy[k], sum);
        }
        _mm512_storeu_ps(out + i, sum);
    }
    cubic_avx2_1(plane, stride, x + i, y + i, count - i, out + i);
}
#endif

static Cubic cubic_for(int bytes) {
#ifdef HAS_AVX2
    if (HAS_AVX2 && HAS_AVX512 && bytes == 1) return cubic_avx512_1;
    if (HAS_AVX2) return bytes == 1 ? cubic_avx2_1 : bytes == 2 ? cubic_avx2_2 : cubic_avx2_4;
#endif
    return bytes == 1 ? cubic_scalar_1 : bytes == 2 ? cubic_scalar_2 : cubic_scalar_4;
}

// A copy of a plane with its border repeated; *inside is its own first sample, *stride its pitch in bytes.
static uint8_t *bordered(const uint8_t *plane, ptrdiff_t plane_stride, int width, int height, int bytes,
                         uint8_t **inside, ptrdiff_t *stride) {
    ptrdiff_t pitch = (((ptrdiff_t)width + BEFORE + AFTER) * bytes + 31) / 32 * 32;
    uint8_t *copy = malloc((size_t)pitch * (height + BEFORE + AFTER));
    if (!copy) return NULL;
    for (int row = 0; row < height; row++) {
        uint8_t *line = copy + (row + BEFORE) * pitch;
        const uint8_t *from = plane + row * plane_stride;
        memcpy(line + BEFORE * bytes, from, (size_t)width * bytes);
        for (int k = 0; k < BEFORE; k++) memcpy(line + k * bytes, from, bytes);
        for (int k = 0; k < AFTER; k++) memcpy(line + (BEFORE + width + k) * bytes, from + (width - 1) * bytes, bytes);
    }
    for (int k = 0; k < BEFORE; k++) memcpy(copy + k * pitch, copy + BEFORE * pitch, pitch);
    for (int k = 0; k < AFTER; k++) memcpy(copy + (BEFORE + height + k) * pitch, copy + (BEFORE + height - 1) * pitch, pitch);
    *inside = copy + BEFORE * pitch + BEFORE * bytes;
    *stride = pitch;
    return copy;
}

WIDE static void stored(const float *values, int count, int bytes, float peak, uint8_t *out) {
    if (bytes == 4) {
        memcpy(out, values, sizeof(float) * count);
    } else if (bytes == 1) {
        for (int i = 0; i < count; i++) out[i] = (uint8_t)(int)(held(values[i], 0, peak) + 0.5f);
    } else {
        for (int i = 0; i < count; i++) ((uint16_t *)out)[i] = (uint16_t)(int)(held(values[i], 0, peak) + 0.5f);
    }
}

// values[i] += amount * (values[i] - mean of the 3 x 3 around it), rows given with one sample more at each end.
WIDE static void sharpened(const float *above, const float *here, const float *below, int count, float amount,
                           float *columns, float *out) {
    for (int i = 0; i < count + 2; i++) columns[i] = above[i] + here[i] + below[i];
    const float own = 1 + amount, around = -amount / 9;
    for (int i = 0; i < count; i++) out[i] = own * here[i + 1] + around * (columns[i] + columns[i + 1] + columns[i + 2]);
}

WIDE static void positions_of_row(const float *vertices, int columns, int cell_x, float row, int width, float high_x,
                                  float high_y, float *line, float *x, float *y) {
    int top = (int)row;
    float share = row - top;
    const float *first = vertices + (ptrdiff_t)top * columns * 2, *second = first + columns * 2;
    for (int k = 0; k < 2 * columns; k++) line[k] = first[k] + share * (second[k] - first[k]);
    // Vertex k is the centre of cell k - 1: between k and k + 1 lie the pixels from there on.
    for (int k = 0, from = -cell_x / 2; k + 1 < columns && from < width; k++, from += cell_x) {
        float x0 = line[2 * k], y0 = line[2 * k + 1];
        float dx = (line[2 * k + 2] - x0) / cell_x, dy = (line[2 * k + 3] - y0) / cell_x;
        int begin = from < 0 ? 0 : from, end = from + cell_x < width ? from + cell_x : width;
        if (end - begin == 16) {  // the usual cell, in a loop of known length
            for (int i = 0; i < 16; i++) {
                x[begin + i] = held(x0 + (i + 0.5f) * dx, -2, high_x);
                y[begin + i] = held(y0 + (i + 0.5f) * dy, -2, high_y);
            }
            continue;
        }
        for (int i = begin; i < end; i++) {
            float along = i - from + 0.5f;
            x[i] = held(x0 + along * dx, -2, high_x);
            y[i] = held(y0 + along * dy, -2, high_y);
        }
    }
}

EXPORT int32_t warp_plane(const uint8_t *plane, ptrdiff_t plane_stride, int32_t width, int32_t height, int32_t bytes,
                          const float *vertices, int32_t columns, int32_t cell_x, int32_t cell_y, float peak,
                          float sharpening, uint8_t *out, int32_t out_width, int32_t out_height) {
    uint8_t *inside;
    ptrdiff_t stride;
    uint8_t *copy = bordered(plane, plane_stride, width, height, bytes, &inside, &stride);
    ptrdiff_t padded = out_width + 2;
    float *scratch = malloc(sizeof(float) * (2 * columns + 2 * out_width + 5 * padded));
    if (!copy || !scratch) {
        free(copy);
        free(scratch);
        return -1;
    }
    float *line = scratch, *x = line + 2 * columns, *y = x + out_width, *sums = y + out_width, *result = sums + padded;
    float *rows[3] = {result + padded, result + 2 * padded, result + 3 * padded};
    Cubic cubic = cubic_for(bytes);
    ptrdiff_t out_stride = (ptrdiff_t)out_width * bytes;
    for (int row = 0; row <= out_height; row++) {
        float *here = rows[row % 3];
        if (row < out_height) {
            positions_of_row(vertices, columns, cell_x, (row + 0.5f) / cell_y + 0.5f, out_width, width + 1.0f,
                             height + 1.0f, line, x, y);
            cubic(inside, stride, x, y, out_width, here + 1);
            here[0] = here[1];
            here[out_width + 1] = here[out_width];
            if (sharpening == 0) {
                stored(here + 1, out_width, bytes, peak, out + row * out_stride);
                continue;
            }
        }
        if (sharpening != 0 && row > 0) {
            // One row behind: the border repeats above the first and below the last.
            const float *middle = rows[(row - 1) % 3];
            const float *above = row > 1 ? rows[(row - 2) % 3] : middle, *below = row < out_height ? here : middle;
            sharpened(above, middle, below, out_width, sharpening, sums, result);
            stored(result, out_width, bytes, peak, out + (row - 1) * out_stride);
        }
    }
    free(copy);
    free(scratch);
    return 0;
}

// One layer's weighted samples added to tiles. vertices: [6][rows + 2][columns + 2] x, y (indices into the plane),
// margin, share, gain, bias. lead: by how much samples are sited left of their middle. sums, totals: [tiles][cell_y *
// cell_x].
WIDE EXPORT void add_layer(const uint8_t *plane, ptrdiff_t stride, int32_t width, int32_t height, int32_t bytes,
                      const float *vertices, int32_t vertex_rows, int32_t vertex_columns, const int64_t *tile_rows,
                      const int64_t *tile_columns, const int64_t *tiles, int64_t count, int32_t cell_x, int32_t cell_y,
                      float lead, float *sums, float *totals) {
    enum { X, Y, MARGIN, SHARE, GAIN, BIAS, CHANNELS, MOST = 64 };
    Cubic cubic = cubic_for(bytes);
    const ptrdiff_t field = (ptrdiff_t)vertex_rows * vertex_columns;
    const float high_x = width - 2.001f, high_y = height - 2.001f;
    float across[3][MOST];  // what the vertices left of, in and right of a cell count for its samples
    for (int i = 0; i < cell_x; i++) {
        float at = (i + 0.5f - lead) / cell_x + 0.5f;
        across[0][i] = held(1 - at, 0, 1);
        across[1][i] = 1 - fabsf(at - 1);
        across[2][i] = held(at - 1, 0, 1);
    }
    for (int64_t t = 0; t < count; t++) {
        const float *corner = vertices + tile_rows[t] * vertex_columns + tile_columns[t];
        float *sum = sums + tiles[t] * cell_x * cell_y, *total = totals + tiles[t] * cell_x * cell_y;
        for (int row = 0; row < cell_y; row++, sum += cell_x, total += cell_x) {
            float down = (row + 0.5f) / cell_y + 0.5f, line[CHANNELS][3], values[CHANNELS][MOST], found[MOST];
            ptrdiff_t top = down >= 1 ? vertex_columns : 0;
            float share = down >= 1 ? down - 1 : down;
            for (int c = 0; c < CHANNELS; c++) {
                const float *at = corner + c * field + top;
                for (int k = 0; k < 3; k++) line[c][k] = at[k] + share * (at[vertex_columns + k] - at[k]);
            }
            for (int c = 0; c < CHANNELS; c++) {
                const float left = line[c][0], middle = line[c][1], right = line[c][2];
                for (int i = 0; i < cell_x; i++)
                    values[c][i] = left * across[0][i] + middle * across[1][i] + right * across[2][i];
            }
            for (int i = 0; i < cell_x; i++) {
                values[X][i] = held(values[X][i], 1, high_x);
                values[Y][i] = held(values[Y][i], 1, high_y);
            }
            cubic(plane, stride, values[X], values[Y], cell_x, found);
            for (int i = 0; i < cell_x; i++) {
                float weight = held(values[MARGIN][i], 0, 1) * values[SHARE][i];
                sum[i] += weight * (values[GAIN][i] * found[i] + values[BIAS][i]);
                total[i] += weight;
            }
        }
    }
}
