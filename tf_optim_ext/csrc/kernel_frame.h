// What the generated kernels are written in. Included once per instruction set: everything here is
// `static`, and nothing comes from the C++ library, because an inline function compiled for one
// instruction set must never be linked into another.
#ifndef TF_OPTIM_EXT_NATIVE_KERNEL_FRAME_H_
#define TF_OPTIM_EXT_NATIVE_KERNEL_FRAME_H_

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "kernel.h"

namespace tf_optim_ext {
namespace TF_OPTIM_EXT_ISA {

#include "kernel_math.h"

// The processor fetches ahead by itself, but not beyond a page, and not far while it computes roots
// and quotients: loops ask for so many elements, of so many per line of the cache, that far ahead.
// (Not in a function: GCC drops calls of functions that only prefetch.)
constexpr int64_t kFetched = 64, kLine = 16, kAhead = 256;

// Reductions work on strips of this many elements in this many lanes, on every instruction set and
// for any number of threads: the order of the additions is part of the result.
constexpr int64_t kStrip = 256;
constexpr int64_t kLanes = 16;

static inline void add_strip(double* lanes, const float* x, int64_t n) {
  float strip[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) strip[lane] += x[i + lane];
  for (int64_t lane = 0; i + lane < n; ++lane) strip[lane] += x[i + lane];
  for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<double>(strip[lane]);
}

static inline double sum_of_lanes(double* lanes) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

static inline void max_strip(double* lanes, const float* x, int64_t n) {
  float strip[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      strip[lane] = maximum(strip[lane], x[i + lane]);
  for (int64_t lane = 0; i + lane < n; ++lane) strip[lane] = maximum(strip[lane], x[i + lane]);
  for (int64_t lane = 0; lane < kLanes; ++lane)
    lanes[lane] = maximum(lanes[lane], static_cast<double>(strip[lane]));
}

static inline double max_of_lanes(double* lanes) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane)
      lanes[lane] = maximum(lanes[lane], lanes[lane + half]);
  return lanes[0];
}

static void load(Format format, const uint16_t* __restrict from, float* __restrict to, int64_t n) {
  int64_t i = 0;
  if (format == kBFloat16) {
    for (; i < n; ++i) to[i] = from_bfloat16(from[i]);
    return;
  }
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
#endif
  for (; i < n; ++i) to[i] = from_float16(from[i]);
}

static void store(Format format, const float* __restrict from, uint16_t* __restrict to, int64_t n) {
  int64_t i = 0;
  if (format == kBFloat16) {
    for (; i < n; ++i) to[i] = to_bfloat16(from[i]);
    return;
  }
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to + i),
        _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; ++i) to[i] = to_float16(from[i]);
}

static void store_randomly(Format format, const float* __restrict from, uint16_t* __restrict to,
                           int64_t n, uint32_t key, int64_t first) {
  if (format == kBFloat16) {
    for (int64_t i = 0; i < n; ++i) to[i] = to_bfloat16(from[i], noise(key, first + i));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = to_float16(from[i], noise(key, first + i));
  }
}

// Double has room for the square of every float32, and all of its digits.
template <typename Number>
static inline double add_squares(const Number* x, int64_t n) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = static_cast<double>(x[i + lane]);
      lanes[lane] += value * value;
    }
  for (int64_t lane = 0; i + lane < n; ++lane) {
    const double value = static_cast<double>(x[i + lane]);
    lanes[lane] += value * value;
  }
  return sum_of_lanes(lanes);
}

static double sum_of_squares(const float* x, int64_t n) { return add_squares(x, n); }

static double sum_of_squares_of_doubles(const double* x, int64_t n) { return add_squares(x, n); }

template <int kCount>
static void stream_loop(float* const* arrays, const float* g, int64_t n) {
  float* a[kCount];
  for (int k = 0; k < kCount; ++k) a[k] = arrays[k];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i)
    for (int k = 0; k < kCount; ++k) a[k][i] += g[i];
}

static void stream(int count, float* const* arrays, const float* g, int64_t n) {
  if (count == 1) stream_loop<1>(arrays, g, n);
  if (count == 2) stream_loop<2>(arrays, g, n);
  if (count == 3) stream_loop<3>(arrays, g, n);
  if (count == 4) stream_loop<4>(arrays, g, n);
}

}  // namespace TF_OPTIM_EXT_ISA
}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_KERNEL_FRAME_H_
