// Work of one thread that those of a pool help with, without a thread that waits for a busy one.
// Plain C++ without TensorFlow, so that it can be tested alone and under sanitizers.
#ifndef TF_OPTIM_EXT_NATIVE_SHARED_WORK_H_
#define TF_OPTIM_EXT_NATIVE_SHARED_WORK_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "driver.h"

namespace tf_optim_ext {

// Ranges of work that the calling thread and helpers take in turn: large ones first, so that each reads
// memory in order for long, and small ones last, so that nobody waits for long. Helpers that come too
// late find none left; so the caller never waits for a thread that is busy with something else.
class Ranges {
 public:
  Ranges(int64_t count, int64_t smallest, int64_t threads,
         const std::function<void(int64_t, int64_t)>& run)
      : count_(count), smallest_(smallest), threads_(threads), run_(run) {}

  void Work() {
    int64_t begin = next_.load();
    while (begin < count_) {
      const int64_t share = std::max(smallest_, (count_ - begin) / (2 * threads_));
      const int64_t end = std::min(begin + share, count_);
      if (!next_.compare_exchange_weak(begin, end)) continue;
      run_(begin, end);
      const std::lock_guard<std::mutex> lock(mutex_);
      done_ += end - begin;
      if (done_ == count_) finished_.notify_all();
      begin = next_.load();
    }
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return done_ == count_; });
  }

 private:
  const int64_t count_, smallest_, threads_;
  const std::function<void(int64_t, int64_t)>& run_;  // not called once all work is done
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
  int64_t done_ = 0;
};

// Work of fewer bytes stays on one thread.
constexpr int64_t kLeastShared = 64 * 1024;

// Shares work with a pool that has so many threads, and to which `schedule(task)` hands a task. It may
// run at any time, or never.
template <typename Schedule>
ParallelFor SharedWith(int64_t pool_threads, Schedule schedule) {
  return [pool_threads, schedule](int64_t count, int64_t bytes,
                                  const std::function<void(int64_t, int64_t)>& run) {
    const int64_t threads = std::min(pool_threads, count);
    if (threads <= 1 || count * bytes < kLeastShared) return run(0, count);
    const int64_t smallest = std::max<int64_t>(1, kLeastShared / std::max<int64_t>(1, bytes));
    const auto ranges = std::make_shared<Ranges>(count, smallest, threads, run);
    for (int64_t i = 1; i < threads; ++i)
      schedule([ranges] { ranges->Work(); });
    ranges->Work();
    ranges->Wait();
  };
}

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_SHARED_WORK_H_
