// The op of a step: it checks everything it is handed, locks the variables and calls the driver.

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "huge_pages.h"
#include "step_op.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace tf_optim_ext {

std::atomic<const Table*> table_in_use{nullptr};

namespace {

namespace errors = tensorflow::errors;
using tensorflow::OpInputList;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

// Gives the variable a buffer that nobody else reads. Unlike TensorFlow's own training ops this
// does not copy in copy-on-read mode: under the exclusive lock the buffer has no other user then.
absl::Status MakeWritable(OpKernelContext* context, Tensor* tensor) {
  if (tensor->RefCountIsOne() || tensor->NumElements() == 0) return absl::OkStatus();
  Tensor copy;
  TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
  std::memcpy(copy.data(), tensor->data(), tensor->TotalBytes());
  *tensor = copy;
  return absl::OkStatus();
}

// A number for each variable that there ever was: another one may come to lie where one was.
uint64_t NumberOf(Var* variable) {
  struct Known {
    tensorflow::core::WeakPtr<Var> alive;
    uint64_t number;
  };
  constexpr size_t kMost = 4096;
  static std::mutex mutex;
  static auto* const all = new std::unordered_map<Var*, Known>;
  static uint64_t last = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = all->find(variable);
  if (found != all->end() && found->second.alive.GetNewRef() != nullptr)
    return found->second.number;
  if (found == all->end() && all->size() >= kMost)
    for (auto known = all->begin(); known != all->end();)
      known = known->second.alive.GetNewRef() == nullptr ? all->erase(known) : std::next(known);
  (*all)[variable] = {tensorflow::core::WeakPtr<Var>(variable), ++last};
  return last;
}

class StepOp : public StepOpBase {
 public:
  using StepOpBase::StepOpBase;

  void Compute(OpKernelContext* context) override {
    const Table* table = table_in_use.load();
    OP_REQUIRES(context, table != nullptr,
                errors::FailedPrecondition("No instruction set was chosen for tf_optim_ext."));
    const Kernel* kernel = FindKernel(*table, rule_);
    OP_REQUIRES(context, kernel != nullptr,
                errors::NotFound("The native library has no kernel ", rule_,
                                 ". It was built for another version of tf_optim_ext."));
    OpInputList indices;
    OP_REQUIRES_OK(context, context->input_list("indices", &indices));
    OP_REQUIRES(context, indices.size() == static_cast<int>(by_rows_.size()),
                errors::InvalidArgument(by_rows_.size(), " gradients need indices. Received ",
                                        indices.size(), " vectors of indices."));
    OP_REQUIRES(context,
                !lazy_ || kernel->by_row || (kernel->passes == 1 && StateScalars(*kernel) == 0),
                errors::InvalidArgument("The rule cannot update some rows without the others."));
    OP_REQUIRES(context, !lazy_ || by_rows_.empty() || beside_.arrays() == 0,
                errors::InvalidArgument("Sums and averages have all rows, but the step has some."));
    std::vector<double> h;
    Sequence sequence;
    OP_REQUIRES_OK(context, ReadScalars(context, *table, *kernel, &h, &sequence));

    const int slots = count_ * SlotsOf(*kernel);
    const int scalars = count_ * kernel->variable_scalars + kernel->optimizer_scalars;
    std::vector<tensorflow::core::RefCountPtr<Var>> owned;
    std::vector<Var*> variables;
    OP_REQUIRES_OK(context, LookUp(context, "weights", count_, &owned));
    OP_REQUIRES_OK(context, LookUp(context, "slots", slots, &owned));
    OP_REQUIRES_OK(context, LookUp(context, "scalars", scalars, &owned));
    for (const auto& variable : owned) variables.push_back(variable.get());
    std::vector<LargeArray> large;
    {
      Locks locks(variables);
      OP_REQUIRES(context, !locks.repeated(),
                  errors::InvalidArgument("The same variable was given twice."));
      OP_REQUIRES_OK(context, Check(context, *kernel, variables));
      for (Var* variable : variables)
        OP_REQUIRES_OK(context, MakeWritable(context, variable->tensor()));
      const std::vector<double*> state = StateOf(*kernel, variables);
      std::vector<double> new_state(kernel->by_row ? 0 : state.size());
      const int width = StateScalars(*kernel);
      for (size_t i = 0; i < new_state.size(); ++i)
        h[(i / width + 1) * Width(*kernel) - width + i % width] = *state[i];
      Update(context, *table, sequence, variables, state, &h, new_state.data());
      for (size_t i = 0; i < new_state.size(); ++i) *state[i] = new_state[i];
      for (int k = 0; k < count_ + slots; ++k) AddIfLarge(context, variables[k], k % count_, &large);
    }
    UseHugePages(large);
  }

