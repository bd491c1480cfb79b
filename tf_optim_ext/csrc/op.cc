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
#include "op_common.h"
#include "row_sums.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace tf_optim_ext {

std::atomic<const Table*> table_in_use{nullptr};

namespace {

namespace errors = tensorflow::errors;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

// Locks variables, each once, in the order of their addresses.
class Locks {
 public:
  explicit Locks(const std::vector<Var*>& variables) {
    for (Var* variable : variables) mutexes_.push_back(variable->mu());
    std::sort(mutexes_.begin(), mutexes_.end());
    repeated_ = std::adjacent_find(mutexes_.begin(), mutexes_.end()) != mutexes_.end();
    if (repeated_) return;
    for (tensorflow::mutex* mutex : mutexes_) mutex->lock();
  }
  ~Locks() {
    if (repeated_) return;
    for (tensorflow::mutex* mutex : mutexes_) mutex->unlock();
  }
  Locks(const Locks&) = delete;
  Locks& operator=(const Locks&) = delete;

  // Whether a variable was given twice; nothing is locked then.
  bool repeated() const { return repeated_; }

 private:
  std::vector<tensorflow::mutex*> mutexes_;
  bool repeated_ = false;
};

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

class StepOp : public OpKernel {
 public:
  explicit StepOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule_));
    std::vector<tensorflow::DataType> gradients;
    OP_REQUIRES_OK(context, context->GetAttr("T", &gradients));
    count_ = static_cast<int>(gradients.size());
    OP_REQUIRES_OK(context, context->GetAttr("by_rows", &by_rows_));
    OP_REQUIRES_OK(context, context->GetAttr("lazy", &lazy_));
    OP_REQUIRES_OK(context, context->GetAttr("rounding", &rounding_));
    OP_REQUIRES(context, rounding_.empty() || static_cast<int>(rounding_.size()) == count_,
                errors::InvalidArgument("`rounding` must be empty or have ", count_, " keys."));
    for (size_t k = 0; k < by_rows_.size(); ++k)
      OP_REQUIRES(context,
                  by_rows_[k] >= 0 && by_rows_[k] < count_ &&
                      (k == 0 || by_rows_[k - 1] < by_rows_[k]),
                  errors::InvalidArgument("`by_rows` must be increasing positions of variables."));
  }

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
    std::vector<double> h;
    OP_REQUIRES_OK(context, ReadScalars(context, *kernel, &h));

    const int slots = count_ * kernel->slots;
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
      Update(context, *table, *kernel, variables, state, &h, new_state.data());
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

  // Finds the variables of an input, each tensor of which holds the handles of some, in order.
  absl::Status LookUp(OpKernelContext* context, const char* name, int expected,
                      std::vector<tensorflow::core::RefCountPtr<Var>>* variables) const {
    OpInputList handles;
    TF_RETURN_IF_ERROR(context->input_list(name, &handles));
    int64_t given = 0;
    for (const Tensor& some : handles) given += some.NumElements();
    if (given != expected)
      return errors::InvalidArgument("The rule needs ", expected, " ", name, " for ", count_,
                                     " gradients. Received ", given);
    for (const Tensor& some : handles) {
      const auto flat = some.flat<tensorflow::ResourceHandle>();
      for (int64_t i = 0; i < flat.size(); ++i) {
        variables->emplace_back();
        TF_RETURN_IF_ERROR(tensorflow::LookupResource(context, flat(i), &variables->back()));
      }
    }
    return absl::OkStatus();
  }

  // Reads a number from an input, or from the variable that is one.
  template <typename Number>
  static absl::Status ReadNumber(OpKernelContext* context, const char* name, Number* number) {
    const Tensor* input;
    TF_RETURN_IF_ERROR(context->input(name, &input));
    if (input->dtype() != tensorflow::DT_RESOURCE) return NumberIn(*input, name, number);
    if (input->NumElements() != 1)
      return errors::InvalidArgument("`", name, "` must be one variable.");
    tensorflow::core::RefCountPtr<Var> variable;
    TF_RETURN_IF_ERROR(tensorflow::LookupResource(
        context, input->flat<tensorflow::ResourceHandle>()(0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    return NumberIn(*variable->tensor(), name, number);
  }

  static absl::Status NumberIn(const Tensor& tensor, const char* name, int64_t* number) {
    if (tensor.NumElements() != 1 || tensor.dtype() != tensorflow::DT_INT64)
      return NotANumber(tensor, name, "int64");
    *number = tensor.flat<int64_t>()(0);
    return absl::OkStatus();
  }

  static absl::Status NumberIn(const Tensor& tensor, const char* name, double* number) {
    const bool is_double = tensor.dtype() == tensorflow::DT_DOUBLE;
    if (tensor.NumElements() != 1 || !(is_double || tensor.dtype() == tensorflow::DT_FLOAT))
      return NotANumber(tensor, name, "float or double");
    *number = is_double ? tensor.flat<double>()(0) : tensor.flat<float>()(0);
    return absl::OkStatus();
  }

  static absl::Status NotANumber(const Tensor& tensor, const char* name, const char* allowed) {
    return errors::InvalidArgument("`", name, "` must be one ", allowed, ". Received ",
                                   tensorflow::DataTypeString(tensor.dtype()), " of shape ",
                                   tensor.shape().DebugString());
  }

  // Fills one row of the step's scalars per variable.
  absl::Status ReadScalars(OpKernelContext* context, const Kernel& kernel,
                           std::vector<double>* h) const {
    int64_t finished;
    double learning_rate;
    TF_RETURN_IF_ERROR(ReadNumber(context, "finished", &finished));
    TF_RETURN_IF_ERROR(ReadNumber(context, "learning_rate", &learning_rate));
    const Tensor *scale, *hyper;
    TF_RETURN_IF_ERROR(context->input("gradient_scale", &scale));
    TF_RETURN_IF_ERROR(context->input("hyperparameters", &hyper));
    const int64_t scales = scale->NumElements();
    if (scales != 1 && scales != count_)
      return errors::InvalidArgument("`gradient_scale` must have 1 or ", count_,
                                     " elements. Received ", scales);
    if (hyper->dims() != 2 || hyper->dim_size(1) != kernel.hyperparameters ||
        (hyper->dim_size(0) != 1 && hyper->dim_size(0) != count_))
      return errors::InvalidArgument("`hyperparameters` must have shape [1 or ", count_, ", ",
                                     kernel.hyperparameters, "]. Received ",
                                     hyper->shape().DebugString());
    *h = ScalarsOfStep(kernel, count_, finished, learning_rate, scale->flat<double>().data(), scales,
                       hyper->flat<double>().data(), hyper->NumElements());
    return absl::OkStatus();
  }

  // Variable `v`, or slot number `v / count - 1` of variable `v % count`, or a number of the state.
  absl::Status Check(OpKernelContext* context, const Kernel& kernel,
                     const std::vector<Var*>& variables) const {
    OpInputList gradients, indices;
    TF_RETURN_IF_ERROR(context->input_list("gradients", &gradients));
    TF_RETURN_IF_ERROR(context->input_list("indices", &indices));
    const size_t tensors = static_cast<size_t>(count_) * (1 + kernel.slots);
    for (size_t v = 0; v < tensors; ++v) {
      const bool is_slot = v >= static_cast<size_t>(count_);
      const char* what = is_slot ? "slot" : "variable";
      Format format;
      const Tensor& tensor = *variables[v]->tensor();
      if (!variables[v]->is_initialized || !tensor.IsInitialized())
        return errors::FailedPrecondition("A ", what, " is not initialized (number ", v, ").");
      if (!FormatOf(tensor.dtype(), &format))
        return errors::InvalidArgument("A ", what, " has dtype ",
                                       tensorflow::DataTypeString(tensor.dtype()),
                                       "; allowed are float, bfloat16 and half.");
      const Tensor& weights = *variables[v % count_]->tensor();
      if (is_slot && !tensor.shape().IsSameSize(weights.shape()))
        return errors::InvalidArgument("A slot of shape ", tensor.shape().DebugString(),
                                       " belongs to a variable of shape ",
                                       weights.shape().DebugString());
      if (!is_slot) TF_RETURN_IF_ERROR(CheckGradient(v, tensor, gradients[v], indices));
    }
    for (size_t v = tensors; v < variables.size(); ++v) {
      const Tensor& tensor = *variables[v]->tensor();
      const int64_t size = kernel.by_row ? RowsOf(*variables[(v - tensors) % count_]->tensor()) : 1;
      if (!variables[v]->is_initialized || !tensor.IsInitialized() ||
          tensor.dtype() != tensorflow::DT_DOUBLE || tensor.NumElements() != size)
        return errors::InvalidArgument("Number ", v - tensors, " of the state must be ", size,
                                       " initialized double", size == 1 ? "." : "s.");
    }
    return absl::OkStatus();
  }

  absl::Status CheckGradient(int v, const Tensor& weights, const Tensor& gradient,
                             const OpInputList& indices) const {
    const int k = IndicesOf(v);
    tensorflow::TensorShape expected = weights.shape();
    if (k >= 0) {
      if (expected.dims() == 0 || indices[k].dims() != 1)
        return errors::InvalidArgument("The sparse gradient of variable number ", v,
                                       " needs a vector of indices, and the variable rows.");
      expected.set_dim(0, indices[k].NumElements());
    }
    if (!gradient.shape().IsSameSize(expected))
      return errors::InvalidArgument("A gradient of shape ", gradient.shape().DebugString(),
                                     " was given for variable number ", v, " of shape ",
                                     weights.shape().DebugString(), "; it must have shape ",
                                     expected.DebugString());
    if (k < 0) return absl::OkStatus();
    const auto rows = indices[k].vec<int64_t>();
    for (int64_t i = 0; i < rows.size(); ++i)
      if (rows(i) < 0 || rows(i) >= weights.dim_size(0))
        return errors::InvalidArgument("The indices of the gradient of variable number ", v,
                                       " must be in [0, ", weights.dim_size(0), "). Received ",
                                       rows(i));
    if (!AllDifferent(rows.data(), rows.size(), !lazy_))
      return errors::InvalidArgument("The indices of the gradient of variable number ", v,
                                     " must be ", lazy_ ? "different." : "increasing.");
    return absl::OkStatus();
  }

  // Which of the vectors of indices belongs to variable `v`; -1 if its gradient has all rows.
  int IndicesOf(int v) const {
    const auto found = std::lower_bound(by_rows_.begin(), by_rows_.end(), v);
    if (found == by_rows_.end() || *found != v) return -1;
    return static_cast<int>(found - by_rows_.begin());
  }

  static int64_t RowsOf(const Tensor& weights) {
    return weights.dims() == 0 ? 1 : weights.dim_size(0);
  }

  // Where the numbers of the state are: for each variable its own, then those of the optimizer.
  std::vector<double*> StateOf(const Kernel& kernel, const std::vector<Var*>& variables) const {
    std::vector<double*> state;
    Var* const* scalars = variables.data() + count_ * (1 + kernel.slots);
    const int own = kernel.variable_scalars;
    for (int v = 0; v < count_; ++v)
      for (int k = 0; k < StateScalars(kernel); ++k) {
        Var* scalar = k < own ? scalars[k * count_ + v] : scalars[own * count_ + k - own];
        state.push_back(scalar->tensor()->flat<double>().data());
      }
    return state;
  }

  void Update(OpKernelContext* context, const Table& table, const Kernel& kernel,
              const std::vector<Var*>& variables, const std::vector<double*>& state,
              std::vector<double>* h, double* new_state) const {
    OpInputList gradients, indices;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    OP_REQUIRES_OK(context, context->input_list("indices", &indices));
    std::vector<Rows> rows;
    for (int k = 0; k < indices.size(); ++k)
      rows.push_back({indices[k].flat<int64_t>().data(), indices[k].NumElements()});
    const int per_variable = 2 + kernel.slots;
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
      row[1] = ArrayOf(gradients[v]);
      for (int s = 0; s < kernel.slots; ++s)
        row[2 + s] = ArrayOf(*variables[static_cast<size_t>(s + 1) * count_ + v]->tensor());
      const int64_t size = weights.NumElements();
      const int64_t width = size == 0 ? 0 : size / RowsOf(weights);
      const int k = IndicesOf(v);
      const size_t first = static_cast<size_t>(v) * StateScalars(kernel);
      work.push_back({size, width, row, k < 0 ? nullptr : &rows[k],
                      h->data() + static_cast<size_t>(v) * Width(kernel), new_state + first,
                      state.data() + first, keys.empty() ? nullptr : &keys[v]});
    }
    Run(table, kernel, work, lazy_, TensorFlowThreads(context));
  }

  std::string rule_;
  int count_;
  std::vector<int> by_rows_;  // the variables whose gradient has some rows only
  bool lazy_;
  std::vector<int64_t> rounding_;  // keys of stochastic rounding, for each variable
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

REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device(tensorflow::DEVICE_CPU), StepOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device("XLA_CPU_JIT"), InsideXlaOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtStep").Device("XLA_GPU_JIT"), InsideXlaOp);

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
