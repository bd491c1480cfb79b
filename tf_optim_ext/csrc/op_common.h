// What the ops share.
#ifndef TF_OPTIM_EXT_NATIVE_OP_COMMON_H_
#define TF_OPTIM_EXT_NATIVE_OP_COMMON_H_

#include <algorithm>
#include <atomic>
#include <functional>
#include <utility>
#include <vector>

#include "driver.h"
#include "shared_work.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_optim_ext {

// The instruction set in use; Python chooses it when it loads the library.
extern TF_OPTIM_EXT_EXPORT std::atomic<const Table*> table_in_use;

inline bool FormatOf(tensorflow::DataType dtype, Format* format) {
  if (dtype == tensorflow::DT_FLOAT) return *format = kFloat32, true;
  if (dtype == tensorflow::DT_BFLOAT16) return *format = kBFloat16, true;
  if (dtype == tensorflow::DT_HALF) return *format = kFloat16, true;
  return false;
}

// Of a tensor of one of these dtypes, or, for norms alone, of double.
inline Array ArrayOf(const tensorflow::Tensor& tensor) {
  Array array{tensor.data(), kFloat32};
  if (!FormatOf(tensor.dtype(), &array.format)) array.format = kFloat64;
  return array;
}

inline ParallelFor TensorFlowThreads(tensorflow::OpKernelContext* context) {
  auto* workers = context->device()->tensorflow_cpu_worker_threads()->workers;
  return SharedWith(workers->NumThreads(), [workers](std::function<void()> task) {
    workers->Schedule(std::move(task));
  });
}

// The scalars of a step: for each variable a row, in which the state and the size are missing.
inline std::vector<double> ScalarsOfStep(const Kernel& kernel, int variables, int64_t finished,
                                         double learning_rate, const double* scales,
                                         int64_t scale_count, const double* hyperparameters,
                                         int64_t hyperparameter_count) {
  std::vector<double> h(static_cast<size_t>(variables) * Width(kernel));
  const bool own = hyperparameter_count > kernel.hyperparameters;
  for (int v = 0; v < variables; ++v) {
    double* const row = h.data() + static_cast<size_t>(v) * Width(kernel);
    row[kStep] = static_cast<double>(finished) + 1.0;
    row[kLearningRate] = learning_rate;
    row[kGradientScale] = scales[scale_count == 1 ? 0 : v];
    row[kSize] = 0.0;
    const double* const of_variable = hyperparameters + (own ? v * kernel.hyperparameters : 0);
    std::copy_n(of_variable, kernel.hyperparameters, row + kReserved);
  }
  return h;
}

constexpr char kInsideXla[] =
    "An optimizer's step that was traced outside of XLA cannot run inside: it has an op of the native "
    "library of tf_optim_ext that XLA does not compile. (On a CPU it compiles steps without sparse "
    "gradients, if `tf_optim_ext.native.why_not_inside_xla()` returns None.) A step that is traced "
    "inside of XLA has none of these. So give `jit_compile=True` to the `tf.function` that takes the "
    "step, do not call that function outside of XLA before, or trace it under "
    "`tf_optim_ext.portable()`.";

// What XLA finds when it compiles a function with a native op in it: no kernel, but an explanation.
class InsideXlaOp : public tensorflow::OpKernel {
 public:
  explicit InsideXlaOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(tensorflow::OpKernelContext* context) override {
    context->SetStatus(tensorflow::errors::InvalidArgument(kInsideXla));
  }
};

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_OP_COMMON_H_
