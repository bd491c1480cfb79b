// The step inside of XLA on a CPU: a call of the driver that updates its operands in place. A library
// of its own, because it needs more of TensorFlow than the ops do.

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "op_common.h"
#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/ffi/api/ffi.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace tf_optim_ext {
namespace {

namespace errors = tensorflow::errors;
namespace ffi = xla::ffi;
using tensorflow::DataType;
using tensorflow::TensorShape;

constexpr char kTarget[] = "tf_optim_ext_step";

// Ranges of work that the calling thread and helpers take in turn. Helpers that come too late find
// none left; so the caller never waits for a thread that is busy with something else.
class Ranges {
 public:
  Ranges(int64_t count, int64_t size, const std::function<void(int64_t, int64_t)>& run)
      : count_(count), size_(size), run_(run) {}

  void Work() {
    for (;;) {
      const int64_t begin = next_.fetch_add(size_);
      if (begin >= count_) return;
      const int64_t end = std::min(begin + size_, count_);
      run_(begin, end);
      const std::lock_guard<std::mutex> lock(mutex_);
      done_ += end - begin;
      if (done_ == count_) finished_.notify_all();
    }
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return done_ == count_; });
  }

 private:
  const int64_t count_, size_;
  const std::function<void(int64_t, int64_t)>& run_;  // not called once all work is done
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
  int64_t done_ = 0;
};

ParallelFor XlaThreads(ffi::ThreadPool* pool) {
  return [pool](int64_t count, int64_t bytes,
                const std::function<void(int64_t, int64_t)>& run) {
    const int64_t threads = std::min(pool->num_threads(), count);
    if (threads <= 1 || count * bytes < 64 * 1024) return run(0, count);
    const auto ranges =
        std::make_shared<Ranges>(count, std::max<int64_t>(1, count / (4 * threads)), run);
    for (int64_t i = 1; i < threads; ++i)
      pool->Schedule([ranges] { ranges->Work(); });
    ranges->Work();
    ranges->Wait();
  };
}

Format FormatOf(ffi::DataType dtype) {
  if (dtype == ffi::DataType::BF16) return kBFloat16;
  return dtype == ffi::DataType::F16 ? kFloat16 : kFloat32;
}

