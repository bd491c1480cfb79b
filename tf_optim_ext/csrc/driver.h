// Runs a kernel over many variables: cuts the work by bytes, converts formats, orders reductions.
// Plain C++ without TensorFlow, so that it can be tested alone and under sanitizers.
#ifndef TF_OPTIM_EXT_NATIVE_DRIVER_H_
#define TF_OPTIM_EXT_NATIVE_DRIVER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernel.h"

// What the library for XLA, which is one of its own, needs of this one.
#define TF_OPTIM_EXT_EXPORT __attribute__((visibility("default")))

namespace tf_optim_ext {

struct Array {
  void* data;
  Format format;
};

// Which rows a gradient consists of.
struct Rows {
  const int64_t* indices;  // increasing, none twice, each a row of the variable
  int64_t count;
};

// One variable of a step.
struct Variable {
  int64_t size;                // elements of each array, those of a gradient by rows excepted
  int64_t width;               // elements of a row
  const Array* arrays;         // weights, gradient, slots, and those of programs beside the rule
  const Rows* rows;            // null if the gradient has all rows
  double* h;                   // `Width` scalars of the step; the driver changes some
  double* state;               // receives the new values of the `StateScalars`
  double* const* rows_state;   // of a kernel by row, instead: for each number, that of every row
  const uint32_t* rounding;    // key of the stochastic rounding of weights; null: to nearest
  bool shrinks = false;        // set by the driver, see `SplitScale`
};

// A program beside the rule: of one pass, without slots, reductions or state.
struct Stage {
  const Kernel* kernel;
  int weights, gradient;  // which of a variable's arrays it takes for these
  std::vector<double> h;  // `Width` scalars, the same for all variables
};

// What runs over a segment of a variable before the next one is touched, so that arrays which two of
// these programs have in common come from memory once.
struct Sequence {
  const Kernel* rule;
  int gradient = 1;  // which of a variable's arrays is the rule's gradient
  std::vector<Stage> before = {}, after = {};
};

// Calls `run` on ranges that together cover [0, count), possibly from several threads at once.
// `bytes` is what one unit moves, on average.
using ParallelFor = std::function<void(int64_t count, int64_t bytes,
                                       const std::function<void(int64_t, int64_t)>& run)>;

// Updates all variables. The result does not depend on the threads, and on the other variables only
// where the rule sums over all of them.
//
// Rows that a gradient lacks are updated as for a gradient of zero, to the last bit; with `lazy` they
// are neither read nor written, which takes a kernel by row or one of one pass without state, and no
// programs beside it.
TF_OPTIM_EXT_EXPORT void Run(const Table& table, const Sequence& sequence,
                             const std::vector<Variable>& given, bool lazy,
                             const ParallelFor& parallel_for);

// Sums of squares of arrays, each in an order that depends on its size alone.
void SquaredNorms(const Table& table, const std::vector<Array>& arrays,
                  const std::vector<int64_t>& sizes, double* norms,
                  const ParallelFor& parallel_for);

// The table of an instruction set ("baseline", "avx2", "avx512"), or null if it was not built or
// this processor lacks it.
const Table* FindTable(const std::string& instruction_set);

TF_OPTIM_EXT_EXPORT const Kernel* FindKernel(const Table& table, const std::string& name);

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_DRIVER_H_
