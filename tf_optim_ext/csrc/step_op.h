// What the ops of a step on processors and on GPUs share: finding, locking and checking of everything that
// they are handed.
#ifndef TF_OPTIM_EXT_NATIVE_STEP_OP_H_
#define TF_OPTIM_EXT_NATIVE_STEP_OP_H_

#include <algorithm>
#include <string>
#include <vector>

#include "op_common.h"
#include "row_sums.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace tf_optim_ext {

// Locks variables, each once, in the order of their addresses.
class Locks {
 public:
  explicit Locks(const std::vector<tensorflow::Var*>& variables) {
    for (tensorflow::Var* variable : variables) mutexes_.push_back(variable->mu());
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

class StepOpBase : public tensorflow::OpKernel {
 public:
  explicit StepOpBase(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule_));
    OP_REQUIRES_OK(context, beside_.Read(context));
    std::vector<tensorflow::DataType> gradients;
    OP_REQUIRES_OK(context, context->GetAttr("T", &gradients));
    count_ = static_cast<int>(gradients.size());
    if (context->HasAttr("count")) OP_REQUIRES_OK(context, context->GetAttr("count", &count_));
    OP_REQUIRES(context,
                static_cast<int>(gradients.size()) == (beside_.takes_gradients() ? count_ : 0),
                tensorflow::errors::InvalidArgument("The step takes ",
                                                    beside_.takes_gradients() ? count_ : 0,
                                                    " gradients. Received ", gradients.size()));
    OP_REQUIRES_OK(context, context->GetAttr("by_rows", &by_rows_));
    OP_REQUIRES_OK(context, context->GetAttr("lazy", &lazy_));
    OP_REQUIRES_OK(context, context->GetAttr("rounding", &rounding_));
    OP_REQUIRES(context, rounding_.empty() || static_cast<int>(rounding_.size()) == count_,
                tensorflow::errors::InvalidArgument("`rounding` must be empty or have ", count_, " keys."));
    for (size_t k = 0; k < by_rows_.size(); ++k)
      OP_REQUIRES(context,
                  by_rows_[k] >= 0 && by_rows_[k] < count_ &&
                      (k == 0 || by_rows_[k - 1] < by_rows_[k]),
                  tensorflow::errors::InvalidArgument("`by_rows` must be increasing positions of variables."));
  }

 protected:
  using OpInputList = tensorflow::OpInputList;
  using OpKernelContext = tensorflow::OpKernelContext;
  using Tensor = tensorflow::Tensor;
  using Var = tensorflow::Var;

