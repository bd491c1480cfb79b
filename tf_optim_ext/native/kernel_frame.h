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

// Two simple selections each: compilers turn them into vector instructions, nested ones they do not.
template <typename T>
static inline T sign(T x) {
  const T chosen = x < 0 ? T(-1) : x;
  return x > 0 ? T(1) : chosen;
}

template <typename T>
static inline T minimum(T x, T y) {
  const T chosen = x < y ? x : y;
  return x != x ? x : chosen;
}

template <typename T>
static inline T maximum(T x, T y) {
  const T chosen = x > y ? x : y;
  return x != x ? x : chosen;
}

// Reductions work on strips of this many elements in this many lanes, on every instruction set and
// for any number of threads: the order of the additions is part of the result.
constexpr int64_t kStrip = 256;
constexpr int64_t kLanes = 16;

static inline double strip_sum(double sum, const float* x, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane];
  for (int64_t lane = 0; i + lane < n; ++lane) lanes[lane] += x[i + lane];
  double strip = 0.0;
  for (int64_t lane = 0; lane < kLanes; ++lane) strip += static_cast<double>(lanes[lane]);
  return sum + strip;
}

static inline double strip_max(double highest, const float* x, int64_t n) {
  float strip = 0.0f;
  for (int64_t i = 0; i < n; ++i) strip = maximum(strip, x[i]);
  return maximum(highest, static_cast<double>(strip));
}

static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Two steps of Halley's method from a guess by the exponent; written so that it vectorises, which a
// call of `cbrtf` does not. Large numbers are scaled so that their cube cannot overflow.
static inline float cube_root(float x) {
  const float magnitude = float_of(bits_of(x) & 0x7fffffffu);
  const float scale = magnitude > 0x1p100f ? 0x1p-48f : 1.0f;
  const float unscale = magnitude > 0x1p100f ? 0x1p16f : 1.0f;
  const float a = magnitude * scale;
  const float bits = static_cast<float>(static_cast<int32_t>(bits_of(a)));
  float y = float_of(static_cast<uint32_t>(static_cast<int32_t>(bits * (1.0f / 3.0f)) + 709921077));
  for (int k = 0; k < 2; ++k) {
    const float cube = y * y * y;
    y = y - y * ((cube - a) / (2.0f * cube + a));
  }
  // Zeros, infinities and NaN are their own roots.
  const float finite = magnitude < INFINITY ? y * unscale : magnitude;
  const float root = magnitude > 0.0f ? finite : magnitude;
  return float_of(bits_of(root) | (bits_of(x) & 0x80000000u));
}

// exp, log and power of float32, in double inside, and without branches or tables: they vectorise,
// which calls of the C library do not.
static inline double double_of(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline uint64_t bits_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float exp_of(double x) {
  // Beyond, the result is infinity or zero in float32.
  const double above = x < -200.0 ? -200.0 : x;
  const double a = above > 200.0 ? 200.0 : above;
  // Adding 1.5 * 2^52 rounds to an integer, which the low bits hold.
  const double magic = 6755399441055744.0;
  const double shifted = a * 1.4426950408889634 + magic;
  const double r = a - (shifted - magic) * 0.6931471805599453;
  double p = 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return static_cast<float>(p * double_of((bits_of(shifted) - bits_of(magic) + 1023) << 52));
}

static inline double log_of(float x) {
  const uint32_t bits = bits_of(x);
  const float mantissa = float_of((bits & 0x007fffffu) | 0x3f800000u);
  const bool large = mantissa > 1.41421356f;
  const int32_t exponent = static_cast<int32_t>(bits >> 23) - 127;
  const double m = large ? 0.5 * mantissa : 1.0 * mantissa;
  const double e = static_cast<double>(large ? exponent + 1 : exponent);
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 1.0 / 13;
  p = p * z + 1.0 / 11;
  p = p * z + 1.0 / 9;
  p = p * z + 1.0 / 7;
  p = p * z + 1.0 / 5;
  p = p * z + 1.0 / 3;
  p = p * z + 1.0;
  const double finite = e * 0.6931471805599453 + 2.0 * s * p;
  const double special = x == 0.0f ? -INFINITY : static_cast<double>(x);
  const double wide = x < INFINITY ? finite : special;  // infinity and NaN
  const double positive = x > 0.0f ? wide : special;    // zero, negative numbers and NaN
  return x < 0.0f ? static_cast<double>(NAN) : positive;
}

static inline float exponential(float x) { return exp_of(static_cast<double>(x)); }

static inline float logarithm(float x) { return static_cast<float>(log_of(x)); }

static inline bool is_whole(float x) {
  const float magnitude = float_of(bits_of(x) & 0x7fffffffu);
  const float small = magnitude < 8388608.0f ? x : 0.0f;
  return (static_cast<float>(static_cast<int32_t>(small)) == small) & (x == x);
}

static inline float power(float x, float y) {
  const float magnitude = float_of(bits_of(x) & 0x7fffffffu);
  const float r = exp_of(static_cast<double>(y) * log_of(magnitude));
  const bool whole = is_whole(y);
  const bool odd = whole & !is_whole(0.5f * y);
  // Negative bases: the sign of an odd power; NaN unless the exponent is whole.
  const float with_sign = float_of(bits_of(r) ^ (bits_of(x) & (odd ? 0x80000000u : 0u)));
  const float invalid = whole ? with_sign : NAN;
  const float of_finite = magnitude < INFINITY ? invalid : with_sign;
  const float defined = x < 0.0f ? of_finite : with_sign;
  // 1 whatever the other one is: base 1, exponent 0, and -1 to an infinite one.
  const float of_minus_one = float_of(bits_of(y) & 0x7fffffffu) == INFINITY ? 1.0f : x;
  const float base = x == -1.0f ? of_minus_one : x;
  const float special = y == 0.0f ? 1.0f : base;
  return special == 1.0f ? 1.0f : defined;
}

static inline float from_bfloat16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

static inline uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

// The arithmetic below meets no denormal float32, so it holds with denormals flushed, too.
static inline float from_float16(uint16_t x) {
  const uint32_t magnitude = static_cast<uint32_t>(x & 0x7fffu) << 13;
  const uint32_t normal = magnitude + (112u << 23);
  const uint32_t special = magnitude + (224u << 23);
  const float denormal = float_of(magnitude + (113u << 23)) - float_of(113u << 23);
  const uint32_t result = (x & 0x7fffu) >= 0x7c00u  ? special
                          : (x & 0x7fffu) >= 0x0400u ? normal
                                                     : bits_of(denormal);
  return float_of(result | static_cast<uint32_t>(x & 0x8000u) << 16);
}

static inline uint16_t to_float16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t denormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t result = magnitude >= 0x47800000u   ? special
                          : magnitude >= 0x38800000u ? normal
                                                     : denormal;
  return static_cast<uint16_t>(result | (bits >> 16 & 0x8000u));
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

static double sum_of_squares(const float* x, int64_t n) {
  double sum = 0.0;
  for (int64_t begin = 0; begin < n; begin += kStrip) {
    const int64_t m = n - begin < kStrip ? n - begin : kStrip;
    float squares[kStrip];
    for (int64_t j = 0; j < m; ++j) squares[j] = x[begin + j] * x[begin + j];
    sum = strip_sum(sum, squares, m);
  }
  return sum;
}

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
