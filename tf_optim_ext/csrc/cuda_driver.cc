#include "cuda_driver.h"

#include <dlfcn.h>

namespace tf_optim_ext {

namespace {

constexpr char kLibrary[] = "libcuda.so.1";

template <typename Function>
void Find(void* library, const char* name, Function* function, std::string* reason) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function == nullptr && reason->empty())
    *reason = std::string(kLibrary) + " has no " + name;
}

struct Loaded {
  CudaDriver driver{};
  std::string reason;

  Loaded() {
    void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* const error = dlerror();
      reason = std::string("no CUDA driver: ") + (error == nullptr ? kLibrary : error);
      return;
    }
    Find(library, "cuGetErrorName", &driver.get_error_name, &reason);
    Find(library, "cuGetErrorString", &driver.get_error_string, &reason);
    Find(library, "cuStreamGetCtx", &driver.stream_get_context, &reason);
    Find(library, "cuCtxPushCurrent_v2", &driver.push_context, &reason);
    Find(library, "cuCtxPopCurrent_v2", &driver.pop_context, &reason);
    Find(library, "cuCtxGetDevice", &driver.current_device, &reason);
    Find(library, "cuDeviceGetAttribute", &driver.device_attribute, &reason);
    Find(library, "cuModuleLoadData", &driver.load_module, &reason);
    Find(library, "cuModuleGetFunction", &driver.get_function, &reason);
    Find(library, "cuLaunchKernel", &driver.launch, &reason);
    Find(library, "cuMemcpyDtoDAsync_v2", &driver.copy, &reason);
  }
};

}  // namespace

const CudaDriver* FindCudaDriver(std::string* reason) {
  static const auto* const loaded = new Loaded;
  if (loaded->reason.empty()) return &loaded->driver;
  *reason = loaded->reason;
  return nullptr;
}

std::string CudaErrorText(const CudaDriver& driver, const std::string& what, CudaResult result) {
  const char *name = nullptr, *text = nullptr;
  driver.get_error_name(result, &name);
  driver.get_error_string(result, &text);
  return what + " failed: " + (name == nullptr ? "error " + std::to_string(result) : name) +
         (text == nullptr ? "" : std::string(" (") + text + ")");
}

CudaScope::CudaScope(const CudaDriver& driver, CudaStream stream) : driver_(driver) {
  CudaResult result = driver.stream_get_context(stream, &context_);
  if (result != kCudaSuccess) {
    problem_ = CudaErrorText(driver, "cuStreamGetCtx", result);
    return;
  }
  result = driver.push_context(context_);
  if (result != kCudaSuccess) {
    problem_ = CudaErrorText(driver, "cuCtxPushCurrent", result);
    return;
  }
  pushed_ = true;
  CudaDevice device = 0;
  int major = 0, minor = 0;
  result = driver.current_device(&device);
  if (result == kCudaSuccess) result = driver.device_attribute(&major, kCudaMajor, device);
  if (result == kCudaSuccess) result = driver.device_attribute(&minor, kCudaMinor, device);
  if (result != kCudaSuccess)
    problem_ = CudaErrorText(driver, "asking for the compute capability", result);
  architecture_ = 10 * major + minor;
}

CudaScope::~CudaScope() {
  CudaContext popped;
  if (pushed_) driver_.pop_context(&popped);
}

}  // namespace tf_optim_ext
