#include "huge_pages.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tf_optim_ext {
namespace {

constexpr size_t kMostArrays = 4096;
// Of the rows of one array, in one step: finding what is left to do must not take long either.
constexpr int64_t kMostRows = 64;
// After so many failures in a row, there are no free huge pages for this array.
constexpr int kMostFailures = 4;

std::atomic<void (*)(int, void*, size_t)> watch_in_use{nullptr};

bool TurnedOff() {
  const char* const variable = std::getenv("TF_OPTIM_EXT_HUGE_PAGES");
  return variable != nullptr && std::strcmp(variable, "off") == 0;
}

#if defined(__linux__)

bool SystemHasThem() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string modes;
  return std::getline(file, modes) && modes.find("[never]") == std::string::npos;
}

// Both are requests that change no value and no access. So they may come after the locks of the
// variables were given back, when the memory may belong to somebody else, or to nobody.
bool AskSystem(HugePages::Request request, void* begin, size_t bytes) {
  constexpr int kMadvCollapse = 25;  // older headers do not have it
  const int advice = request == HugePages::kPrefer ? MADV_HUGEPAGE : kMadvCollapse;
  return madvise(begin, bytes, advice) == 0;
}

#else

bool SystemHasThem() { return false; }

bool AskSystem(HugePages::Request, void*, size_t) { return false; }

#endif

// Never destroyed: threads may still take steps when the process ends.
HugePages& OfProcess() {
  static HugePages* const pages =
      new HugePages([](HugePages::Request request, void* begin, size_t bytes) {
        const auto watch = watch_in_use.load();
        if (watch == nullptr) return AskSystem(request, begin, bytes);
        watch(request, begin, bytes);
        return true;
      });
  return *pages;
}

}  // namespace

void HugePages::Use(const std::vector<LargeArray>& arrays) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  ++step_;
  if (arrays_.size() > kMostArrays + arrays.size()) arrays_.clear();
  std::vector<std::pair<const LargeArray*, Progress*>> begun;
  for (const LargeArray& array : arrays) {
    if (array.bytes < kSmallestLargeArray) continue;
    Progress& progress = arrays_[array.owner];
    if (progress.data != array.data || progress.bytes != array.bytes) {
      progress = Begin(array);
    } else if (progress.missing > 0) {
      begun.emplace_back(&array, &progress);
    }
  }
  int left = kPagesPerStep;
  for (size_t i = 0; i < begun.size() && left > 0; ++i) {
    // Each array gets its turn to be the first one.
    const auto& [array, progress] = begun[(step_ + i) % begun.size()];
    if (array->rows == nullptr) {
      UseAll(progress, &left);
    } else {
      UseRows(*array, progress, &left);
    }
  }
}

void HugePages::Forget() {
  const std::lock_guard<std::mutex> lock(mutex_);
  arrays_.clear();
}

HugePages::Progress HugePages::Begin(const LargeArray& array) const {
  const uintptr_t address = reinterpret_cast<uintptr_t>(array.data);
  Progress progress;
  progress.data = array.data;
  progress.bytes = array.bytes;
  progress.begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  // At least one, as the array is not small.
  progress.missing = (address + array.bytes - progress.begin) / kHugePage;
  progress.asked.resize(progress.missing);
  ask_(kPrefer, reinterpret_cast<void*>(progress.begin), progress.missing * kHugePage);
  return progress;
}

bool HugePages::AskFor(Progress* progress, size_t page, int* left) {
  progress->asked[page] = true;
  --progress->missing;
  --*left;
  if (ask_(kCollapse, reinterpret_cast<void*>(progress->begin + page * kHugePage), kHugePage)) {
    progress->failures = 0;
  } else {
    *left = 0;
    if (++progress->failures == kMostFailures) progress->missing = 0;
  }
  return *left > 0 && progress->missing > 0;
}

void HugePages::UseAll(Progress* progress, int* left) {
  for (size_t& page = progress->next; page < progress->asked.size(); ++page)
    if (!progress->asked[page] && !AskFor(progress, page, left)) return;
}

void HugePages::UseRows(const LargeArray& array, Progress* progress, int* left) {
  // Other ones in each step.
  const int64_t stride = (array.count + kMostRows - 1) / kMostRows;
  for (int64_t k = stride > 1 ? static_cast<int64_t>(step_ % stride) : 0; k < array.count;
       k += stride) {
    const uintptr_t row = reinterpret_cast<uintptr_t>(array.data) + array.rows[k] * array.row_bytes;
    const uintptr_t end = row + array.row_bytes;
    if (end <= progress->begin) continue;
    const size_t first = row < progress->begin ? 0 : (row - progress->begin) / kHugePage;
    const size_t last = (end - 1 - progress->begin) / kHugePage;
    for (size_t page = first; page <= last && page < progress->asked.size(); ++page)
      if (!progress->asked[page] && !AskFor(progress, page, left)) return;
  }
}

void UseHugePages(const std::vector<LargeArray>& arrays) {
  static const bool turned_off = TurnedOff(), system_has_them = SystemHasThem();
  if (turned_off || arrays.empty()) return;
  if (system_has_them || watch_in_use.load() != nullptr) OfProcess().Use(arrays);
}

void WatchHugePages(void (*watch)(int request, void* begin, size_t bytes)) {
  watch_in_use.store(watch);
  OfProcess().Forget();
}

}  // namespace tf_optim_ext
