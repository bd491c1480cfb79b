// What the ops share.
#ifndef TF_OPTIM_EXT_NATIVE_OP_COMMON_H_
#define TF_OPTIM_EXT_NATIVE_OP_COMMON_H_

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
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
                                         const std::vector<double>& learning_rates,
                                         const double* scales, int64_t scale_count,
                                         const double* hyperparameters,
                                         int64_t hyperparameter_count) {
  std::vector<double> h(static_cast<size_t>(variables) * Width(kernel));
  const bool own = hyperparameter_count > kernel.hyperparameters;
  for (int v = 0; v < variables; ++v) {
    double* const row = h.data() + static_cast<size_t>(v) * Width(kernel);
    row[kStep] = static_cast<double>(finished) + 1.0;
    row[kLearningRate] = learning_rates[learning_rates.size() == 1 ? 0 : v];
    row[kGradientScale] = scales[scale_count == 1 ? 0 : v];
    row[kSize] = 0.0;
    const double* const of_variable = hyperparameters + (own ? v * kernel.hyperparameters : 0);
    std::copy_n(of_variable, kernel.hyperparameters, row + kReserved);
  }
  return h;
}

// What a step runs beside its rule: names of kernels, empty for what it does not run. The arrays that
// these work on follow the slots: sums of gradients, then averages of weights.
struct Beside {
  std::string accumulate;  // adds the gradients to the sums, which are the rule's gradients then
  std::string average;
  std::string reset;       // clears the sums; without `accumulate`, the gradients are in them already

  bool has_sums() const { return !reset.empty(); }
  bool takes_gradients() const { return !has_sums() || !accumulate.empty(); }
  // Arrays for each variable.
  int arrays() const { return has_sums() + !average.empty(); }
  // Numbers of the step: the factor of gradients that are added, and the momentum of the averages.
  int numbers() const { return !accumulate.empty() + !average.empty(); }

  template <typename Context>
  absl::Status Read(Context* context) {
    if (!context->HasAttr("reset")) return absl::OkStatus();
    TF_RETURN_IF_ERROR(context->GetAttr("accumulate", &accumulate));
    TF_RETURN_IF_ERROR(context->GetAttr("average", &average));
    TF_RETURN_IF_ERROR(context->GetAttr("reset", &reset));
    if (!accumulate.empty() && !has_sums())
      return tensorflow::errors::InvalidArgument("`accumulate` needs `reset`.");
    return absl::OkStatus();
  }
};

// All programs of a step, with the numbers that those beside the rule need; or why there are none.
inline absl::Status FindSequence(const Table& table, const Kernel& rule, const Beside& beside,
                                 int64_t finished, const std::vector<double>& numbers,
                                 Sequence* sequence) {
  const int sums = 2 + rule.slots, averages = sums + beside.has_sums();
  const auto add = [&](const std::string& name, int weights, int gradient, double scale,
                       const double* hyperparameter, std::vector<Stage>* to) -> absl::Status {
    const Kernel* const kernel = FindKernel(table, name);
    if (kernel == nullptr)
      return tensorflow::errors::NotFound("The native library has no kernel ", name, ".");
    if (kernel->slots > 0 || kernel->passes != 1 || kernel->pass[0].reductions > 0 ||
        StateScalars(*kernel) > 0 || kernel->hyperparameters != (hyperparameter != nullptr))
      return tensorflow::errors::InvalidArgument(name, " cannot run there beside a rule.");
    std::vector<double> h(Width(*kernel));
    h[kStep] = static_cast<double>(finished) + 1.0;
    h[kGradientScale] = scale;
    if (hyperparameter != nullptr) h[kReserved] = *hyperparameter;
    to->push_back({kernel, weights, gradient, std::move(h)});
    return absl::OkStatus();
  };
  sequence->rule = &rule;
  if (beside.has_sums()) sequence->gradient = sums;
  if (!beside.accumulate.empty())
    TF_RETURN_IF_ERROR(
        add(beside.accumulate, sums, 1, numbers.front(), nullptr, &sequence->before));
  if (!beside.average.empty())
    TF_RETURN_IF_ERROR(add(beside.average, averages, 0, 1.0, &numbers.back(), &sequence->after));
  if (beside.has_sums())
    TF_RETURN_IF_ERROR(add(beside.reset, sums, sums, 1.0, nullptr, &sequence->after));
  return absl::OkStatus();
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
