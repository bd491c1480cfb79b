// The step under XLA on a GPU: what launches the kernels of a rule on XLA's stream. A part of the
// library for XLA; "xla_step.cc" checks the operands and puts the call in the program.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda_launch.h"
#include "xla/ffi/api/ffi.h"

namespace tf_optim_ext {
namespace {

namespace ffi = xla::ffi;

Array ArrayOf(const ffi::AnyBuffer& buffer) {
  const ffi::DataType dtype = buffer.element_type();
  const Format format = dtype == ffi::DataType::BF16  ? kBFloat16
                        : dtype == ffi::DataType::F16 ? kFloat16
                                                      : kFloat32;
  return {buffer.untyped_data(), format};
}

// The operands are as for "xla_step.cc", all of them on the GPU.
ffi::Error RunCudaStep(CudaStream stream, ffi::ScratchAllocator allocator, std::string_view rule,
                       int64_t variables, ffi::Span<const int64_t> rounding,
                       ffi::RemainingArgs args, ffi::RemainingRets rets) {
  std::string reason;
  const CudaDriver* const driver = FindCudaDriver(&reason);
  if (driver == nullptr) return ffi::Error::Internal(reason);
  const CudaScope scope(*driver, stream);
  if (!scope.problem().empty()) return ffi::Error::Internal(scope.problem());
  std::vector<ffi::AnyBuffer> operands, results;
  for (size_t i = 0; i < args.size(); ++i) operands.push_back(args.get<ffi::AnyBuffer>(i).value());
  for (size_t i = 0; i < rets.size(); ++i) results.push_back(*rets.get<ffi::AnyBuffer>(i).value());

  bool converts = false;
  for (size_t i = 0; i < rets.size() + variables; ++i) {
    const ffi::DataType dtype = operands[i].element_type();
    converts |= dtype == ffi::DataType::BF16 || dtype == ffi::DataType::F16;
  }
  const auto program = FindCudaProgram(std::string(rule), converts, scope.architecture());
  if (program == nullptr)
    return ffi::Error::Internal("The kernels of the rule were not compiled in this process.");
  const auto* const functions = program->FunctionsIn(*driver, scope.context(), &reason);
  if (functions == nullptr) return ffi::Error::Internal(reason);

  const CudaShape& shape = program->shape();
  const size_t slots = shape.arrays - 2, own = shape.variable_scalars, count = variables;
  std::vector<Array> arrays;
  std::vector<double*> state;
  arrays.reserve(count * shape.arrays);
  state.reserve(count * shape.state());
  std::vector<CudaVariable> work;
  for (size_t v = 0; v < count; ++v) {
    arrays.push_back(ArrayOf(results[v]));
    arrays.push_back(ArrayOf(operands[rets.size() + v]));
    for (size_t s = 0; s < slots; ++s) arrays.push_back(ArrayOf(results[(s + 1) * count + v]));
    for (size_t k = 0; k < static_cast<size_t>(shape.state()); ++k) {
      const size_t number = k < own ? k * count + v : own * count + k - own;
      state.push_back(results[count * (1 + slots) + number].typed_data<double>());
    }
    work.push_back({static_cast<int64_t>(results[v].element_count()),
                    arrays.data() + v * shape.arrays, state.data() + v * shape.state(),
                    rounding.size() == 0 ? 0 : static_cast<uint32_t>(rounding[v])});
  }
  const ffi::AnyBuffer* const numbers = &operands[rets.size() + count];
  const CudaScalars scalars{
      numbers[0].typed_data<int64_t>(),
      numbers[1].untyped_data(),
      numbers[1].element_type() == ffi::DataType::F64,
      numbers[1].element_count() > 1,
      numbers[2].typed_data<double>(),
      numbers[2].element_count() > 1,
      numbers[3].typed_data<double>(),
      numbers[3].dimensions()[0] > 1,
  };
  const CudaStep step(*program, std::move(work), scalars, rounding.size() > 0);
  const std::optional<void*> scratch = allocator.Allocate(step.scratch_bytes());
  if (!scratch.has_value()) return ffi::Error::Internal("No memory for the step's numbers.");
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].untyped_data() == operands[i].untyped_data() || results[i].size_bytes() == 0)
      continue;
    const CudaResult result =
        driver->copy(reinterpret_cast<CudaAddress>(results[i].untyped_data()),
                     reinterpret_cast<CudaAddress>(operands[i].untyped_data()),
                     results[i].size_bytes(), stream);
    if (result != kCudaSuccess)
      return ffi::Error::Internal(CudaErrorText(*driver, "cuMemcpyDtoDAsync", result));
  }
  const std::string problem = step.Launch(*driver, *functions, *scratch, stream);
  return problem.empty() ? ffi::Error::Success() : ffi::Error::Internal(problem);
}

XLA_FFI_DEFINE_HANDLER(kRunCudaStep, RunCudaStep,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<CudaStream>>()
                           .Ctx<ffi::ScratchAllocator>()
                           .Attr<std::string_view>("rule")
                           .Attr<int64_t>("variables")
                           .Attr<ffi::Span<const int64_t>>("rounding")
                           .RemainingArgs()
                           .RemainingRets());

XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "tf_optim_ext_step", "CUDA", kRunCudaStep);

}  // namespace
}  // namespace tf_optim_ext
