// SPDX-License-Identifier: Apache-2.0
// What every file here needs. They are the loops that numpy and OpenCV cannot run fast enough: one pass over the pixels each,
// no allocation that outlives a call, no state; __init__.py has their signatures, shapes and units. Compiled by hatch_build.py,
// portable C11, with AVX2 and AVX-512 where the processor has them.

#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Not on Windows: GCC keeps no stack there that AVX code may rely on, and has no target_clones.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(_WIN32)
#include <immintrin.h>
#define HAS_AVX2 __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
#define AVX2 __attribute__((target("avx2,fma")))
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif
#if defined(__clang__) && !defined(__linux__)
#undef WIDE
#define WIDE
#endif

#if defined(__GNUC__) || defined(__clang__)
#define INLINED static inline __attribute__((always_inline))
#else
#define INLINED static inline
#endif

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// NaN becomes `low`: whatever is read, it lies within.
static inline float held(float value, float low, float high) {
    value = value > low ? value : low;
    return value < high ? value : high;
}
