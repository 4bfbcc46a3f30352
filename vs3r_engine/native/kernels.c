// SPDX-License-Identifier: Apache-2.0
// The loops that numpy and OpenCV cannot run fast enough; colour has its own file. __init__.py has their signatures,
// shapes and units. Compiled by hatch_build.py.

#include "kernels.h"

// Repeated border of a copied plane, in samples: a kernel of four taps at positions held within two samples of it.
enum { BEFORE = 3, AFTER = 5 };

EXPORT int32_t kernels_version(void) { return 3; }

// --- cubic resampling -------------------------------------------------------------------------------------------------

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

// --- where a view shows what a target sees (stages/render.py) ---------------------------------------------------------

typedef struct {
    double fx, skew, cx, fy, cy;
} Lens;

static inline Lens lens_of(const double K[9]) { return (Lens){K[0], K[1], K[2], K[4], K[5]}; }

// [rows][columns] with `step` doubles a sample, read bilinearly at indices; held constant outside, NaN reads the first.
INLINED double between_doubles(const double *samples, int rows, int columns, int step, double x, double y) {
    x = x > 0 ? x : 0;
    y = y > 0 ? y : 0;
    x = x < columns - 1 ? x : columns - 1;
    y = y < rows - 1 ? y : rows - 1;
    int left = (int)x, top = (int)y, last_left = columns > 1 ? columns - 2 : 0, last_top = rows > 1 ? rows - 2 : 0;
    left = left < last_left ? left : last_left;
    top = top < last_top ? top : last_top;
    int right = columns > 1 ? step : 0, down = rows > 1 ? columns * step : 0, at = (top * columns + left) * step;
    double across = x - left, upper = samples[at] + (samples[at + right] - samples[at]) * across;
    double lower = samples[at + down] + (samples[at + down + right] - samples[at + down]) * across;
    return upper + (lower - upper) * (y - top);
}

// Points are worked on in blocks, each step in a loop of its own, so that compilers use wide registers.
WIDE EXPORT void source_positions(const double *pixels, int64_t count, const double cameras[50], const double *nearness,
                                  int32_t rows, int32_t columns, double start, int32_t iterations, const double *change,
                                  int32_t change_rows, int32_t change_columns, double width, double height, double *out) {
    enum { BLOCK = 64 };
    // K and world_from_camera of the target, then of the view.
    const double *world_from_target = cameras + 9, *world_from_source = cameras + 34;
    const Lens target = lens_of(cameras), source = lens_of(cameras + 25);
    double m[12];  // source_from_target, its upper three rows
    for (int row = 0; row < 3; row++)
        for (int column = 0; column < 4; column++) {
            double sum = 0;
            for (int k = 0; k < 3; k++)
                sum += world_from_source[4 * k + row] * (world_from_target[4 * k + column] - (column == 3 ? world_from_source[4 * k + 3] : 0));
            m[4 * row + column] = sum;
        }
    const double ox = m[3], oy = m[7], oz = m[11];
    const double per_fx = 1 / target.fx, per_fy = 1 / target.fy, to_x = columns / width, to_y = rows / height;
    const double to_change_x = (change_columns - 1) / width, to_change_y = (change_rows - 1) / height;
    for (int64_t first = 0; first < count; first += BLOCK, pixels += 2 * BLOCK, out += 2 * BLOCK) {
        const int n = count - first < BLOCK ? (int)(count - first) : BLOCK;
        double dx[BLOCK], dy[BLOCK], dz[BLOCK], near[BLOCK], x[BLOCK], y[BLOCK];
        for (int i = 0; i < n; i++) {
            double v = (pixels[2 * i + 1] - target.cy) * per_fy;
            double u = (pixels[2 * i] - target.cx - target.skew * v) * per_fx;
            dx[i] = m[0] * u + m[1] * v + m[2];
            dy[i] = m[4] * u + m[5] * v + m[6];
            dz[i] = m[8] * u + m[9] * v + m[10];
            near[i] = start;
        }
        for (int k = 0;; k++) {
            for (int i = 0; i < n; i++) {
                double under = 1 - oz * near[i], ahead = dz[i] > 0 ? dz[i] : 0;
                double length = ahead * near[i] / (under > 0.05 ? under : 0.05), pz = dz[i] + oz * length;
                double per_z = 1 / (pz > 1e-9 ? pz : NAN);
                double a = (dx[i] + ox * length) * per_z, b = (dy[i] + oy * length) * per_z;
                x[i] = source.fx * a + source.skew * b + source.cx;
                y[i] = source.fy * b + source.cy;
            }
            if (k == iterations) break;
            // The depth that counts is that of where the ray lands, which depends on it.
            for (int i = 0; i < n; i++)
                near[i] = between_doubles(nearness, rows, columns, 1, x[i] * to_x - 0.5, y[i] * to_y - 0.5);
        }
        for (int i = 0; i < n; i++) {
            out[2 * i] = x[i];
            out[2 * i + 1] = y[i];
        }
        if (!change) continue;
        for (int i = 0; i < n; i++) {
            out[2 * i] += between_doubles(change, change_rows, change_columns, 2, x[i] * to_change_x, y[i] * to_change_y);
            out[2 * i + 1] += between_doubles(change + 1, change_rows, change_columns, 2, x[i] * to_change_x, y[i] * to_change_y);
        }
    }
}

