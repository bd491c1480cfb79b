// The op of a step for variables on a GPU: it checks and locks like the one for processors, and launches
// the kernels that Python compiled for the rule, on TensorFlow's own stream.

#include <memory>
#include <string>
#include <vector>

#include "cuda_launch.h"
#include "step_op.h"
#include "tensorflow/core/framework/op.h"
#include "xla/stream_executor/stream.h"

namespace tf_optim_ext {

namespace {

namespace errors = tensorflow::errors;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

// Null where there is none, which are tests.
CudaStream StreamOf(OpKernelContext* context) {
  auto* const device = context->op_device_context();
  if (device == nullptr || device->stream() == nullptr) return nullptr;
  return static_cast<CudaStream>(device->stream()->platform_specific_handle().stream);
}

class CudaStepOp : public StepOpBase {
 public:
  using StepOpBase::StepOpBase;

  void Compute(OpKernelContext* context) override {
    OP_REQUIRES_OK(context, Step(context));
  }

 private:
  absl::Status Step(OpKernelContext* context) const {
    if (!by_rows_.empty())
      return errors::Unimplemented("Sparse gradients of variables on a GPU.");
    std::string reason;
    const CudaDriver* driver = FindCudaDriver(&reason);
    if (driver == nullptr) return errors::FailedPrecondition(reason);
    const CudaStream stream = StreamOf(context);
    const CudaScope scope(*driver, stream);
    if (!scope.problem().empty()) return errors::Internal(scope.problem());
    auto program = FindAnyCudaProgram(rule_);
    if (program == nullptr) return NotCompiled(scope);
    const Kernel kernel = KernelOf(program->shape());

    const int slots = count_ * kernel.slots;
    const int scalars = count_ * kernel.variable_scalars + kernel.optimizer_scalars;
    std::vector<tensorflow::core::RefCountPtr<Var>> owned;
    std::vector<Var*> variables;
    TF_RETURN_IF_ERROR(LookUp(context, "weights", count_, &owned));
    TF_RETURN_IF_ERROR(LookUp(context, "slots", slots, &owned));
    TF_RETURN_IF_ERROR(LookUp(context, "scalars", scalars, &owned));
    for (const auto& variable : owned) variables.push_back(variable.get());
    Numbers numbers;
    TF_RETURN_IF_ERROR(FindNumbers(context, kernel, &numbers));

    const Locks locks(variables);
    if (locks.repeated()) return errors::InvalidArgument("The same variable was given twice.");
    TF_RETURN_IF_ERROR(Check(context, kernel, variables));
    program = FindCudaProgram(rule_, Converts(context, variables), scope.architecture());
    if (program == nullptr) return NotCompiled(scope);
    const auto* functions = program->FunctionsIn(*driver, scope.context(), &reason);
    if (functions == nullptr) return errors::Internal(reason);
    for (Var* variable : variables)
      TF_RETURN_IF_ERROR(MakeWritable(context, *driver, stream, variable->tensor()));
    return Launch(context, *driver, *program, *functions, stream, variables, numbers);
  }

  absl::Status NotCompiled(const CudaScope& scope) const {
    return errors::FailedPrecondition(
        "The kernels of ", rule_, " were not compiled for this GPU (sm_", scope.architecture(),
        ") in this process. They are when an optimizer takes its first step, or is traced. Steps in files "
        "run without them if they were traced under `tf_optim_ext.portable()`.");
  }

  // The numbers of the step where they are; they stay there as long as these tensors live.
  struct Numbers {
    Tensor finished, learning_rate, scales, hyperparameters;
  };

  absl::Status FindNumbers(OpKernelContext* context, const Kernel& kernel,
                           Numbers* numbers) const {
    TF_RETURN_IF_ERROR(FindNumber(context, "finished", &numbers->finished));
    TF_RETURN_IF_ERROR(
        FindNumber(context, "learning_rate", &numbers->learning_rate, count_));
    if (numbers->finished.dtype() != tensorflow::DT_INT64)
      return NotANumber(numbers->finished, "finished", "int64");
    const tensorflow::DataType dtype = numbers->learning_rate.dtype();
    if (dtype != tensorflow::DT_FLOAT && dtype != tensorflow::DT_DOUBLE)
      return NotANumber(numbers->learning_rate, "learning_rate", "float or double");
    numbers->scales = context->input(InputNumber(context, "gradient_scale"));
    numbers->hyperparameters = context->input(InputNumber(context, "hyperparameters"));
    return CheckNumbers(kernel, numbers->scales, numbers->hyperparameters);
  }

