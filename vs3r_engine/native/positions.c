// SPDX-License-Identifier: Apache-2.0
// Where a view shows what a target sees (stages/render.py).

#include "kernels.h"

typedef struct {
    double fx, skew, cx, fy, cy, bend;
} Lens;

static inline Lens lens_of(const double K[9], double bend) { return (Lens){K[0], K[1], K[2], K[4], K[5], bend}; }

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
WIDE EXPORT void source_positions(const double *pixels, int64_t count, const double cameras[52], const double *nearness,
                                  int32_t rows, int32_t columns, double start, int32_t iterations, const double *change,
                                  int32_t change_rows, int32_t change_columns, double width, double height, double *out) {
    enum { BLOCK = 64 };
    // K and world_from_camera of the target, then of the view; then lambda of either's division model.
    const double *world_from_target = cameras + 9, *world_from_source = cameras + 34;
    const Lens target = lens_of(cameras, cameras[50]), source = lens_of(cameras + 25, cameras[51]);
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
            double w = 1 + target.bend * (u * u + v * v);
            // No ray leads to where w is not positive.
            w = w > 1e-9 ? w : NAN;
            dx[i] = m[0] * u + m[1] * v + m[2] * w;
            dy[i] = m[4] * u + m[5] * v + m[6] * w;
            dz[i] = m[8] * u + m[9] * v + m[10] * w;
            near[i] = start;
        }
        for (int k = 0;; k++) {
            for (int i = 0; i < n; i++) {
                double under = 1 - oz * near[i], ahead = dz[i] > 0 ? dz[i] : 0;
                double length = ahead * near[i] / (under > 0.05 ? under : 0.05), pz = dz[i] + oz * length;
                double per_z = 1 / (pz > 1e-9 ? pz : NAN);
                double a = (dx[i] + ox * length) * per_z, b = (dy[i] + oy * length) * per_z;
                double scale = 2 / (1 + sqrt(1 - 4 * source.bend * (a * a + b * b)));
                a *= scale, b *= scale;
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