// --- filling (methods/temporal) ---------------------------------------------------------------------------------------

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

// --- aligning an anchor with the frame being completed (methods/temporal/alignment.py) --------------------------------

// Where to read an image [height][width] bilinearly: [count] samples left above, and the shares of those right of and below them.
typedef struct {
    int width, height;
    int64_t count;
    int32_t *corner;
    float *across, *down;
} Places;

// At indices x, y [count]; outside the border repeats.
WIDE static void placed(const Places *places, const float *x, const float *y) {
    const int last_left = places->width > 1 ? places->width - 2 : 0, last_top = places->height > 1 ? places->height - 2 : 0;
    for (int64_t i = 0; i < places->count; i++) {
        float at_x = held(x[i], 0, places->width - 1.0f), at_y = held(y[i], 0, places->height - 1.0f);
        int left = (int)at_x, top = (int)at_y;
        left = left < last_left ? left : last_left;
        top = top < last_top ? top : last_top;
        places->corner[i] = top * places->width + left;
        places->across[i] = at_x - left;
        places->down[i] = at_y - top;
    }
}

// The first of the `step` floats of every sample. Not WIDE: eight loads are faster than a gather.
static void read_at(const Places *places, const float *image, int step, float *out) {
    const ptrdiff_t right = places->width > 1 ? step : 0, below = places->height > 1 ? (ptrdiff_t)places->width * step : 0;
    for (int64_t i = 0; i < places->count; i++) {
        const float *at = image + (ptrdiff_t)places->corner[i] * step, *under = at + below;
        float upper = at[0] + (at[right] - at[0]) * places->across[i], lower = under[0] + (under[right] - under[0]) * places->across[i];
        out[i] = upper + (lower - upper) * places->down[i];
    }
}

enum { MOST_TERMS = 8, MOST_RADIUS = 5 };

// Means of `count` values over windows of (2 * radius + 1) squared cells, nothing outside. scratch: as large as out, with
// MOST_RADIUS cells more on all sides.
INLINED void box_mean(const float *restrict in, float *restrict out, float *restrict scratch, int rows, int columns, const int count,
                      const int radius) {
    const ptrdiff_t line = (ptrdiff_t)columns * count, margin = radius * count;
    const float scale = 1.0f / ((2 * radius + 1) * (2 * radius + 1));
    float *padded = scratch, *across = scratch + line + 2 * margin;
    memset(scratch, 0, sizeof(float) * (line + 2 * margin + radius * line));
    memset(across + (radius + rows) * line, 0, sizeof(float) * radius * line);
    for (int row = 0; row < rows; row++) {
        float *to = across + (radius + row) * line;
        memcpy(padded + margin, in + row * line, sizeof(float) * line);
        for (ptrdiff_t k = 0; k < line; k++) {
            float sum = 0;
            for (int i = 0; i <= 2 * radius; i++) sum += padded[i * count + k];
            to[k] = sum * scale;
        }
    }
    for (ptrdiff_t k = 0; k < rows * line; k++) {
        float sum = 0;
        for (int i = 0; i <= 2 * radius; i++) sum += across[i * line + k];
        out[k] = sum;
    }
}

