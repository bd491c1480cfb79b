// Functions of single numbers that kernels are written in, on processors and on GPUs. To be included
// within a namespace, after <math.h>, <stdint.h>, <string.h> and "random_bits.h", or what stands for them
// on a GPU. TF_OPTIM_EXT_INLINE says how a function is declared there.

TF_OPTIM_EXT_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

TF_OPTIM_EXT_INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Two simple selections each: compilers turn them into vector instructions, nested ones they do not.
template <typename T>
TF_OPTIM_EXT_INLINE T sign(T x) {
  const T chosen = x < 0 ? T(-1) : x;
  return x > 0 ? T(1) : chosen;
}

template <typename T>
TF_OPTIM_EXT_INLINE T minimum(T x, T y) {
  const T chosen = x < y ? x : y;
  return x != x ? x : chosen;
}

template <typename T>
TF_OPTIM_EXT_INLINE T maximum(T x, T y) {
  const T chosen = x > y ? x : y;
  return x != x ? x : chosen;
}

// The same where `bound` is one number for a whole loop: which of the instructions are needed for
// bounds that are NaN is found before it.
TF_OPTIM_EXT_INLINE float minimum_of(float x, float bound) {
  const float chosen = bound < x ? bound : x;
  return float_of(bits_of(chosen) | (bound != bound ? 0x7fc00000u : 0u));
}

TF_OPTIM_EXT_INLINE float maximum_of(float x, float bound) {
  const float chosen = bound > x ? bound : x;
  return float_of(bits_of(chosen) | (bound != bound ? 0x7fc00000u : 0u));
}

// Two steps of Halley's method from a guess by the exponent; written so that it vectorises, which a
// call of `cbrtf` does not. Large numbers are scaled so that their cube cannot overflow.
TF_OPTIM_EXT_INLINE float cube_root(float x) {
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
TF_OPTIM_EXT_INLINE float scaled_exp(float r, int32_t n) {
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

TF_OPTIM_EXT_INLINE float exponential(float x) {
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

TF_OPTIM_EXT_INLINE uint64_t bits_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// 2^x rounded to float32; x may be NaN.
TF_OPTIM_EXT_INLINE float exp2_of(double x) {
  const double above = x < -160.0 ? -160.0 : x;
  const double a = above > 130.0 ? 130.0 : above;
  const double magic = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = a + magic;
  const float r = static_cast<float>((a - (shifted - magic)) * 0.6931471805599453);
  return scaled_exp(r, static_cast<int32_t>(static_cast<uint32_t>(bits_of(shifted))));
}

TF_OPTIM_EXT_INLINE double log2_of(float x) {
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

TF_OPTIM_EXT_INLINE float logarithm(float x) {
  return static_cast<float>(log2_of(x) * 0.6931471805599453);
}

TF_OPTIM_EXT_INLINE bool is_whole(float x) {
  const float magnitude = float_of(bits_of(x) & 0x7fffffffu);
  const float small = magnitude < 8388608.0f ? x : 0.0f;
  return (static_cast<float>(static_cast<int32_t>(small)) == small) & (x == x);
}

TF_OPTIM_EXT_INLINE float power(float x, float y) {
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

TF_OPTIM_EXT_INLINE float from_bfloat16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

TF_OPTIM_EXT_INLINE uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

// The arithmetic below meets no denormal float32, so it holds with denormals flushed, too.
TF_OPTIM_EXT_INLINE float from_float16(uint16_t x) {
  const uint32_t magnitude = static_cast<uint32_t>(x & 0x7fffu) << 13;
  const uint32_t normal = magnitude + (112u << 23);
  const uint32_t special = magnitude + (224u << 23);
  const float denormal = float_of(magnitude + (113u << 23)) - float_of(113u << 23);
  const uint32_t result = (x & 0x7fffu) >= 0x7c00u  ? special
                          : (x & 0x7fffu) >= 0x0400u ? normal
                                                     : bits_of(denormal);
  return float_of(result | static_cast<uint32_t>(x & 0x8000u) << 16);
}

TF_OPTIM_EXT_INLINE uint16_t to_float16(float x) {
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

TF_OPTIM_EXT_INLINE uint32_t noise(uint32_t key, int64_t position) {
  return Scramble(static_cast<uint32_t>(position) * 0x9e3779b1u ^ key);
}

TF_OPTIM_EXT_INLINE uint16_t to_bfloat16(float x, uint32_t noise) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + (noise & 0xffffu)) >> 16;
  return (bits & 0x7f800000u) == 0x7f800000u ? to_bfloat16(x) : static_cast<uint16_t>(rounded);
}

TF_OPTIM_EXT_INLINE uint16_t to_float16(float x, uint32_t noise) {
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