// Operands: the weights, the slots and the numbers of the state, which are the results, too; then the
// gradients and the numbers of the step. `XlaStepOp` has checked them.
ffi::Error RunStep(ffi::ThreadPool pool, std::string_view rule, int64_t variables,
                   ffi::Span<const int64_t> rounding, ffi::RemainingArgs args,
                   ffi::RemainingRets rets) {
  const Table* const table = table_in_use.load();
  const Kernel* const kernel = table == nullptr ? nullptr : FindKernel(*table, std::string(rule));
  if (kernel == nullptr) return ffi::Error::Internal("The native library has no such kernel.");
  std::vector<ffi::AnyBuffer> operands;
  for (size_t i = 0; i < args.size(); ++i) operands.push_back(args.get<ffi::AnyBuffer>(i).value());
  std::vector<ffi::AnyBuffer> results;
  for (size_t i = 0; i < rets.size(); ++i) {
    results.push_back(*rets.get<ffi::AnyBuffer>(i).value());
    if (results[i].untyped_data() != operands[i].untyped_data())
      std::memcpy(results[i].untyped_data(), operands[i].untyped_data(), operands[i].size_bytes());
  }
  const ffi::AnyBuffer* const numbers = &operands[rets.size() + variables];
  std::vector<double> h = ScalarsOfStep(
      *kernel, static_cast<int>(variables), numbers[0].typed_data<int64_t>()[0],
      numbers[1].element_type() == ffi::DataType::F64 ? numbers[1].typed_data<double>()[0]
                                                      : numbers[1].typed_data<float>()[0],
      numbers[2].typed_data<double>(), numbers[2].element_count(),
      numbers[3].typed_data<double>(), numbers[3].element_count());
  const int width = StateScalars(*kernel), own = kernel->variable_scalars;
  const size_t tensors = variables * (1 + kernel->slots);
  std::vector<Array> arrays;
  std::vector<uint32_t> keys;
  std::vector<double*> state;
  std::vector<double> new_state(kernel->by_row ? 0 : variables * width);
  arrays.reserve(variables * (2 + kernel->slots));
  keys.reserve(variables);
  state.reserve(variables * width);
  std::vector<Variable> work;
  for (int64_t v = 0; v < variables; ++v) {
    const auto add = [&](const ffi::AnyBuffer& buffer) {
      arrays.push_back({buffer.untyped_data(), FormatOf(buffer.element_type())});
    };
    add(results[v]);
    add(operands[rets.size() + v]);
    for (int s = 0; s < kernel->slots; ++s) add(results[(s + 1) * variables + v]);
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
    work.push_back({size, size == 0 ? 0 : size / rows, &arrays[v * (2 + kernel->slots)], nullptr,
                    row, new_state.data() + (kernel->by_row ? 0 : v * width),
                    state.data() + v * width, keys.empty() ? nullptr : &keys[v]});
  }
  Run(*table, *kernel, work, false, XlaThreads(&pool));
  for (size_t i = 0; i < new_state.size(); ++i) *state[i] = new_state[i];
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kRunStep, RunStep,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Attr<std::string_view>("rule")
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
  }

  void Compile(tensorflow::XlaOpKernelContext* context) override {
    OP_REQUIRES(context, by_rows_.empty(), errors::InvalidArgument(kInsideXla));
    const Table* const table = table_in_use.load();
    const Kernel* const kernel = table == nullptr ? nullptr : FindKernel(*table, rule_);
    OP_REQUIRES(context, kernel != nullptr,
                errors::NotFound("The native library has no kernel ", rule_, "."));
    const int tensors = count_ + slots_, state = tensors + scalars_;
    OP_REQUIRES(context,
                slots_ == count_ * kernel->slots && context->num_inputs() == state + count_ + 4 &&
                    scalars_ == count_ * kernel->variable_scalars + kernel->optimizer_scalars &&
                    (rounding_.empty() || static_cast<int>(rounding_.size()) == count_),
                errors::InvalidArgument("The step of ", rule_, " has inputs too many or too few."));
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
        "{rule = \"", rule_, "\", variables = ", count_, " : i64, rounding = array<i64",
        rounding_.empty() ? "" : ": ", absl::StrJoin(rounding_, ", "), ">}");
    const xla::XlaOp updated = xla::CustomCall(
        context->builder(), kTarget, operands, xla::ShapeUtil::MakeTupleShape(results), attributes,
        /*has_side_effect=*/false, aliases, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (int i = 0; i < state; ++i)
      OP_REQUIRES_OK(context,
                     context->AssignVariable(i, types[i], xla::GetTupleElement(updated, i)));
  }

 private:
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
    for (int i = 0; i < count_; ++i)
      if (context->InputShape(first + i) != shapes[i])
        return errors::InvalidArgument("A gradient of shape ",
                                       context->InputShape(first + i).DebugString(),
                                       " was given for a variable of shape ",
                                       shapes[i].DebugString());
    const int64_t scales = context->InputShape(first + count_ + 2).num_elements();
    const TensorShape hyper = context->InputShape(first + count_ + 3);
    if (context->InputShape(first + count_).num_elements() != 1 ||
        context->InputShape(first + count_ + 1).num_elements() != 1 ||
        (scales != 1 && scales != count_) || hyper.dims() != 2 ||
        hyper.dim_size(1) != kernel.hyperparameters ||
        (hyper.dim_size(0) != 1 && hyper.dim_size(0) != count_))
      return errors::InvalidArgument("The numbers of the step do not have the shapes they must.");
    return absl::OkStatus();
  }

  std::string rule_;
  int count_, slots_, scalars_;
  std::vector<int> by_rows_;
  std::vector<int64_t> rounding_;
};

}  // namespace

// Rather than the kernel that only explains.
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device("XLA_CPU_JIT").Priority(1), XlaStepOp);

}  // namespace tf_optim_ext
