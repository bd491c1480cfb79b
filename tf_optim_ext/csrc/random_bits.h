// The numbers of stochastic rounding, on processors and on GPUs; see "kernel_math.h".
#ifndef TF_OPTIM_EXT_NATIVE_RANDOM_BITS_H_
#define TF_OPTIM_EXT_NATIVE_RANDOM_BITS_H_

namespace tf_optim_ext {

// A permutation of all numbers of 32 bits without visible order (Wellons, "Prospecting for hash
// functions", whose constants these are), which makes the numbers of stochastic rounding.
TF_OPTIM_EXT_INLINE uint32_t Scramble(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

// Of one variable and step, from the key of the variable.
TF_OPTIM_EXT_INLINE uint32_t RoundingKey(uint32_t key, uint32_t step) {
  return Scramble(step * 0x9e3779b1u + key);
}

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_RANDOM_BITS_H_
