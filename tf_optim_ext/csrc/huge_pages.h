// Huge pages for large weights and slots. Plain C++ without TensorFlow, so that it can be tested alone
// and under sanitizers.
#ifndef TF_OPTIM_EXT_NATIVE_HUGE_PAGES_H_
#define TF_OPTIM_EXT_NATIVE_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace tf_optim_ext {

constexpr size_t kHugePage = 2 << 20;
// The ends of smaller arrays, which remain on small pages, would be half of them.
constexpr size_t kSmallestLargeArray = 2 * kHugePage;
// The system needs between 0.1 and 4 milliseconds for each of them.
constexpr int kPagesPerStep = 4;

// An array of a step. Only its address is used: by now it may belong to somebody else.
struct LargeArray {
  uint64_t owner;  // different for everything that ever had an array
  const void* data;
  size_t bytes;
  const int64_t* rows;  // those that the step worked on; null: all
  int64_t count;        // of these
  size_t row_bytes;
};

// Asks the operating system to back arrays by huge pages: a sweep then crosses fewer borders, at which
// the processor stops fetching ahead, and rows that are far from each other are found without a walk
// through the page tables each. The system copies what is in an array, so each step asks for a few pages
// of those that it worked on, and the next step goes on from there.
class HugePages {
 public:
  // What the system is asked: to prefer huge pages from now on; or to make one of what is there.
  enum Request : int { kPrefer, kCollapse };
  // Returns whether the system did it.
  using Ask = std::function<bool(Request, void* begin, size_t bytes)>;

  explicit HugePages(Ask ask) : ask_(std::move(ask)) {}

  // Asks for at most `kPagesPerStep` pages; for none if another thread does so at this moment, and of an
  // array that the step before did not have: where there is a new one in each step, it is not worth it.
  void Use(const std::vector<LargeArray>& arrays);

  // Starts anew with every array.
  void Forget();

 private:
  struct Progress {
    const void* data = nullptr;
    size_t bytes = 0;
    uintptr_t begin = 0;      // of the first page that is inside
    std::vector<bool> asked;  // for each page
    size_t next = 0;          // those before have been asked for
    size_t missing = 0;       // how many have not
    int failures = 0;         // in a row
  };

  Progress Begin(const LargeArray& array) const;
  // Returns whether to go on.
  bool AskFor(Progress* progress, size_t page, int* left);
  void UseAll(Progress* progress, int* left);
  void UseRows(const LargeArray& array, Progress* progress, int* left);

  const Ask ask_;
  std::mutex mutex_;
  std::unordered_map<uint64_t, Progress> arrays_;
  uint64_t step_ = 0;
};

// The same with the operating system, for the whole process. Does nothing where the system or
// TF_OPTIM_EXT_HUGE_PAGES=off says no.
void UseHugePages(const std::vector<LargeArray>& arrays);

// For tests: from now on the system is not asked, but this function, and every array is a new one. Null:
// the system again.
void WatchHugePages(void (*watch)(int request, void* begin, size_t bytes));

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_HUGE_PAGES_H_
