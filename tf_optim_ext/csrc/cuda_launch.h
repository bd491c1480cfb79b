// Runs the kernels of a program on a GPU, over many variables: the counterpart of "driver.h", which does
// so on processors. Plain C++ without TensorFlow and CUDA, so that it can be tested alone.
//
// Nothing here waits for the GPU, allocates on it or copies to it: what kernels must know is among their
// arguments. So steps may be captured in a CUDA graph.
#ifndef TF_OPTIM_EXT_NATIVE_CUDA_LAUNCH_H_
#define TF_OPTIM_EXT_NATIVE_CUDA_LAUNCH_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_driver.h"
#include "driver.h"

namespace tf_optim_ext {

// What the launcher must know of a program; `Shape` in codegen/cuda.py.
struct CudaShape {
  int arrays;  // weights, gradient and slots; of norms, gradients alone
  int hyperparameters;
  int variable_scalars;
  int optimizer_scalars;
  bool uses_size;
  int scalars;         // of a row that a pass is handed
  int64_t chunk;       // elements that a block works on
  int pass_variables;  // of one launch, at most
  int row_variables;
  std::vector<int> reductions;  // of each pass

  int state() const { return variable_scalars + optimizer_scalars; }
  int width() const { return kReserved + hyperparameters + state(); }
  int passes() const { return static_cast<int>(reductions.size()); }
  int all_reductions() const;
};

// The same as what is checked before a step on processors.
inline Kernel KernelOf(const CudaShape& shape) {
  Kernel kernel{};
  kernel.slots = shape.arrays - 2;
  kernel.hyperparameters = shape.hyperparameters;
  kernel.variable_scalars = shape.variable_scalars;
  kernel.optimizer_scalars = shape.optimizer_scalars;
  kernel.uses_size = shape.uses_size;
  kernel.passes = shape.passes();
  return kernel;
}

// The compiled kernels of a program, for one architecture.
class TF_OPTIM_EXT_EXPORT CudaProgram {
 public:
  CudaProgram(CudaShape shape, std::string image)
      : shape_(std::move(shape)), image_(std::move(image)) {}

  struct Functions {
    std::vector<CudaFunction> scalars, passes, totals;
    CudaFunction finish = nullptr;
  };

  const CudaShape& shape() const { return shape_; }

  // Its kernels in a context, which is the current one; or null and why there are none.
  const Functions* FunctionsIn(const CudaDriver& driver, CudaContext context,
                               std::string* reason) const;

 private:
  const CudaShape shape_;
  const std::string image_;
  mutable std::mutex mutex_;
  mutable std::map<CudaContext, Functions> loaded_;
};

// One variable of a step; everything it points to but `arrays` and `state` themselves is on the GPU.
struct CudaVariable {
  int64_t size;
  const Array* arrays;     // weights, gradient, slots
  double* const* state;    // where its numbers, and those of all variables, are
  uint32_t key;            // of the stochastic rounding
};

// The numbers of a step, all on the GPU.
struct CudaScalars {
  const int64_t* finished;
  const void* learning_rate;
  bool rate_is_double;
  bool own_rates;  // whether each variable has its own
  const double* scales;
  bool own_scales;
  const double* hyperparameters;
  bool own_hyperparameters;
};

// A step that is planned, of which nothing has run.
class TF_OPTIM_EXT_EXPORT CudaStep {
 public:
  CudaStep(const CudaProgram& program, std::vector<CudaVariable> variables,
           const CudaScalars& scalars, bool rounds);

  // Memory on the GPU that it needs while it runs, aligned to 8 bytes.
  int64_t scratch_bytes() const { return scratch_bytes_; }

  // Launches the kernels on a stream, whose context is the current one. Returns what went wrong, or
  // nothing. Weights and slots are changed by the last pass only: before that, failing changes nothing.
  std::string Launch(const CudaDriver& driver, const CudaProgram::Functions& functions,
                     void* scratch, CudaStream stream) const;

  // Where in the scratch memory the results of all reductions are, a row for each variable.
  double* Reductions(void* scratch) const;

 private:
  struct Scratch;
  Scratch Divide(void* scratch) const;
  std::vector<char> PassArguments(const Scratch& scratch, size_t first, size_t count) const;
  std::vector<char> RowArguments(const Scratch& scratch, size_t first, size_t count) const;

  const CudaShape& shape_;
  const std::vector<CudaVariable> variables_;
  const CudaScalars scalars_;
  const bool rounds_;
  bool shares_row_;  // whether the scalars of all variables are the same
  size_t rows_;
  std::vector<int64_t> first_chunk_;  // of each variable, and their number
  int64_t scratch_bytes_;
};

// The programs that Python compiled, by name, by whether some arrays may be of 16 bits, and by
// architecture. The latest one counts.
void RegisterCudaProgram(const std::string& name, bool converts, int architecture,
                         std::shared_ptr<const CudaProgram> program);
TF_OPTIM_EXT_EXPORT std::shared_ptr<const CudaProgram> FindCudaProgram(
    const std::string& name, bool converts, int architecture);

// One of those of a name, whichever: what it needs is the same for all.
TF_OPTIM_EXT_EXPORT std::shared_ptr<const CudaProgram> FindAnyCudaProgram(const std::string& name);

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_CUDA_LAUNCH_H_
