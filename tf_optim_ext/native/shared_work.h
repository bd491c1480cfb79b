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

// Ranges of work that the calling thread and helpers take in turn. Helpers that come too late find
// none left; so the caller never waits for a thread that is busy with something else.
class Ranges {
 public:
  Ranges(int64_t count, int64_t size, const std::function<void(int64_t, int64_t)>& run)
      : count_(count), size_(size), run_(run) {}

  void Work() {
    for (;;) {
      const int64_t begin = next_.fetch_add(size_);
      if (begin >= count_) return;
      const int64_t end = std::min(begin + size_, count_);
      run_(begin, end);
      const std::lock_guard<std::mutex> lock(mutex_);
      done_ += end - begin;
      if (done_ == count_) finished_.notify_all();
    }
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return done_ == count_; });
  }

 private:
  const int64_t count_, size_;
  const std::function<void(int64_t, int64_t)>& run_;  // not called once all work is done
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
  int64_t done_ = 0;
};

// Shares work with a pool that has `num_threads()` and `Schedule(task)`, and which must outlive what
// this returns; tasks may run at any time, or never.
template <typename Pool>
ParallelFor SharedWith(Pool* pool) {
  return [pool](int64_t count, int64_t bytes,
                const std::function<void(int64_t, int64_t)>& run) {
    const int64_t threads = std::min<int64_t>(pool->num_threads(), count);
    // Small work stays on the calling thread.
    if (threads <= 1 || count * bytes < 64 * 1024) return run(0, count);
    const auto ranges =
        std::make_shared<Ranges>(count, std::max<int64_t>(1, count / (4 * threads)), run);
    for (int64_t i = 1; i < threads; ++i)
      pool->Schedule([ranges] { ranges->Work(); });
    ranges->Work();
    ranges->Wait();
  };
}

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_SHARED_WORK_H_
