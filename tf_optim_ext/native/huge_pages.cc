#include "huge_pages.h"

#if defined(__linux__)

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <unordered_map>

namespace tf_optim_ext {
namespace {

constexpr uintptr_t kHugePage = 2 << 20;
// The ends of smaller arrays, which remain on small pages, would be half of them.
constexpr size_t kSmallestArray = 2 * kHugePage;
// By then, there may be another array at an address.
constexpr uint64_t kAskAgain = 1024;
constexpr size_t kMostArrays = 4096;
constexpr int kCollapse = 25;  // MADV_COLLAPSE; older headers do not have it

bool Allowed() {
  const char* const variable = std::getenv("TF_OPTIM_EXT_HUGE_PAGES");
  if (variable != nullptr && std::strcmp(variable, "off") == 0) return false;
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string modes;
  return std::getline(file, modes) && modes.find("[never]") == std::string::npos;
}

struct Asked {
  size_t bytes;
  uint64_t since;
};

// Whether it is time to ask for an array.
bool IsDue(void* data, size_t bytes) {
  static std::mutex mutex;
  static std::unordered_map<void*, Asked> arrays;
  const std::lock_guard<std::mutex> lock(mutex);
  if (arrays.size() > kMostArrays) arrays.clear();
  Asked& asked = arrays[data];
  if (asked.bytes == bytes && ++asked.since < kAskAgain) return false;
  asked = {bytes, 0};
  return true;
}

}  // namespace

void UseHugePages(void* data, size_t bytes) {
  static const bool allowed = Allowed();
  if (!allowed || bytes < kSmallestArray || !IsDue(data, bytes)) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (begin >= end) return;
  // Both are requests; without huge pages everything works as before.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  madvise(reinterpret_cast<void*>(begin), end - begin, kCollapse);
}

}  // namespace tf_optim_ext

#else

namespace tf_optim_ext {

void UseHugePages(void*, size_t) {}

}  // namespace tf_optim_ext

#endif
