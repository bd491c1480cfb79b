// What the ops share.
#ifndef TF_OPTIM_EXT_NATIVE_OP_COMMON_H_
#define TF_OPTIM_EXT_NATIVE_OP_COMMON_H_

#include <algorithm>
#include <atomic>

#include "driver.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_optim_ext {

// The instruction set in use; Python chooses it when it loads the library.
extern std::atomic<const Table*> table_in_use;

inline bool FormatOf(tensorflow::DataType dtype, Format* format) {
  if (dtype == tensorflow::DT_FLOAT) return *format = kFloat32, true;
  if (dtype == tensorflow::DT_BFLOAT16) return *format = kBFloat16, true;
  if (dtype == tensorflow::DT_HALF) return *format = kFloat16, true;
  return false;
}

inline Array ArrayOf(const tensorflow::Tensor& tensor) {
  Array array{tensor.data(), kFloat32};
  FormatOf(tensor.dtype(), &array.format);
  return array;
}

inline ParallelFor TensorFlowThreads(tensorflow::OpKernelContext* context) {
  auto* workers = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [workers](int64_t count, int64_t bytes, const std::function<void(int64_t, int64_t)>& run) {
    // About 10 bytes per cycle and core; small work stays on the calling thread.
    if (count * bytes < 64 * 1024) return run(0, count);
    workers->ParallelFor(count, std::max<int64_t>(1, bytes / 10), run);
  };
}

// What XLA finds when it compiles a function with a native op in it: no kernel, but an explanation.
class InsideXlaOp : public tensorflow::OpKernel {
 public:
  explicit InsideXlaOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(tensorflow::OpKernelContext* context) override {
    context->SetStatus(tensorflow::errors::InvalidArgument(
        "An optimizer's step that was traced outside of XLA cannot run inside: it is an op of the "
        "native library of tf_optim_ext, which XLA does not compile. A step that is traced inside "
        "of XLA consists of TensorFlow's own ops. So give `jit_compile=True` to the `tf.function` "
        "that takes the step, do not call that function outside of XLA before, or trace it under "
        "`tf_optim_ext.portable()`."));
  }
};

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_OP_COMMON_H_
