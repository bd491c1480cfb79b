// The ops under XLA on a CPU: the step is a call of the driver that updates its operands in place.
// A library of its own, because it needs more of TensorFlow than the ops do.

#include <atomic>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cuda_launch.h"
#include "op_common.h"
#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/ffi/api/ffi.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace tf_optim_ext {
namespace {

namespace errors = tensorflow::errors;
namespace ffi = xla::ffi;
using tensorflow::DataType;
using tensorflow::TensorShape;

constexpr char kTarget[] = "tf_optim_ext_step";
constexpr char kWrongWeights[] =
    "The variables hold averaged weights, but the optimizer needs gradients at its training weights: call "
    "`use_training_weights()` before computing them.";

// Python takes the kernels out of use if they fail their test.
std::atomic<bool> in_use{true}, in_use_on_gpus{true};

Format FormatOf(ffi::DataType dtype) {
  if (dtype == ffi::DataType::BF16) return kBFloat16;
  return dtype == ffi::DataType::F16 ? kFloat16 : kFloat32;
}

// Operands: the weights, the slots (sums and averages follow them) and the numbers of the state, which
// are the results, too; then the gradients and the numbers of the step. `XlaStepOp` has checked them.
ffi::Error RunStep(ffi::ThreadPool pool, std::string_view rule, std::string_view accumulate,
                   std::string_view average, std::string_view reset, int64_t variables,
                   ffi::Span<const int64_t> rounding, ffi::RemainingArgs args,
                   ffi::RemainingRets rets) {
  const Beside beside{std::string(accumulate), std::string(average), std::string(reset)};
  const Table* const table = table_in_use.load();
  const Kernel* const kernel = table == nullptr ? nullptr : FindKernel(*table, std::string(rule));
  if (kernel == nullptr) return ffi::Error::Internal("The native library has no such kernel.");
  std::vector<ffi::AnyBuffer> operands;
  for (size_t i = 0; i < args.size(); ++i) operands.push_back(args.get<ffi::AnyBuffer>(i).value());
  const size_t gradients = beside.takes_gradients() ? variables : 0;
  const ffi::AnyBuffer* const numbers = &operands[rets.size() + gradients];
  const int64_t finished = numbers[0].typed_data<int64_t>()[0];
  // Where XLA leaves out assertions, an optimizer refuses a step by a count that is negative.
  if (finished < 0) return ffi::Error::InvalidArgument(kWrongWeights);
  std::vector<double> of_beside;
  for (int k = 0; k < beside.numbers(); ++k)
    of_beside.push_back(numbers[4 + k].typed_data<double>()[0]);
  Sequence sequence;
  const absl::Status status =
      FindSequence(*table, *kernel, beside, finished, of_beside, &sequence);
  if (!status.ok()) return ffi::Error::Internal(std::string(status.message()));
  std::vector<ffi::AnyBuffer> results;
  for (size_t i = 0; i < rets.size(); ++i) {
    results.push_back(*rets.get<ffi::AnyBuffer>(i).value());
    if (results[i].untyped_data() != operands[i].untyped_data())
      std::memcpy(results[i].untyped_data(), operands[i].untyped_data(), operands[i].size_bytes());
  }
  std::vector<double> rates;
  for (size_t i = 0; i < numbers[1].element_count(); ++i)
    rates.push_back(numbers[1].element_type() == ffi::DataType::F64
                        ? numbers[1].typed_data<double>()[i]
                        : numbers[1].typed_data<float>()[i]);
  std::vector<double> h = ScalarsOfStep(
      *kernel, static_cast<int>(variables), finished, rates,
      numbers[2].typed_data<double>(), numbers[2].element_count(),
      numbers[3].typed_data<double>(), numbers[3].element_count());
  const int width = StateScalars(*kernel), own = kernel->variable_scalars;
  const int slots = kernel->slots + beside.arrays();
  const size_t tensors = variables * (1 + slots);
  std::vector<Array> arrays;
  std::vector<uint32_t> keys;
  std::vector<double*> state;
  std::vector<double> new_state(kernel->by_row ? 0 : variables * width);
  arrays.reserve(variables * (2 + slots));
  keys.reserve(variables);
  state.reserve(variables * width);
  std::vector<Variable> work;
  for (int64_t v = 0; v < variables; ++v) {
    const auto add = [&](const ffi::AnyBuffer& buffer) {
      arrays.push_back({buffer.untyped_data(), FormatOf(buffer.element_type())});
    };
    add(results[v]);
    add(gradients == 0 ? results[v] : operands[rets.size() + v]);  // not used if there are none
    for (int s = 0; s < slots; ++s) add(results[(s + 1) * variables + v]);
    double* const row = h.data() + v * Width(*kernel);
    for (int k = 0; k < width; ++k) {
      const size_t at = tensors + (k < own ? k * variables + v : own * variables + k - own);
      state.push_back(results[at].typed_data<double>());
      if (!kernel->by_row) row[Width(*kernel) - width + k] = *state.back();
    }
    if (rounding.size() > 0)
      keys.push_back(RoundingKey(static_cast<uint32_t>(rounding[v]),
                                 static_cast<uint32_t>(static_cast<int64_t>(row[kStep]))));
    const auto shape = results[v].dimensions();
    const int64_t size = static_cast<int64_t>(results[v].element_count());
    const int64_t rows = shape.size() == 0 ? 1 : shape[0];
    work.push_back({size, size == 0 ? 0 : size / rows, &arrays[v * (2 + slots)], nullptr,
                    row, new_state.data() + (kernel->by_row ? 0 : v * width),
                    state.data() + v * width, keys.empty() ? nullptr : &keys[v]});
  }
  const auto schedule = [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); };
  Run(*table, sequence, work, false, SharedWith(pool.num_threads(), schedule));
  for (size_t i = 0; i < new_state.size(); ++i) *state[i] = new_state[i];
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kRunStep, RunStep,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Attr<std::string_view>("rule")
                           .Attr<std::string_view>("accumulate")
                           .Attr<std::string_view>("average")
                           .Attr<std::string_view>("reset")
                           .Attr<int64_t>("variables")
                           .Attr<ffi::Span<const int64_t>>("rounding")
                           .RemainingArgs()
                           .RemainingRets());

XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), kTarget, "Host", kRunStep);

class XlaStepOp : public tensorflow::XlaOpKernel {
 public:
  explicit XlaStepOp(tensorflow::OpKernelConstruction* context) : XlaOpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule_));
    OP_REQUIRES_OK(context, context->GetAttr("N", &count_));
    OP_REQUIRES_OK(context, context->GetAttr("M", &slots_));
    OP_REQUIRES_OK(context, context->GetAttr("S", &scalars_));
    OP_REQUIRES_OK(context, context->GetAttr("by_rows", &by_rows_));
    OP_REQUIRES_OK(context, context->GetAttr("rounding", &rounding_));
    OP_REQUIRES_OK(context, beside_.Read(context));
    int count = count_;
    if (context->HasAttr("count")) OP_REQUIRES_OK(context, context->GetAttr("count", &count));
    OP_REQUIRES(context, count == count_,
                errors::InvalidArgument(count, " variables, but ", count_, " handles."));
  }

  void Compile(tensorflow::XlaOpKernelContext* context) override {
    OP_REQUIRES(context, IsInUse() && by_rows_.empty(), errors::InvalidArgument(kInsideXla));
    Kernel found;
    OP_REQUIRES(context, Find(rule_, &found),
                errors::NotFound("The native library has no kernel ", rule_, "."));
    const Kernel* const kernel = &found;
    const int tensors = count_ + slots_, state = tensors + scalars_;
    OP_REQUIRES(context,
                slots_ == count_ * (kernel->slots + beside_.arrays()) &&
                    context->num_inputs() == state + GradientsOfStep() + 4 + beside_.numbers() &&
                    scalars_ == count_ * kernel->variable_scalars + kernel->optimizer_scalars &&
                    (rounding_.empty() || static_cast<int>(rounding_.size()) == count_),
                errors::InvalidArgument("The step of ", rule_, " has inputs too many or too few."));
    for (int i = state; i < context->num_inputs(); ++i)
      OP_REQUIRES(context, context->input_type(i) != tensorflow::DT_RESOURCE,
                  errors::InvalidArgument("Inside XLA, input ", i, " must not be a variable."));
    std::vector<DataType> types(state);
    std::vector<TensorShape> shapes(state);
    std::vector<xla::XlaOp> operands(state);
    std::vector<xla::Shape> results(state);
    std::vector<std::pair<xla::ShapeIndex, std::pair<int64_t, xla::ShapeIndex>>> aliases;
    for (int i = 0; i < state; ++i) {
      OP_REQUIRES_OK(context, context->GetVariableTypeAndShape(i, &types[i], &shapes[i]));
      Format format;
      OP_REQUIRES(context,
                  i < tensors ? FormatOf(types[i], &format) : types[i] == tensorflow::DT_DOUBLE,
                  errors::InvalidArgument("Weights or slots of dtype ",
                                          tensorflow::DataTypeString(types[i])));
      OP_REQUIRES_OK(context, context->ReadVariableInput(i, types[i], &shapes[i], &operands[i]));
      OP_REQUIRES_OK(context, tensorflow::TensorShapeToXLAShape(types[i], shapes[i], &results[i]));
      aliases.push_back({{i}, {i, {}}});
    }
    OP_REQUIRES_OK(context, Check(context, *kernel, shapes));
    for (int i = state; i < context->num_inputs(); ++i) operands.push_back(context->Input(i));
    const std::string attributes = absl::StrCat(
        "{rule = \"", rule_, "\", ", AttributesOf(beside_), "variables = ", count_, " : i64, rounding = array<i64",
        rounding_.empty() ? "" : ": ", absl::StrJoin(rounding_, ", "), ">}");
    const xla::XlaOp updated = xla::CustomCall(
        context->builder(), kTarget, operands, xla::ShapeUtil::MakeTupleShape(results), attributes,
        /*has_side_effect=*/false, aliases, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (int i = 0; i < state; ++i)
      OP_REQUIRES_OK(context,
                     context->AssignVariable(i, types[i], xla::GetTupleElement(updated, i)));
  }

 protected:
  virtual bool IsInUse() const { return in_use.load(); }

  virtual std::string AttributesOf(const Beside& beside) const {
    return absl::StrCat("accumulate = \"", beside.accumulate, "\", average = \"", beside.average,
                        "\", reset = \"", beside.reset, "\", ");
  }

  virtual bool Find(const std::string& rule, Kernel* kernel) const {
    const Table* const table = table_in_use.load();
    const Kernel* const found = table == nullptr ? nullptr : FindKernel(*table, rule);
    if (found != nullptr) *kernel = *found;
    return found != nullptr;
  }

 private:
  int GradientsOfStep() const { return beside_.takes_gradients() ? count_ : 0; }

  // What the op outside of XLA checks when it runs.
  absl::Status Check(tensorflow::XlaOpKernelContext* context, const Kernel& kernel,
                     const std::vector<TensorShape>& shapes) const {
    const int tensors = count_ + slots_;
    for (int i = 0; i < tensors; ++i)
      if (shapes[i] != shapes[i % count_])
        return errors::InvalidArgument("A slot of shape ", shapes[i].DebugString(),
                                       " belongs to a variable of shape ",
                                       shapes[i % count_].DebugString());
    for (int i = tensors; i < tensors + scalars_; ++i) {
      const TensorShape& weights = shapes[(i - tensors) % count_];
      const int64_t rows = weights.dims() == 0 ? 1 : weights.dim_size(0);
      if (shapes[i].num_elements() != (kernel.by_row ? rows : 1))
        return errors::InvalidArgument("A number of the state has shape ",
                                       shapes[i].DebugString());
    }
    const int first = tensors + scalars_;
    const int numbers = first + GradientsOfStep();
    for (int i = 0; i < GradientsOfStep(); ++i)
      if (context->InputShape(first + i) != shapes[i])
        return errors::InvalidArgument("A gradient of shape ",
                                       context->InputShape(first + i).DebugString(),
                                       " was given for a variable of shape ",
                                       shapes[i].DebugString());
    for (int k = 0; k < beside_.numbers(); ++k)
      if (context->InputShape(numbers + 4 + k).num_elements() != 1)
        return errors::InvalidArgument("A number beside those of the rule must be one.");
    const int64_t scales = context->InputShape(numbers + 2).num_elements();
    const TensorShape hyper = context->InputShape(numbers + 3);
    const int64_t rates = context->InputShape(numbers + 1).num_elements();
    if (context->InputShape(numbers).num_elements() != 1 || (rates != 1 && rates != count_) ||
        (scales != 1 && scales != count_) || hyper.dims() != 2 ||
        hyper.dim_size(1) != kernel.hyperparameters ||
        (hyper.dim_size(0) != 1 && hyper.dim_size(0) != count_))
      return errors::InvalidArgument("The numbers of the step do not have the shapes they must.");
    return absl::OkStatus();
  }

  std::string rule_;
  Beside beside_;
  int count_, slots_, scalars_;
  std::vector<int> by_rows_;
  std::vector<int64_t> rounding_;
};

