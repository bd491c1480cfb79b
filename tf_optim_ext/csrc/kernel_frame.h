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

// The same where `bound` is one number for a whole loop: which of the instructions are needed for
// bounds that are NaN is found before it.
static inline float minimum_of(float x, float bound) {
  const float chosen = bound < x ? bound : x;
  return float_of(bits_of(chosen) | (bound != bound ? 0x7fc00000u : 0u));
}

static inline float maximum_of(float x, float bound) {
  const float chosen = bound > x ? bound : x;
  return float_of(bits_of(chosen) | (bound != bound ? 0x7fc00000u : 0u));
}

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

// exp, log and power of float32 without branches or tables: they vectorise, which calls of the C
// library do not. The coefficients are those of the polynomials with the least largest relative
// error, 3e-9 and 4e-12.

// exp(r) * 2^n for |r| <= log(2) / 2; two factors, as 2^n alone may be no float32.
static inline float scaled_exp(float r, int32_t n) {
  float q = 1.38142e-3f;
  q = q * r + 8.3689e-3f;
  q = q * r + 4.166841e-2f;
  q = q * r + 1.6666519e-1f;
  q = q * r + 4.9999993e-1f;
  const int32_t half = n >> 1;
  const float scale = float_of(static_cast<uint32_t>(half + 127) << 23);
  return (r * r * q + r + 1.0f) * scale *
         float_of(static_cast<uint32_t>(n - half + 127) << 23);
}

static inline float exponential(float x) {
  // Beyond, the result is infinity or zero in float32.
  const float a = minimum_of(maximum_of(x, -110.0f), 90.0f);
  // Adding 1.5 * 2^23 rounds to an integer, which the low bits hold.
  const float magic = 12582912.0f;
  const float shifted = a * 1.44269504f + magic;
  const float n = shifted - magic;
  // log(2) in two parts, of which the first has so few digits that its product is exact.
  const float r = (a - n * 0.693359375f) + n * 2.12194440e-4f;
  return scaled_exp(r, static_cast<int32_t>(bits_of(shifted) - bits_of(magic)));
}

static inline uint64_t bits_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// 2^x rounded to float32; x may be NaN.
static inline float exp2_of(double x) {
  const double above = x < -160.0 ? -160.0 : x;
  const double a = above > 130.0 ? 130.0 : above;
  const double magic = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = a + magic;
  const float r = static_cast<float>((a - (shifted - magic)) * 0.6931471805599453);
  return scaled_exp(r, static_cast<int32_t>(static_cast<uint32_t>(bits_of(shifted))));
}

static inline double log2_of(float x) {
  const uint32_t bits = bits_of(x);
  const float mantissa = float_of((bits & 0x007fffffu) | 0x3f800000u);
  const bool large = mantissa > 1.41421356f;
  const int32_t exponent = static_cast<int32_t>(bits >> 23) - 127;
  const double m = large ? 0.5f * mantissa : 1.0f * mantissa;
  const double e = static_cast<double>(large ? exponent + 1 : exponent);
  // The series of 2 * atanh(s) / log(2).
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 0.34078315746032994;
  p = p * z + 0.4116699051366843;
  p = p * z + 0.577083631030961;
  p = p * z + 0.9617966731042273;
  p = p * z + 2.8853900817902756;
  const double finite = e + s * p;
  const double special = x == 0.0f ? -INFINITY : static_cast<double>(x);
  const double wide = x < INFINITY ? finite : special;  // infinity and NaN
  const double positive = x > 0.0f ? wide : special;    // zero, negative numbers and NaN
  return x < 0.0f ? static_cast<double>(NAN) : positive;
}

static inline float logarithm(float x) {
  return static_cast<float>(log2_of(x) * 0.6931471805599453);
}

static inline bool is_whole(float x) {
  const float magnitude = float_of(bits_of(x) & 0x7fffffffu);
  const float small = magnitude < 8388608.0f ? x : 0.0f;
  return (static_cast<float>(static_cast<int32_t>(small)) == small) & (x == x);
}

static inline float power(float x, float y) {
  const float magnitude = float_of(bits_of(x) & 0x7fffffffu);
  const float r = exp2_of(static_cast<double>(y) * log2_of(magnitude));
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

static inline uint32_t noise(uint32_t key, int64_t position) {
  return Scramble(static_cast<uint32_t>(position) * 0x9e3779b1u ^ key);
}

static inline uint16_t to_bfloat16(float x, uint32_t noise) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + (noise & 0xffffu)) >> 16;
  return (bits & 0x7f800000u) == 0x7f800000u ? to_bfloat16(x) : static_cast<uint16_t>(rounded);
}

static inline uint16_t to_float16(float x, uint32_t noise) {
  const uint32_t bits = bits_of(x), added = noise & 0x1fffu;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + added) >> 13;
  // In units of 2^-37, of which the smallest float16 has 2^13.
  const float small = magnitude < 0x38800000u ? float_of(magnitude) : 0.0f;
  const uint32_t denormal =
      (static_cast<uint32_t>(static_cast<int32_t>(small * 0x1p37f)) + added) >> 13;
  const uint32_t result = (magnitude >= 0x38800000u ? normal : denormal) | (bits >> 16 & 0x8000u);
  return magnitude >= 0x47800000u ? to_float16(x) : static_cast<uint16_t>(result);
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
