// Ops on gradients alone: their norms, and the sums of the rows of sparse ones.

#include <string>
#include <vector>

#include "op_common.h"
#include "row_sums.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace tf_optim_ext {
namespace {

namespace errors = tensorflow::errors;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class SquaredNormsOp : public OpKernel {
 public:
  explicit SquaredNormsOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const Table* table = table_in_use.load();
    OP_REQUIRES(context, table != nullptr,
                errors::FailedPrecondition("No instruction set was chosen for tf_optim_ext."));
    OpInputList gradients;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    Tensor* norms;
    OP_REQUIRES_OK(context, context->allocate_output(0, {gradients.size()}, &norms));
    std::vector<Array> arrays;
    std::vector<int64_t> sizes;
    for (int i = 0; i < gradients.size(); ++i) {
      arrays.push_back(ArrayOf(gradients[i]));
      sizes.push_back(gradients[i].NumElements());
    }
    SquaredNorms(*table, arrays, sizes, norms->flat<double>().data(), TensorFlowThreads(context));
  }
};

class SumRowsOp : public OpKernel {
 public:
  explicit SumRowsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rows", &rows_));
    OP_REQUIRES_OK(context, context->GetAttr("increasing", &increasing_));
    OP_REQUIRES_OK(context, context->GetAttr("variable", &variable_));
  }

  void Compute(OpKernelContext* context) override {
    const Table* table = table_in_use.load();
    OP_REQUIRES(context, table != nullptr,
                errors::FailedPrecondition("No instruction set was chosen for tf_optim_ext."));
    const Tensor& indices = context->input(0);
    const Tensor& values = context->input(1);
    OP_REQUIRES(context,
                indices.dims() == 1 && values.dims() >= 1 &&
                    values.dim_size(0) == indices.NumElements(),
                errors::InvalidArgument("The sparse gradient of '", variable_, "' has indices of ",
                                        "shape ", indices.shape().DebugString(),
                                        " and values of shape ", values.shape().DebugString(),
                                        "; there must be one row of values for each index."));
    if (indices.dtype() == tensorflow::DT_INT32) {
      Sum<int32_t>(context, *table, indices, values);
    } else {
      Sum<int64_t>(context, *table, indices, values);
    }
  }

 private:
  template <typename Index>
  void Sum(OpKernelContext* context, const Table& table, const Tensor& indices,
           const Tensor& values) const {
    const Index* const given = indices.flat<Index>().data();
    const int64_t count = indices.NumElements();
    for (int64_t i = 0; i < count; ++i)
      OP_REQUIRES(context, given[i] >= 0 && given[i] < rows_,
                  errors::InvalidArgument("The sparse gradient of '", variable_, "' has index ",
                                          given[i], ", but the variable has ", rows_,
                                          " rows, [0, ", rows_, ")."));
    Tensor *unique, *sums;
    if (values.dtype() == tensorflow::DT_FLOAT && AllDifferent(given, count, increasing_)) {
      OP_REQUIRES_OK(context, context->allocate_output(0, {count}, &unique));
      std::copy_n(given, count, unique->flat<int64_t>().data());
      context->set_output(1, values);
      return;
    }
    const RowGroups groups = GroupRows(given, count, rows_);
    const int64_t found = static_cast<int64_t>(groups.indices.size());
    OP_REQUIRES_OK(context, context->allocate_output(0, {found}, &unique));
    std::copy(groups.indices.begin(), groups.indices.end(), unique->flat<int64_t>().data());
    tensorflow::TensorShape shape = values.shape();
    shape.set_dim(0, found);
    OP_REQUIRES_OK(context, context->allocate_output(1, shape, &sums));
    const int64_t width = count == 0 ? 0 : values.NumElements() / count;
    SumRows(table, groups, ArrayOf(values), width, sums->flat<float>().data(),
            TensorFlowThreads(context));
  }

  int64_t rows_;
  bool increasing_;
  std::string variable_;
};

}  // namespace

REGISTER_OP("TfOptimExtSquaredNorms")
    .Input("gradients: T")
    .Output("norms: double")
    .Attr("T: list({float, bfloat16, half, double}) >= 1")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->Vector(context->num_inputs()));
      return absl::OkStatus();
    })
    .Doc("Sums of squares of tensors in double, each in an order that depends on its size alone.");

REGISTER_OP("TfOptimExtSumRows")
    .Input("indices: I")
    .Input("values: T")
    .Output("unique: int64")
    .Output("sums: float")
    .Attr("I: {int32, int64}")
    .Attr("T: {float, bfloat16, half}")
    .Attr("rows: int >= 0")
    .Attr("increasing: bool")
    .Attr("variable: string")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      using tensorflow::shape_inference::InferenceContext;
      tensorflow::shape_inference::ShapeHandle indices, values;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 1, &indices));
      TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(1), 1, &values));
      const auto found = context->UnknownDim();
      TF_RETURN_IF_ERROR(context->ReplaceDim(values, 0, found, &values));
      context->set_output(0, context->Vector(found));
      context->set_output(1, values);
      return absl::OkStatus();
    })
    .Doc("Sums the rows of a sparse gradient that have the same index, or hands on what it was given "
         "if there are none. With `increasing`, the indices come back in that order.");

REGISTER_KERNEL_BUILDER(Name("TfOptimExtSquaredNorms").Device(tensorflow::DEVICE_CPU),
                        SquaredNormsOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtSumRows").Device(tensorflow::DEVICE_CPU), SumRowsOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtSquaredNorms").Device("XLA_CPU_JIT"), InsideXlaOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtSquaredNorms").Device("XLA_GPU_JIT"), InsideXlaOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtSumRows").Device("XLA_CPU_JIT"), InsideXlaOp);
REGISTER_KERNEL_BUILDER(Name("TfOptimExtSumRows").Device("XLA_GPU_JIT"), InsideXlaOp);

}  // namespace tf_optim_ext