// Inlined with a constant `count`, so that its loops become a few wide instructions.
// sums [cells][count] becomes what counts at each cell: its near, its wider surroundings and everything.
INLINED void pooled(float *sums, float *local, float *wide, float *scratch, int rows, int columns, const int count,
                          const float pools[3]) {
    const ptrdiff_t cells = (ptrdiff_t)rows * columns;
    double everything[MOST_TERMS] = {0};
    for (ptrdiff_t i = 0; i < cells; i++)
        for (int k = 0; k < count; k++) everything[k] += sums[i * count + k];
    box_mean(sums, wide, scratch, rows, columns, count, 1);
    box_mean(wide, local, scratch, rows, columns, count, 1);
    box_mean(local, wide, scratch, rows, columns, count, MOST_RADIUS);
    for (ptrdiff_t i = 0; i < cells; i++)
        for (int k = 0; k < count; k++) {
            ptrdiff_t at = i * count + k;
            sums[at] = pools[0] * local[at] + pools[1] * wide[at] + pools[2] * (float)(everything[k] / cells);
        }
}

static inline float ratio(float wanted, float found, float known, float pedestal, float most) {
    float tiny = 1e-6f, pedestals = pedestal * (known + tiny);
    return held((wanted + pedestals) / (found + pedestals), 1 / most, most);
}

// Where a template's pixels lie among the cells, and room to pool in: [cells][8] each, spare with a margin.
typedef struct {
    int32_t rows, columns;
    int64_t count, occupied_count;
    const int64_t *occupied, *starts;
    float *sums, *local, *wide, *spare;
} Band;

INLINED int64_t end_of(const Band *band, int64_t m) { return m + 1 < band->occupied_count ? band->starts[m + 1] : band->count; }

// band->sums becomes [cells][1 + count]: pooled sums of the weight, and of `count` values [n] times the weight.
INLINED void weighted_sums(const Band *band, const float *weight, const float *const *values, const int count, const float pools[3]) {
    const int terms = 1 + count;
    memset(band->sums, 0, sizeof(float) * terms * band->rows * band->columns);
    for (int64_t m = 0; m < band->occupied_count; m++) {
        float *sum = band->sums + terms * band->occupied[m];
        for (int64_t i = band->starts[m]; i < end_of(band, m); i++) {
            sum[0] += weight[i];
            for (int k = 0; k < count; k++) sum[1 + k] += values[k][i] * weight[i];
        }
    }
    pooled(band->sums, band->local, band->wide, band->spare, band->rows, band->columns, terms, pools);
}

// Near the weight where pictures agree as well as most do, falling with the square of the disagreement.
INLINED void trust(const float *difference, const float *weight, int64_t count, float least, float *trusted) {
    double disagreement = 0, total = 0;
    for (int64_t i = 0; i < count; i++) disagreement += fabsf(difference[i]) * weight[i];
    for (int64_t i = 0; i < count; i++) total += weight[i];
    float typical = (float)(2 * disagreement / (total + 1e-6)), per_level = 1 / (typical > least ? typical : least);
    for (int64_t i = 0; i < count; i++) {
        float relative = difference[i] * per_level;
        trusted[i] = weight[i] / (1 + relative * relative);
    }
}

