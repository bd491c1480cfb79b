// A library in the place of the CUDA driver. Its "machine code" is the name of a library with kernels for
// the processor (`cuda_shim.h`), which launches run at once. It writes down what it is asked for, refuses
// what the driver would refuse, and fails where it is told to.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "flush_denormals.h"

namespace {

constexpr int kInvalidValue = 1, kOutOfMemory = 2, kNotFound = 500;

struct Function {
  std::string name;
  void (*run)(unsigned blocks, void** parameters);
};

std::mutex mutex;
std::string calls, failing;
int failing_after = 0, failing_with = 0, depth = 0, architecture = 90;

// Writes a call down; returns an error if it shall fail.
int Note(const std::string& name, const std::string& about = "") {
  const std::lock_guard<std::mutex> lock(mutex);
  calls += name + (about.empty() ? "" : " " + about) + "\n";
  if (name != failing || failing_after-- > 0) return 0;
  failing.clear();
  return failing_with;
}

}  // namespace

extern "C" {

// For tests.
void stub_fail(const char* name, int after, int code) {
  failing = name, failing_after = after, failing_with = code;
}
void stub_forget() { calls.clear(), failing.clear(); }
const char* stub_calls() { return calls.c_str(); }
int stub_depth() { return depth; }

int cuDriverGetVersion(int* version) { return *version = 12080, 0; }

int cuGetErrorName(int code, const char** name) {
  *name = code == kOutOfMemory    ? "CUDA_ERROR_OUT_OF_MEMORY"
          : code == kInvalidValue ? "CUDA_ERROR_INVALID_VALUE"
          : code == kNotFound     ? "CUDA_ERROR_NOT_FOUND"
                                  : nullptr;
  return 0;
}
int cuGetErrorString(int code, const char** text) {
  *text = code == kOutOfMemory ? "out of memory" : nullptr;
  return 0;
}

int cuStreamGetCtx(void*, void** context) {
  *context = &mutex;
  return Note("cuStreamGetCtx");
}
int cuCtxPushCurrent_v2(void*) { return ++depth, 0; }
int cuCtxPopCurrent_v2(void**) { return --depth, 0; }
int cuCtxGetDevice(int* device) { return *device = 0, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? architecture / 10 : architecture % 10;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  const int code = Note("cuModuleLoadData");
  if (code != 0) return code;
  *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
  return *module == nullptr ? kInvalidValue : 0;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  const int code = Note("cuModuleGetFunction", name);
  if (code != 0) return code;
  void* const run = dlsym(module, (std::string("run_") + name).c_str());
  if (run == nullptr) return kNotFound;
  *function = new Function{name, reinterpret_cast<void (*)(unsigned, void**)>(run)};
  return 0;
}

int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void*) {
  const int code = Note("cuMemcpyDtoDAsync", std::to_string(bytes));
  if (code == 0) std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
  return code;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                   unsigned y_threads, unsigned z_threads, unsigned shared, void* stream,
                   void** parameters, void** extra) {
  const Function& kernel = *static_cast<Function*>(function);
  const int code = Note("cuLaunchKernel", kernel.name + " " + std::to_string(x));
  if (code != 0) return code;
  const bool of_elements = kernel.name.rfind("pass", 0) == 0 || kernel.name.rfind("totals", 0) == 0;
  if (x == 0 || y != 1 || z != 1 || threads != (of_elements ? 256u : 1u) || y_threads != 1 ||
      z_threads != 1 || shared != 0 || stream != nullptr || parameters == nullptr ||
      extra != nullptr || depth == 0)
    return kInvalidValue;
  tf_optim_ext::FlushDenormals flush;
  kernel.run(x, parameters);
  return 0;
}

}  // extern "C"