  static int InputNumber(OpKernelContext* context, const char* name) {
    int first = 0, end = 0;
    context->op_kernel().InputRange(name, &first, &end).IgnoreError();  // the op has that input
    return first;
  }

  // The tensor with a number: an input, or the value of the variable that is one. There may also be one
  // for each of several variables.
  static absl::Status FindNumber(OpKernelContext* context, const char* name, Tensor* number,
                                 int several = 1) {
    const Tensor& input = context->input(InputNumber(context, name));
    const int64_t elements = input.NumElements();
    const bool fits = elements == 1 || (elements == several && input.dtype() != tensorflow::DT_RESOURCE);
    if (!fits) return NotANumber(input, name, "number or variable");
    if (input.dtype() != tensorflow::DT_RESOURCE) return *number = input, absl::OkStatus();
    tensorflow::core::RefCountPtr<Var> variable;
    TF_RETURN_IF_ERROR(tensorflow::LookupResource(
        context, input.flat<tensorflow::ResourceHandle>()(0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    *number = *variable->tensor();
    if (number->NumElements() != 1) return NotANumber(*number, name, "number");
    return absl::OkStatus();
  }

  // Whether some weights, gradients or slots are not float32.
  bool Converts(OpKernelContext* context, const std::vector<Var*>& variables) const {
    const int first = InputNumber(context, "gradients");
    for (int v = 0; v < count_; ++v)
      if (context->input(first + v).dtype() != tensorflow::DT_FLOAT) return true;
    for (Var* variable : variables) {
      const tensorflow::DataType dtype = variable->tensor()->dtype();
      if (dtype == tensorflow::DT_BFLOAT16 || dtype == tensorflow::DT_HALF) return true;
    }
    return false;
  }

  // See `MakeWritable` for processors. The copy and what reads the old buffer are on the same stream.
  static absl::Status MakeWritable(OpKernelContext* context, const CudaDriver& driver,
                                   CudaStream stream, Tensor* tensor) {
    if (tensor->RefCountIsOne() || tensor->NumElements() == 0) return absl::OkStatus();
    Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
    const CudaResult result =
        driver.copy(reinterpret_cast<CudaAddress>(copy.data()),
                    reinterpret_cast<CudaAddress>(tensor->data()), tensor->TotalBytes(), stream);
    if (result != kCudaSuccess)
      return errors::Internal(CudaErrorText(driver, "cuMemcpyDtoDAsync", result));
    *tensor = copy;
    return absl::OkStatus();
  }

  absl::Status Launch(OpKernelContext* context, const CudaDriver& driver,
                      const CudaProgram& program, const CudaProgram::Functions& functions,
                      CudaStream stream, const std::vector<Var*>& variables,
                      const Numbers& numbers) const {
    const CudaShape& shape = program.shape();
    const std::vector<double*> state = StateOf(KernelOf(shape), variables);
    const int first_gradient = InputNumber(context, "gradients");
    std::vector<Array> arrays(static_cast<size_t>(count_) * shape.arrays);
    std::vector<CudaVariable> work;
    work.reserve(count_);
    for (int v = 0; v < count_; ++v) {
      Array* const row = &arrays[static_cast<size_t>(v) * shape.arrays];
      row[0] = ArrayOf(*variables[v]->tensor());
      row[1] = ArrayOf(context->input(first_gradient + v));
      for (int s = 0; s < shape.arrays - 2; ++s)
        row[2 + s] = ArrayOf(*variables[static_cast<size_t>(s + 1) * count_ + v]->tensor());
      const uint32_t key = rounding_.empty() ? 0 : static_cast<uint32_t>(rounding_[v]);
      work.push_back({variables[v]->tensor()->NumElements(), row,
                      state.data() + static_cast<size_t>(v) * shape.state(), key});
    }
    const CudaScalars scalars{
        numbers.finished.flat<int64_t>().data(),
        numbers.learning_rate.data(),
        numbers.learning_rate.dtype() == tensorflow::DT_DOUBLE,
        numbers.learning_rate.NumElements() > 1,
        numbers.scales.flat<double>().data(),
        numbers.scales.NumElements() > 1,
        numbers.hyperparameters.flat<double>().data(),
        numbers.hyperparameters.dim_size(0) > 1,
    };
    const CudaStep step(program, std::move(work), scalars, !rounding_.empty());
    Tensor scratch;
    TF_RETURN_IF_ERROR(context->allocate_temp(
        tensorflow::DT_INT8, tensorflow::TensorShape({step.scratch_bytes()}), &scratch));
    const std::string problem = step.Launch(driver, functions, scratch.data(), stream);
    return problem.empty() ? absl::OkStatus() : errors::Internal(problem);
  }
};

// Sums of squares of tensors on a GPU, by kernels that Python compiled.
class CudaSquaredNormsOp : public OpKernel {
 public:
  explicit CudaSquaredNormsOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override { OP_REQUIRES_OK(context, Run(context)); }

 private:
  static absl::Status Run(OpKernelContext* context) {
    std::string reason;
    const CudaDriver* driver = FindCudaDriver(&reason);
    if (driver == nullptr) return errors::FailedPrecondition(reason);
    const CudaStream stream = StreamOf(context);
    const CudaScope scope(*driver, stream);
    if (!scope.problem().empty()) return errors::Internal(scope.problem());
    bool converts = false;
    for (int i = 0; i < context->num_inputs(); ++i) {
      const tensorflow::DataType dtype = context->input(i).dtype();
      converts |= dtype != tensorflow::DT_FLOAT;
      if (dtype == tensorflow::DT_DOUBLE)
        return errors::Unimplemented("Norms of doubles on a GPU.");
    }
    const auto program = FindCudaProgram("squared_norms", converts, scope.architecture());
    if (program == nullptr)
      return errors::FailedPrecondition("The kernels of norms were not compiled in this process.");
    const auto* functions = program->FunctionsIn(*driver, scope.context(), &reason);
    if (functions == nullptr) return errors::Internal(reason);
    std::vector<Array> arrays;
    std::vector<CudaVariable> work;
    for (int i = 0; i < context->num_inputs(); ++i) arrays.push_back(ArrayOf(context->input(i)));
    for (int i = 0; i < context->num_inputs(); ++i)
      work.push_back({context->input(i).NumElements(), &arrays[i], nullptr, 0});
    const CudaStep step(*program, std::move(work), CudaScalars{}, false);
    Tensor scratch, *norms;
    TF_RETURN_IF_ERROR(context->allocate_temp(
        tensorflow::DT_INT8, tensorflow::TensorShape({step.scratch_bytes()}), &scratch));
    TF_RETURN_IF_ERROR(context->allocate_output(
        0, tensorflow::TensorShape({context->num_inputs()}), &norms));
    const std::string problem = step.Launch(*driver, *functions, scratch.data(), stream);
    if (!problem.empty()) return errors::Internal(problem);
    const CudaResult result = driver->copy(
        reinterpret_cast<CudaAddress>(norms->data()),
        reinterpret_cast<CudaAddress>(step.Reductions(scratch.data())), norms->TotalBytes(), stream);
    if (result == kCudaSuccess) return absl::OkStatus();
    return errors::Internal(CudaErrorText(*driver, "cuMemcpyDtoDAsync", result));
  }
};

// One tensor with the handles of several variables. TensorFlow's own op for that has no kernel for GPUs,
// where ops that take handles of variables there must run.
class HandlesOp : public OpKernel {
 public:
  explicit HandlesOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    Tensor* packed;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, tensorflow::TensorShape({context->num_inputs()}), &packed));
    for (int i = 0; i < context->num_inputs(); ++i)
      packed->flat<tensorflow::ResourceHandle>()(i) =
          context->input(i).flat<tensorflow::ResourceHandle>()(0);
  }
};

}  // namespace

REGISTER_OP("TfOptimExtHandles")
    .Input("handles: N * resource")
    .Output("packed: resource")
    .Attr("N: int >= 1")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->Vector(context->num_inputs()));
      return absl::OkStatus();
    })
    .Doc("Packs the handles of variables into one tensor.");