// One anchor on the template; see alignment.aligned. tuning: pedestal, noise, least robust level, most gain, most shift, moving
// evidence, what makes a shift worthwhile. planes: 1 or 3. found: [cells][planes] gain and bias, [cells] mismatch.
WIDE EXPORT int32_t align(const float *vertices, int32_t rows, int32_t columns, int64_t count, const float *at_cells,
                     const float *template_weight, const float *const template_levels[3], const float *picture,
                     const float *const levels[3], const float *small, const float *still, int32_t width, int32_t height, int32_t planes,
                     const uint8_t *is_chroma, const float bounds[4], int64_t occupied_count, const int64_t *occupied,
                     const int64_t *starts, const float pools[9], const float tuning[7], float *shift, float *gain, float *bias,
                     float *mismatch) {
    enum { TERMS = MOST_TERMS, ROWS = 19 };
    const float pedestal = tuning[0], noise = tuning[1], least = tuning[2], most_gain = tuning[3], most = tuning[4], moving = tuning[5];
    const ptrdiff_t cells = (ptrdiff_t)rows * columns;
    const size_t padded = sizeof(float) * TERMS * (rows + 2 * MOST_RADIUS + 1) * (columns + 2 * MOST_RADIUS);
    float *scratch = malloc(sizeof(float) * (ROWS * count + (3 * TERMS + 1) * cells) + padded);
    if (!scratch) return -1;
    float *row[ROWS], *luma_gain = scratch + ROWS * count, *sums = luma_gain + cells;
    for (int k = 0; k < ROWS; k++) row[k] = scratch + k * count;
    float *x = row[0], *y = row[1], *weight = row[2], *here_x = row[3], *here_y = row[4], *left = row[5], *trusted = row[6], *gain_here = row[7];
    float *at_x = row[8], *at_y = row[9], **seen = row + 10;
    const Places among_cells = {columns, rows, count, (int32_t *)row[13], row[14], row[15]};
    const Places in_anchor = {width, height, count, (int32_t *)row[16], row[17], row[18]};
    const Band band = {rows, columns, count, occupied_count, occupied, starts,
                       sums, sums + TERMS * cells, sums + 2 * TERMS * cells, sums + 3 * TERMS * cells};
    for (int64_t i = 0; i < count; i++) {
        at_x[i] = at_cells[2 * i];
        at_y[i] = at_cells[2 * i + 1];
        here_x[i] = at_x[i] + 1;
        here_y[i] = at_y[i] + 1;
    }
    placed(&among_cells, at_x, at_y);
    const Places among_vertices = {columns + 2, rows + 2, count, in_anchor.corner, in_anchor.across, in_anchor.down};
    placed(&among_vertices, here_x, here_y);
    read_at(&among_vertices, vertices, 2, x);
    read_at(&among_vertices, vertices + 1, 2, y);
    for (int64_t i = 0; i < count; i++) {
        int inside = (x[i] >= bounds[0]) & (y[i] >= bounds[1]) & (x[i] <= bounds[2]) & (y[i] <= bounds[3]);
        weight[i] = inside ? template_weight[i] : 0;
    }
    if (still) {
        placed(&in_anchor, x, y);
        read_at(&in_anchor, still, 1, left);
        for (int64_t i = 0; i < count; i++) weight[i] *= left[i] > moving ? left[i] : moving;
    }
    memset(shift, 0, sizeof(float) * 2 * cells);
    for (int level = 0; level < 3; level++) {
        const float *luma = template_levels[level], *gx = luma + count, *gy = gx + count, *pool = pools + 3 * level;
        read_at(&among_cells, shift, 2, here_x);
        read_at(&among_cells, shift + 1, 2, here_y);
        for (int64_t i = 0; i < count; i++) at_x[i] = x[i] + here_x[i], at_y[i] = y[i] + here_y[i];
        placed(&in_anchor, at_x, at_y);
        read_at(&in_anchor, levels[level], 1, seen[0]);
        if (level == 0) {
            weighted_sums(&band, weight, (const float *[]){luma, seen[0]}, 2, pool);
            for (ptrdiff_t i = 0; i < cells; i++)
                luma_gain[i] = ratio(sums[3 * i + 1], sums[3 * i + 2], sums[3 * i], pedestal, most_gain);
        }
        read_at(&among_cells, luma_gain, 1, gain_here);
        for (int64_t i = 0; i < count; i++) left[i] = luma[i] + pedestal - (seen[0][i] + pedestal) * gain_here[i];
        trust(left, weight, count, least, trusted);
        // What would be left to explain were the shift taken back: pooling acts on the whole shift, not its last step.
        for (int64_t i = 0; i < count; i++) left[i] += gx[i] * here_x[i] + gy[i] * here_y[i];
        memset(sums, 0, sizeof(float) * TERMS * cells);
        for (int64_t m = 0; m < occupied_count; m++) {
            float *sum = sums + TERMS * occupied[m];
            for (int64_t i = starts[m]; i < end_of(&band, m); i++) {
                float t = trusted[i], tx = gx[i] * t, ty = gy[i] * t;
                sum[0] += tx * gx[i];
                sum[1] += tx * gy[i];
                sum[2] += ty * gy[i];
                sum[3] += tx * left[i];
                sum[4] += ty * left[i];
                sum[5] += luma[i] * t;
                sum[6] += seen[0][i] * t;
                sum[7] += t;
            }
        }
        pooled(sums, band.local, band.wide, band.spare, rows, columns, TERMS, pool);
        for (ptrdiff_t i = 0; i < cells; i++) {
            const float *s = sums + TERMS * i;
            float xx = s[0] + noise, xy = s[1], yy = s[2] + noise, scale = 1 / (xx * yy - xy * xy);
            shift[2 * i] = held((yy * s[3] - xy * s[4]) * scale, -most, most);
            shift[2 * i + 1] = held((xx * s[4] - xy * s[3]) * scale, -most, most);
            luma_gain[i] = ratio(s[5], s[6], s[7], pedestal, most_gain);
        }
    }
    // Every plane's exposure with the shift found.
    read_at(&among_cells, shift, 2, here_x);
    read_at(&among_cells, shift + 1, 2, here_y);
    for (int64_t i = 0; i < count; i++) at_x[i] = x[i] + here_x[i], at_y[i] = y[i] + here_y[i];
    placed(&in_anchor, at_x, at_y);
    for (int p = 0; p < planes; p++) read_at(&in_anchor, small + p, planes, seen[p]);
    for (int64_t i = 0; i < count; i++) left[i] = picture[i] - seen[0][i];
    trust(left, weight, count, least, trusted);
    if (planes == 1)
        weighted_sums(&band, trusted, (const float *[]){picture, seen[0]}, 2, pools + 6);
    else
        weighted_sums(&band, trusted, (const float *[]){picture, picture + count, picture + 2 * count, seen[0], seen[1], seen[2]}, 6, pools + 6);
    for (ptrdiff_t i = 0; i < cells; i++)
        for (int p = 0; p < planes; p++) {
            const float *s = sums + (1 + 2 * planes) * i;
            float wanted = s[1 + p], found = s[1 + planes + p], own = is_chroma[p] ? 1 : ratio(wanted, found, s[0], pedestal, most_gain);
            gain[planes * i + p] = own;
            bias[planes * i + p] = is_chroma[p] ? (wanted - found) / (s[0] + 1e-9f) : pedestal * (own - 1);
        }
    // What differs even so, and without the shift: where geometry was right already, a shift is but noise.
    read_at(&among_cells, gain, planes, gain_here);
    float *shifted = here_x, *unshifted = here_y;
    placed(&in_anchor, x, y);
    read_at(&in_anchor, levels[2], 1, left);
    for (int64_t i = 0; i < count; i++) {
        float wanted = picture[i] + pedestal;
        shifted[i] = fabsf(wanted - (seen[0][i] + pedestal) * gain_here[i]);
        unshifted[i] = fabsf(wanted - (left[i] + pedestal) * gain_here[i]);
    }
    weighted_sums(&band, weight, (const float *[]){shifted, unshifted}, 2, pools + 6);
    for (ptrdiff_t i = 0; i < cells; i++) {
        float known = sums[3 * i], moved = sums[3 * i + 1], geometric = sums[3 * i + 2];
        float worth = held((1 - moved / (geometric + 1e-9f)) / tuning[6], 0, 1);
        mismatch[i] = (geometric + worth * (moved - geometric)) / (known + 1e-9f);
        shift[2 * i] *= worth;
        shift[2 * i + 1] *= worth;
    }
    free(scratch);
    return 0;
}