 private:
  // Notes where the array of a weight or slot of variable `v` is, if huge pages may be worth it.
  void AddIfLarge(OpKernelContext* context, Var* variable, int v,
                  std::vector<LargeArray>* large) const {
    const Tensor& tensor = *variable->tensor();
    if (tensor.TotalBytes() < kSmallestLargeArray) return;
    LargeArray array{0, tensor.data(), tensor.TotalBytes(), nullptr, 0, 0};
    const int k = lazy_ ? IndicesOf(v) : -1;
    if (k >= 0) {
      OpInputList indices;
      OP_REQUIRES_OK(context, context->input_list("indices", &indices));
      array.rows = indices[k].flat<int64_t>().data();
      array.count = indices[k].NumElements();
      array.row_bytes = tensor.TotalBytes() / RowsOf(tensor);
      if (array.count == 0) return;
    }
    array.owner = NumberOf(variable);
    large->push_back(array);
  }

  // Reads a number from an input, or from the variable that is one; or one for each of several
  // variables.
  template <typename Number>
  static absl::Status ReadNumbers(OpKernelContext* context, const char* name, int several,
                                  std::vector<Number>* numbers) {
    const Tensor* input;
    TF_RETURN_IF_ERROR(context->input(name, &input));
    if (input->dtype() != tensorflow::DT_RESOURCE)
      return NumbersIn(*input, name, several, numbers);
    if (input->NumElements() != 1)
      return errors::InvalidArgument("`", name, "` must be one variable.");
    tensorflow::core::RefCountPtr<Var> variable;
    TF_RETURN_IF_ERROR(tensorflow::LookupResource(
        context, input->flat<tensorflow::ResourceHandle>()(0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    return NumbersIn(*variable->tensor(), name, 1, numbers);
  }

  static absl::Status NumbersIn(const Tensor& tensor, const char* name, int several,
                                std::vector<int64_t>* numbers) {
    if (tensor.NumElements() != 1 || tensor.dtype() != tensorflow::DT_INT64)
      return NotANumber(tensor, name, "int64");
    numbers->push_back(tensor.flat<int64_t>()(0));
    return absl::OkStatus();
  }

  static absl::Status NumbersIn(const Tensor& tensor, const char* name, int several,
                                std::vector<double>* numbers) {
    const bool is_double = tensor.dtype() == tensorflow::DT_DOUBLE;
    const int64_t count = tensor.NumElements();
    if ((count != 1 && count != several) || !(is_double || tensor.dtype() == tensorflow::DT_FLOAT))
      return NotANumber(tensor, name, "float or double");
    for (int64_t i = 0; i < count; ++i)
      numbers->push_back(is_double ? tensor.flat<double>()(i) : tensor.flat<float>()(i));
    return absl::OkStatus();
  }

  // Fills one row of the step's scalars per variable, and finds the programs beside the rule.
  absl::Status ReadScalars(OpKernelContext* context, const Table& table, const Kernel& kernel,
                           std::vector<double>* h, Sequence* sequence) const {
    std::vector<int64_t> finished;
    std::vector<double> learning_rates, numbers;
    TF_RETURN_IF_ERROR(ReadNumbers(context, "finished", 1, &finished));
    TF_RETURN_IF_ERROR(ReadNumbers(context, "learning_rate", count_, &learning_rates));
    const Tensor *scale, *hyper;
    TF_RETURN_IF_ERROR(context->input("gradient_scale", &scale));
    TF_RETURN_IF_ERROR(context->input("hyperparameters", &hyper));
    TF_RETURN_IF_ERROR(CheckNumbers(kernel, *scale, *hyper));
    *h = ScalarsOfStep(kernel, count_, finished[0], learning_rates, scale->flat<double>().data(),
                       scale->NumElements(), hyper->flat<double>().data(), hyper->NumElements());
    OpInputList inputs;
    if (beside_.numbers() > 0) TF_RETURN_IF_ERROR(context->input_list("beside", &inputs));
    if (inputs.size() != beside_.numbers())
      return errors::InvalidArgument("The step takes ", beside_.numbers(),
                                     " numbers beside those of the rule. Received ",
                                     inputs.size());
    for (int i = 0; i < inputs.size(); ++i)
      TF_RETURN_IF_ERROR(NumbersIn(inputs[i], "beside", 1, &numbers));
    return FindSequence(table, kernel, beside_, finished[0], numbers, sequence);
  }

  void Update(OpKernelContext* context, const Table& table, const Sequence& sequence,
              const std::vector<Var*>& variables, const std::vector<double*>& state,
              std::vector<double>* h, double* new_state) const {
    OpInputList gradients, indices;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    OP_REQUIRES_OK(context, context->input_list("indices", &indices));
    std::vector<Rows> rows;
    for (int k = 0; k < indices.size(); ++k)
      rows.push_back({indices[k].flat<int64_t>().data(), indices[k].NumElements()});
    const Kernel& kernel = *sequence.rule;
    const int per_variable = 2 + SlotsOf(kernel);
    std::vector<Array> arrays(static_cast<size_t>(count_) * per_variable);
    std::vector<uint32_t> keys;
    for (int v = 0; v < static_cast<int>(rounding_.size()); ++v) {
      const double step = (*h)[static_cast<size_t>(v) * Width(kernel) + kStep];
      keys.push_back(RoundingKey(static_cast<uint32_t>(rounding_[v]),
                                 static_cast<uint32_t>(static_cast<int64_t>(step))));
    }
    std::vector<Variable> work;
    work.reserve(count_);
    for (int v = 0; v < count_; ++v) {
      const Tensor& weights = *variables[v]->tensor();
      Array* row = &arrays[static_cast<size_t>(v) * per_variable];
      row[0] = ArrayOf(weights);
      if (beside_.takes_gradients()) row[1] = ArrayOf(gradients[v]);
      for (int s = 0; s < SlotsOf(kernel); ++s)
        row[2 + s] = ArrayOf(*variables[static_cast<size_t>(s + 1) * count_ + v]->tensor());
      const int64_t size = weights.NumElements();
      const int64_t width = size == 0 ? 0 : size / RowsOf(weights);
      const int k = IndicesOf(v);
      const size_t first = static_cast<size_t>(v) * StateScalars(kernel);
      work.push_back({size, width, row, k < 0 ? nullptr : &rows[k],
                      h->data() + static_cast<size_t>(v) * Width(kernel), new_state + first,
                      state.data() + first, keys.empty() ? nullptr : &keys[v]});
    }
    Run(table, sequence, work, lazy_, TensorFlowThreads(context));
  }
};

}  // namespace

REGISTER_OP("TfOptimExtStep")
    .Input("weights: N * resource")
    .Input("slots: M * resource")
    .Input("scalars: S * resource")
    .Input("gradients: T")
    .Input("indices: R * int64")
    .Input("finished: F")
    .Input("learning_rate: L")
    .Input("gradient_scale: double")
    .Input("hyperparameters: double")
    .Attr("N: int >= 1")
    .Attr("M: int >= 0")
    .Attr("S: int >= 0")
    .Attr("R: int >= 0")
    .Attr("T: list({float, bfloat16, half}) >= 1")
    .Attr("F: {int64, resource} = DT_INT64")
    .Attr("L: {float, double, resource}")
    .Attr("rule: string")
    .Attr("by_rows: list(int) = []")
    .Attr("lazy: bool = false")
    .Attr("rounding: list(int) = []")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      int count;
      std::vector<tensorflow::DataType> types;
      TF_RETURN_IF_ERROR(context->GetAttr("N", &count));
      TF_RETURN_IF_ERROR(context->GetAttr("T", &types));
      // Fewer are possible: a tensor may hold the handles of several variables.
      if (static_cast<int>(types.size()) < count)
        return errors::InvalidArgument(count, " variables, but ", types.size(), " gradients.");
      return absl::OkStatus();
    })
    .Doc("Updates variables and their slots in place by a compiled rule of tf_optim_ext.");

REGISTER_OP("TfOptimExtFusedStep")
    .Input("weights: N * resource")
    .Input("slots: M * resource")
    .Input("scalars: S * resource")
    .Input("gradients: T")
    .Input("indices: R * int64")
    .Input("finished: F")
    .Input("learning_rate: L")
    .Input("gradient_scale: double")
    .Input("hyperparameters: double")
    .Input("beside: K * double")
    .Attr("N: int >= 1")
    .Attr("M: int >= 0")
    .Attr("S: int >= 0")
    .Attr("R: int >= 0")
    .Attr("K: int >= 0")
    .Attr("T: list({float, bfloat16, half}) >= 0")
    .Attr("F: {int64, resource} = DT_INT64")
    .Attr("L: {float, double, resource}")
    .Attr("rule: string")
    .Attr("count: int >= 1")
    .Attr("accumulate: string = ''")
    .Attr("average: string = ''")
    .Attr("reset: string = ''")
    .Attr("by_rows: list(int) = []")
    .Attr("lazy: bool = false")
    .Attr("rounding: list(int) = []")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs)
    .Doc("TfOptimExtStep with sums of gradients before it and averages of weights after it, in one pass: "
         "`slots` has their handles after those of the slots.");

REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device(tensorflow::DEVICE_CPU), StepOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device("XLA_CPU_JIT"), InsideXlaOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device("XLA_GPU_JIT"), InsideXlaOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtFusedStep").Device(tensorflow::DEVICE_CPU), StepOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtFusedStep").Device("XLA_CPU_JIT"), InsideXlaOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtFusedStep").Device("XLA_GPU_JIT"), InsideXlaOp);

}  // namespace tf_optim_ext

// What Python calls beside the ops.
#define EXPORT extern "C" __attribute__((visibility("default")))

// Chooses the instruction set; returns whether that was possible.
EXPORT int tf_optim_ext_use(const char* instruction_set) {
  const tf_optim_ext::Table* table = tf_optim_ext::FindTable(instruction_set);
  if (table != nullptr) tf_optim_ext::table_in_use.store(table);
  return table != nullptr;
}

// See `WatchHugePages`.
EXPORT void tf_optim_ext_watch_huge_pages(void (*watch)(int request, void* begin, size_t bytes)) {
  tf_optim_ext::WatchHugePages(watch);
}

// Number of kernels, and the name of one of them (null if there is none of that number).
EXPORT int tf_optim_ext_kernels() { return tf_optim_ext::FindTable("baseline")->count; }

EXPORT const char* tf_optim_ext_kernel(int number) {
  const tf_optim_ext::Table* table = tf_optim_ext::FindTable("baseline");
  return number >= 0 && number < table->count ? table->kernels[number]->name : nullptr;
}

// Seconds that `threads` threads take to add g to each of `count` (1 to 4) arrays of n elements;
// negative if an argument is out of range.
EXPORT double tf_optim_ext_stream(int count, float* const* arrays, const float* g, int64_t n,
                           int threads) {
  const tf_optim_ext::Table* table = tf_optim_ext::table_in_use.load();
  if (table == nullptr || count < 1 || count > 4 || n < 0 || threads < 1) return -1.0;
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([=] {
      const int64_t begin = n * t / threads, end = n * (t + 1) / threads;
      float* shifted[4];
      for (int k = 0; k < count; ++k) shifted[k] = arrays[k] + begin;
      table->stream(count, shifted, g + begin, end - begin);
    });
  }
  for (std::thread& worker : workers) worker.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