  // Finds the variables of an input, each tensor of which holds the handles of some, in order.
  absl::Status LookUp(OpKernelContext* context, const char* name, int expected,
                      std::vector<tensorflow::core::RefCountPtr<Var>>* variables) const {
    OpInputList handles;
    TF_RETURN_IF_ERROR(context->input_list(name, &handles));
    int64_t given = 0;
    for (const Tensor& some : handles) given += some.NumElements();
    if (given != expected)
      return tensorflow::errors::InvalidArgument("The rule needs ", expected, " ", name, " for ", count_,
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

  static absl::Status NotANumber(const Tensor& tensor, const char* name, const char* allowed) {
    return tensorflow::errors::InvalidArgument("`", name, "` must be one ", allowed, ". Received ",
                                   tensorflow::DataTypeString(tensor.dtype()), " of shape ",
                                   tensor.shape().DebugString());
  }

  absl::Status CheckNumbers(const Kernel& kernel, const Tensor& scale, const Tensor& hyper) const {
    const int64_t scales = scale.NumElements();
    if (scales != 1 && scales != count_)
      return tensorflow::errors::InvalidArgument("`gradient_scale` must have 1 or ", count_,
                                     " elements. Received ", scales);
    if (hyper.dims() != 2 || hyper.dim_size(1) != kernel.hyperparameters ||
        (hyper.dim_size(0) != 1 && hyper.dim_size(0) != count_))
      return tensorflow::errors::InvalidArgument("`hyperparameters` must have shape [1 or ", count_, ", ",
                                     kernel.hyperparameters, "]. Received ",
                                     hyper.shape().DebugString());
    return absl::OkStatus();
  }

  // Arrays that each variable has beside itself and its gradient: slots, sums and averages.
  int SlotsOf(const Kernel& kernel) const { return kernel.slots + beside_.arrays(); }

  // Variable `v`, or slot number `v / count - 1` of variable `v % count`, or a number of the state.
  absl::Status Check(OpKernelContext* context, const Kernel& kernel,
                     const std::vector<Var*>& variables) const {
    OpInputList gradients, indices;
    TF_RETURN_IF_ERROR(context->input_list("gradients", &gradients));
    TF_RETURN_IF_ERROR(context->input_list("indices", &indices));
    const size_t tensors = static_cast<size_t>(count_) * (1 + SlotsOf(kernel));
    for (size_t v = 0; v < tensors; ++v) {
      const bool is_slot = v >= static_cast<size_t>(count_);
      const char* what = is_slot ? "slot" : "variable";
      Format format;
      const Tensor& tensor = *variables[v]->tensor();
      if (!variables[v]->is_initialized || !tensor.IsInitialized())
        return tensorflow::errors::FailedPrecondition("A ", what, " is not initialized (number ", v, ").");
      if (!FormatOf(tensor.dtype(), &format))
        return tensorflow::errors::InvalidArgument("A ", what, " has dtype ",
                                       tensorflow::DataTypeString(tensor.dtype()),
                                       "; allowed are float, bfloat16 and half.");
      const Tensor& weights = *variables[v % count_]->tensor();
      if (is_slot && !tensor.shape().IsSameSize(weights.shape()))
        return tensorflow::errors::InvalidArgument("A slot of shape ", tensor.shape().DebugString(),
                                       " belongs to a variable of shape ",
                                       weights.shape().DebugString());
      if (!is_slot && beside_.takes_gradients())
        TF_RETURN_IF_ERROR(CheckGradient(v, tensor, gradients[v], indices));
    }
    for (size_t v = tensors; v < variables.size(); ++v) {
      const Tensor& tensor = *variables[v]->tensor();
      const int64_t size = kernel.by_row ? RowsOf(*variables[(v - tensors) % count_]->tensor()) : 1;
      if (!variables[v]->is_initialized || !tensor.IsInitialized() ||
          tensor.dtype() != tensorflow::DT_DOUBLE || tensor.NumElements() != size)
        return tensorflow::errors::InvalidArgument("Number ", v - tensors, " of the state must be ", size,
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
        return tensorflow::errors::InvalidArgument("The sparse gradient of variable number ", v,
                                       " needs a vector of indices, and the variable rows.");
      expected.set_dim(0, indices[k].NumElements());
    }
    if (!gradient.shape().IsSameSize(expected))
      return tensorflow::errors::InvalidArgument("A gradient of shape ", gradient.shape().DebugString(),
                                     " was given for variable number ", v, " of shape ",
                                     weights.shape().DebugString(), "; it must have shape ",
                                     expected.DebugString());
    if (k < 0) return absl::OkStatus();
    const auto rows = indices[k].vec<int64_t>();
    for (int64_t i = 0; i < rows.size(); ++i)
      if (rows(i) < 0 || rows(i) >= weights.dim_size(0))
        return tensorflow::errors::InvalidArgument("The indices of the gradient of variable number ", v,
                                       " must be in [0, ", weights.dim_size(0), "). Received ",
                                       rows(i));
    if (!AllDifferent(rows.data(), rows.size(), !lazy_))
      return tensorflow::errors::InvalidArgument("The indices of the gradient of variable number ", v,
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
    Var* const* scalars = variables.data() + count_ * (1 + SlotsOf(kernel));
    const int own = kernel.variable_scalars;
    for (int v = 0; v < count_; ++v)
      for (int k = 0; k < StateScalars(kernel); ++k) {
        Var* scalar = k < own ? scalars[k * count_ + v] : scalars[own * count_ + k - own];
        state.push_back(scalar->tensor()->flat<double>().data());
      }
    return state;
  }

  std::string rule_;
  Beside beside_;
  int count_;
  std::vector<int> by_rows_;  // the variables whose gradient has some rows only
  bool lazy_;
  std::vector<int64_t> rounding_;  // keys of stochastic rounding, for each variable
};

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_STEP_OP_H_