// The same on a GPU; the call is in "xla_cuda_step.cc".
class XlaCudaStepOp : public XlaStepOp {
 public:
  using XlaStepOp::XlaStepOp;

 protected:
  bool IsInUse() const override { return in_use_on_gpus.load(); }

  std::string AttributesOf(const Beside&) const override { return ""; }

  bool Find(const std::string& rule, Kernel* kernel) const override {
    const auto program = FindAnyCudaProgram(rule);
    if (program != nullptr) *kernel = KernelOf(program->shape());
    return program != nullptr;
  }
};

// Sums of squares by operations of XLA, for clipping by norm.
class XlaSquaredNormsOp : public tensorflow::XlaOpKernel {
 public:
  explicit XlaSquaredNormsOp(tensorflow::OpKernelConstruction* context) : XlaOpKernel(context) {}

  void Compile(tensorflow::XlaOpKernelContext* context) override {
    OP_REQUIRES(context, in_use.load(), errors::InvalidArgument(kInsideXla));
    std::vector<xla::XlaOp> norms;
    for (int i = 0; i < context->num_inputs(); ++i) {
      const xla::XlaOp x = xla::ConvertElementType(context->Input(i), xla::F64);
      const xla::XlaOp zero = xla::Zero(context->builder(), xla::F64);
      const xla::XlaComputation* const add = context->GetOrCreateAdd(tensorflow::DT_DOUBLE);
      norms.push_back(xla::Reshape(xla::ReduceAll(xla::Mul(x, x), zero, *add), {1}));
    }
    context->SetOutput(0, xla::ConcatInDim(context->builder(), norms, 0));
  }
};

}  // namespace

// Rather than the kernels that only explain.
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device("XLA_CPU_JIT").Priority(1), XlaStepOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtFusedStep").Device("XLA_CPU_JIT").Priority(1), XlaStepOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtSquaredNorms").Device("XLA_CPU_JIT").Priority(1),
                        XlaSquaredNormsOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device("XLA_GPU_JIT").Priority(1), XlaCudaStepOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtSquaredNorms").Device("XLA_GPU_JIT").Priority(1),
                        XlaSquaredNormsOp);

}  // namespace tf_optim_ext

extern "C" __attribute__((visibility("default"))) void tf_optim_ext_use_inside_xla(int use) {
  tf_optim_ext::in_use.store(use != 0);
}

extern "C" __attribute__((visibility("default"))) void tf_optim_ext_use_inside_xla_on_gpus(
    int use) {
  tf_optim_ext::in_use_on_gpus.store(use != 0);
}