REGISTER_KERNEL_BUILDER(Name("TfOptimExtHandles").Device(tensorflow::DEVICE_CPU), HandlesOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtHandles")
                            .Device(tensorflow::DEVICE_GPU)
                            .HostMemory("handles")
                            .HostMemory("packed"),
                        HandlesOp);

// Handles are in the memory of the host, numbers where the kernels read them. So what may be either has a
// registration for each.
#define ON_GPU                                     \
  Name("TfOptimExtStep")                           \
      .Device(tensorflow::DEVICE_GPU)              \
      .HostMemory("weights")                       \
      .HostMemory("slots")                         \
      .HostMemory("scalars")                       \
      .HostMemory("indices")
#define FINISHED_IS_NUMBER TypeConstraint<int64_t>("F")
#define FINISHED_IS_HANDLE TypeConstraint<tensorflow::ResourceHandle>("F").HostMemory("finished")
#define RATE_IS_HANDLE TypeConstraint<tensorflow::ResourceHandle>("L").HostMemory("learning_rate")

REGISTER_KERNEL_BUILDER(ON_GPU.FINISHED_IS_NUMBER.TypeConstraint<float>("L"), CudaStepOp);
REGISTER_KERNEL_BUILDER(ON_GPU.FINISHED_IS_NUMBER.TypeConstraint<double>("L"), CudaStepOp);
REGISTER_KERNEL_BUILDER(ON_GPU.FINISHED_IS_NUMBER.RATE_IS_HANDLE, CudaStepOp);
REGISTER_KERNEL_BUILDER(ON_GPU.FINISHED_IS_HANDLE.TypeConstraint<float>("L"), CudaStepOp);
REGISTER_KERNEL_BUILDER(ON_GPU.FINISHED_IS_HANDLE.TypeConstraint<double>("L"), CudaStepOp);
REGISTER_KERNEL_BUILDER(ON_GPU.FINISHED_IS_HANDLE.RATE_IS_HANDLE, CudaStepOp);

