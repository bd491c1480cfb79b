// The functions of the CUDA driver that steps on GPUs need, found when the first of them runs: this
// library is built, and loaded, without CUDA. The declarations here stand for those in cuda.h.
#ifndef TF_OPTIM_EXT_NATIVE_CUDA_DRIVER_H_
#define TF_OPTIM_EXT_NATIVE_CUDA_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "driver.h"

namespace tf_optim_ext {

using CudaResult = int;
using CudaDevice = int;
using CudaAddress = unsigned long long;
using CudaContext = struct CudaContextTag*;
using CudaModule = struct CudaModuleTag*;
using CudaFunction = struct CudaFunctionTag*;
using CudaStream = struct CudaStreamTag*;

constexpr CudaResult kCudaSuccess = 0;
constexpr int kCudaMajor = 75, kCudaMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...

struct CudaDriver {
  CudaResult (*get_error_name)(CudaResult, const char**);
  CudaResult (*get_error_string)(CudaResult, const char**);
  CudaResult (*stream_get_context)(CudaStream, CudaContext*);
  CudaResult (*push_context)(CudaContext);
  CudaResult (*pop_context)(CudaContext*);
  CudaResult (*current_device)(CudaDevice*);
  CudaResult (*device_attribute)(int*, int, CudaDevice);
  CudaResult (*load_module)(CudaModule*, const void*);
  CudaResult (*get_function)(CudaFunction*, CudaModule, const char*);
  CudaResult (*launch)(CudaFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       unsigned, CudaStream, void**, void**);
  CudaResult (*copy)(CudaAddress, CudaAddress, size_t, CudaStream);
};

// The driver, or null and why there is none.
TF_OPTIM_EXT_EXPORT const CudaDriver* FindCudaDriver(std::string* reason);

// What failed, and how the driver calls that.
TF_OPTIM_EXT_EXPORT std::string CudaErrorText(const CudaDriver& driver, const std::string& what,
                                              CudaResult result);

// Makes the context of a stream that of this thread, for as long as it lives.
class TF_OPTIM_EXT_EXPORT CudaScope {
 public:
  CudaScope(const CudaDriver& driver, CudaStream stream);
  ~CudaScope();
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;

  CudaContext context() const { return context_; }
  int architecture() const { return architecture_; }       // 90 for compute capability 9.0
  const std::string& problem() const { return problem_; }  // empty if there is none

 private:
  const CudaDriver& driver_;
  CudaContext context_ = nullptr;
  int architecture_ = 0;
  bool pushed_ = false;
  std::string problem_;
};

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_CUDA_DRIVER_H_
