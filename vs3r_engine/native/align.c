// SPDX-License-Identifier: Apache-2.0
// An anchor laid on the frame that is being completed (methods/temporal/alignment.py).

#include "kernels.h"

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

// out [count] each: the floats of every sample, which are `count` each. Not WIDE: eight loads are faster than a gather.
INLINED void read_each(const Places *places, const float *image, const int count, float *const out[]) {
    const ptrdiff_t right = places->width > 1 ? count : 0, below = places->height > 1 ? (ptrdiff_t)places->width * count : 0;
    for (int64_t i = 0; i < places->count; i++) {
        const float *at = image + (ptrdiff_t)places->corner[i] * count, *under = at + below;
        const float across = places->across[i], down = places->down[i];
        for (int k = 0; k < count; k++) {
            float upper = at[k] + (at[right + k] - at[k]) * across, lower = under[k] + (under[right + k] - under[k]) * across;
            out[k][i] = upper + (lower - upper) * down;
        }
    }
}

static void read_one(const Places *places, const float *image, float *out) { read_each(places, image, 1, (float *const[]){out}); }

static void read_pair(const Places *places, const float *image, float *x, float *y) { read_each(places, image, 2, (float *const[]){x, y}); }

static void read_three(const Places *places, const float *image, float *const out[3]) { read_each(places, image, 3, out); }

enum { LEVELS = 2, MOST_TERMS = 8, MOST_RADIUS = 5 };

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
                     const float *template_weight, const float *const template_levels[LEVELS], const float *picture,
                     const float *const levels[LEVELS], const float *small, const float *still, int32_t width, int32_t height, int32_t planes,
                     const uint8_t *is_chroma, const float bounds[4], int64_t occupied_count, const int64_t *occupied,
                     const int64_t *starts, const float pools[3], const float tuning[7], float *shift, float *gain, float *bias,
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
    read_pair(&among_vertices, vertices, x, y);
    for (int64_t i = 0; i < count; i++) {
        int inside = (x[i] >= bounds[0]) & (y[i] >= bounds[1]) & (x[i] <= bounds[2]) & (y[i] <= bounds[3]);
        weight[i] = inside ? template_weight[i] : 0;
    }
    placed(&in_anchor, x, y);
    if (still) {
        read_one(&in_anchor, still, left);
        for (int64_t i = 0; i < count; i++) weight[i] *= left[i] > moving ? left[i] : moving;
    }
    memset(here_x, 0, sizeof(float) * count);
    memset(here_y, 0, sizeof(float) * count);
    for (int level = 0; level < LEVELS; level++) {
        const float *luma = template_levels[level], *gx = luma + count, *gy = gx + count;
        if (level) {
            read_pair(&among_cells, shift, here_x, here_y);
            for (int64_t i = 0; i < count; i++) at_x[i] = x[i] + here_x[i], at_y[i] = y[i] + here_y[i];
            placed(&in_anchor, at_x, at_y);
        }
        read_one(&in_anchor, levels[level], seen[0]);
        if (level == 0) {
            weighted_sums(&band, weight, (const float *[]){luma, seen[0]}, 2, pools);
            for (ptrdiff_t i = 0; i < cells; i++)
                luma_gain[i] = ratio(sums[3 * i + 1], sums[3 * i + 2], sums[3 * i], pedestal, most_gain);
        }
        read_one(&among_cells, luma_gain, gain_here);
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
        pooled(sums, band.local, band.wide, band.spare, rows, columns, TERMS, pools);
        for (ptrdiff_t i = 0; i < cells; i++) {
            const float *s = sums + TERMS * i;
            float xx = s[0] + noise, xy = s[1], yy = s[2] + noise, scale = 1 / (xx * yy - xy * xy);
            shift[2 * i] = held((yy * s[3] - xy * s[4]) * scale, -most, most);
            shift[2 * i + 1] = held((xx * s[4] - xy * s[3]) * scale, -most, most);
            luma_gain[i] = ratio(s[5], s[6], s[7], pedestal, most_gain);
        }
    }
    // Every plane's exposure with the shift found.
    read_pair(&among_cells, shift, here_x, here_y);
    for (int64_t i = 0; i < count; i++) at_x[i] = x[i] + here_x[i], at_y[i] = y[i] + here_y[i];
    placed(&in_anchor, at_x, at_y);
    if (planes == 1)
        read_one(&in_anchor, small, seen[0]);
    else
        read_three(&in_anchor, small, seen);
    for (int64_t i = 0; i < count; i++) left[i] = picture[i] - seen[0][i];
    trust(left, weight, count, least, trusted);
    if (planes == 1)
        weighted_sums(&band, trusted, (const float *[]){picture, seen[0]}, 2, pools);
    else
        weighted_sums(&band, trusted, (const float *[]){picture, picture + count, picture + 2 * count, seen[0], seen[1], seen[2]}, 6, pools);
    for (ptrdiff_t i = 0; i < cells; i++)
        for (int p = 0; p < planes; p++) {
            const float *s = sums + (1 + 2 * planes) * i;
            float wanted = s[1 + p], found = s[1 + planes + p], own = is_chroma[p] ? 1 : ratio(wanted, found, s[0], pedestal, most_gain);
            gain[planes * i + p] = own;
            bias[planes * i + p] = is_chroma[p] ? (wanted - found) / (s[0] + 1e-9f) : pedestal * (own - 1);
        }
    // What differs even so, and without the shift: where geometry was right already, a shift is but noise.
    for (ptrdiff_t i = 0; i < cells; i++) luma_gain[i] = gain[planes * i];
    read_one(&among_cells, luma_gain, gain_here);
    float *shifted = here_x, *unshifted = here_y;
    placed(&in_anchor, x, y);
    read_one(&in_anchor, levels[LEVELS - 1], left);
    for (int64_t i = 0; i < count; i++) {
        float wanted = picture[i] + pedestal;
        shifted[i] = fabsf(wanted - (seen[0][i] + pedestal) * gain_here[i]);
        unshifted[i] = fabsf(wanted - (left[i] + pedestal) * gain_here[i]);
    }
    weighted_sums(&band, weight, (const float *[]){shifted, unshifted}, 2, pools);
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
