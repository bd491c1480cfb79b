// What a generated kernel looks like from outside. Plain C++ without TensorFlow.
#ifndef TF_OPTIM_EXT_NATIVE_KERNEL_H_
#define TF_OPTIM_EXT_NATIVE_KERNEL_H_

#include <stdint.h>

namespace tf_optim_ext {

// How the elements of an array are stored. Kernels run over all but the last, of which there are norms.
enum Format : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

// How the partial results of a reduction become one: over a variable, or over all variables.
enum Combine : int { kSum = 0, kMax = 1, kGlobalSum = 2 };

// A permutation of all numbers of 32 bits without visible order (Wellons, "Prospecting for hash
// functions", whose constants these are), which makes the numbers of stochastic rounding.
static inline uint32_t Scramble(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

// Of one variable and step, from the key of the variable.
static inline uint32_t RoundingKey(uint32_t key, uint32_t step) {
  return Scramble(step * 0x9e3779b1u + key);
}

// The first of the step's scalars. The rule's hyperparameters follow, then its state of one number
// for each variable, then its state of one number for all variables.
enum Reserved : int { kStep, kLearningRate, kGradientScale, kSize, kReserved };

constexpr int kMaxArrays = 16;     // weights, gradient and slots of a rule
constexpr int kMaxScalars = 64;    // that a pass hands to its loop
constexpr int kMaxState = 16;      // numbers, for each variable and for all
constexpr int kMaxReductions = 8;  // of one pass, and of all passes together

// One pass over memory. Arrays are numbered: weights 0, gradient 1, slots from 2.
struct Pass {
  // Computes the scalars of the loop from the step's scalars `h` and the reductions `r` so far.
  void (*scalars)(const double* h, const double* r, float* c);
  // Runs over n elements; writes its own reductions over them to `r`.
  void (*run)(int64_t n, float* const* arrays, const float* c, double* r);
  uint32_t reads;   // bit i: array i
  uint32_t writes;  // bit i: array i
  int reductions;
  Combine combine[kMaxReductions];
};

struct Kernel {
  const char* name;
  int slots;
  int hyperparameters;
  int variable_scalars;
  int optimizer_scalars;
  bool uses_size;  // the scalars depend on the number of elements
  bool by_row;     // every row of a variable is treated as a variable of its own
  int passes;
  const Pass* pass;
  // Computes the new values of the state that is numbers, those of the variable first. Null if the
  // rule has none.
  void (*finish)(const double* h, const double* r, double* state);
};

inline int StateScalars(const Kernel& kernel) {
  return kernel.variable_scalars + kernel.optimizer_scalars;
}

// How many scalars of the step there are for each variable.
inline int Width(const Kernel& kernel) {
  return kReserved + kernel.hyperparameters + StateScalars(kernel);
}

// All kernels and conversions, compiled for one instruction set.
struct Table {
  int count;
  const Kernel* const* kernels;
  // Conversion between a 16-bit format and float32; stores round to nearest even.
  void (*load)(Format format, const uint16_t* from, float* to, int64_t n);
  void (*store)(Format format, const float* from, uint16_t* to, int64_t n);
  // The same, rounded up or down at random, so that the result is right on average. The numbers
  // depend on the key and on the position, of which `first` is that of the first element.
  void (*store_randomly)(Format format, const float* from, uint16_t* to, int64_t n, uint32_t key,
                         int64_t first);
  // In double, in the same order for both.
  double (*sum_of_squares)(const float* x, int64_t n);
  double (*sum_of_squares_of_doubles)(const double* x, int64_t n);
  // Adds g to each of `count` (1 to 4) arrays, in one pass: the memory limit to compare with.
  void (*stream)(int count, float* const* arrays, const float* g, int64_t n);
};

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_KERNEL_H_