REGISTER_KERNEL_BUILDER(Name("TfOptimExtSquaredNorms").Device(tensorflow::DEVICE_GPU),
                        CudaSquaredNormsOp);

// For tests without a GPU, which ask for it by this label: with a library in the place of the driver.
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device(tensorflow::DEVICE_CPU).Label("cuda"),
                        CudaStepOp);
REGISTER_KERNEL_BUILDER(
    Name("TfOptimExtSquaredNorms").Device(tensorflow::DEVICE_CPU).Label("cuda"),
    CudaSquaredNormsOp);

}  // namespace tf_optim_ext

// What Python calls: keeps the compiled kernels of a rule, for steps that are taken later. `numbers` are
// those of `Shape` in codegen/cuda.py.
extern "C" __attribute__((visibility("default"))) void tf_optim_ext_keep_cuda_program(
    const char* name, int converts, int architecture, const char* image, int64_t image_bytes,
    const int64_t* numbers, int count) {
  tf_optim_ext::CudaShape shape;
  shape.arrays = static_cast<int>(numbers[0]);
  shape.hyperparameters = static_cast<int>(numbers[1]);
  shape.variable_scalars = static_cast<int>(numbers[2]);
  shape.optimizer_scalars = static_cast<int>(numbers[3]);
  shape.uses_size = numbers[4] != 0;
  shape.scalars = static_cast<int>(numbers[5]);
  shape.chunk = numbers[6];
  shape.pass_variables = static_cast<int>(numbers[7]);
  shape.row_variables = static_cast<int>(numbers[8]);
  shape.reductions.assign(numbers + 9, numbers + count);
  tf_optim_ext::RegisterCudaProgram(name, converts != 0, architecture,
                                    std::make_shared<tf_optim_ext::CudaProgram>(
                                        std::move(shape), std::string(image, image_bytes)));
}
