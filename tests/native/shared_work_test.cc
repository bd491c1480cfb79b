// Tests of work that is shared with a pool: every element once, and helpers that come late.
#include "shared_work.h"

#include <atomic>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace toe = tf_optim_ext;
using Task = std::function<void()>;

namespace {

int failures = 0;

void Expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// As many units as are always shared, each of this many bytes.
constexpr int64_t kBytes = 64 * 1024;

// Threads that take tasks as they come.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int i = 0; i < threads; ++i)
      workers_.emplace_back([this] { Serve(); });
  }

  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int64_t num_threads() const { return threads_; }

  void Schedule(Task task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

 private:
  void Serve() {
    for (;;) {
      Task task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  const int threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool closed_ = false;
  std::vector<std::thread> workers_;
};

// Keeps its tasks until it is told to run them.
class LatePool {
 public:
  int64_t num_threads() const { return 4; }
  void Schedule(Task task) { tasks_.push_back(std::move(task)); }
  size_t waiting() const { return tasks_.size(); }

  void RunAllAtOnce() {
    std::vector<std::thread> threads;
    for (Task& task : tasks_) threads.emplace_back(std::move(task));
    tasks_.clear();
    for (auto& thread : threads) thread.join();
  }

 private:
  std::vector<Task> tasks_;
};

// Runs each task at once, as a pool whose queue is full.
struct FullPool {
  int64_t num_threads() const { return 3; }
  void Schedule(const Task& task) { task(); }
};

template <typename P>
toe::ParallelFor SharedWith(P* pool) {
  return toe::SharedWith(pool->num_threads(),
                         [pool](Task task) { pool->Schedule(std::move(task)); });
}

// Shares `count` elements, and checks that each was worked on once before the call came back. What it
// adds to are plain integers, so that the sanitizer sees whether the caller may read them.
template <typename P>
void CheckEachOnce(P* pool, int64_t count, const std::string& what) {
  std::vector<int> times(count);
  SharedWith(pool)(count, kBytes, [&times](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++times[i];
  });
  for (int64_t i = 0; i < count; ++i)
    Expect(times[i] == 1, what + ": element " + std::to_string(i) + " of " + std::to_string(count));
}

void TestCounts() {
  Pool pool(4);
  for (const int64_t count : {1, 2, 3, 4, 5, 15, 16, 17, 63, 1000, 100003})
    CheckEachOnce(&pool, count, "counts");
}

void TestManyInARow() {
  // The helpers of one call are late for it, while the next one is under way.
  Pool pool(3);
  for (int i = 0; i < 2000; ++i) CheckEachOnce(&pool, 2 + i % 50, "many in a row");
}

void TestManyCallers() {
  Pool pool(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&pool, &wrong] {
      for (int i = 0; i < 200; ++i) {
        int64_t sum = 0;
        std::mutex mutex;
        SharedWith(&pool)(97, kBytes, [&](int64_t begin, int64_t end) {
          const std::lock_guard<std::mutex> lock(mutex);
          for (int64_t k = begin; k < end; ++k) sum += k;
        });
        if (sum != 97 * 96 / 2) ++wrong;
      }
    });
  for (auto& caller : callers) caller.join();
  Expect(wrong == 0, "many callers");
}

void TestLateHelpers() {
  LatePool pool;
  {
    // What the caller shared is gone when they come.
    const auto work = std::make_unique<std::vector<int>>(40);
    const toe::ParallelFor shared = SharedWith(&pool);
    shared(40, kBytes, [&work](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++(*work)[i];
    });
    for (const int times : *work) Expect(times == 1, "without a helper");
  }
  Expect(pool.waiting() == 3, "helpers that wait");
  pool.RunAllAtOnce();
}

void TestRangesShrink() {
  // Each is a part of what is left for every thread, so that none has a long way to go alone.
  LatePool pool;
  int64_t left = 1000, before = left;
  SharedWith(&pool)(left, kBytes, [&left, &before](int64_t begin, int64_t end) {
    const int64_t size = end - begin;
    Expect(size >= 1 && size <= before, "ranges that shrink");
    Expect(size == 1 || 4 * size <= left, "a range that leaves enough to the others");
    left -= size;
    before = size;
  });
  Expect(left == 0 && before == 1, "the last range");
  // Of little work, a range is as much as is worth sharing.
  left = 4096;
  SharedWith(&pool)(left, kBytes / 64, [&left](int64_t begin, int64_t end) {
    Expect(end - begin >= 64 || end == 4096, "ranges that are worth sharing");
    left -= end - begin;
  });
  Expect(left == 0, "all of little work");
}

void TestOnTheCallingThread() {
  FullPool full;
  CheckEachOnce(&full, 100, "a full pool");
  LatePool late;
  int calls = 0;
  const auto count_calls = [&calls](int64_t begin, int64_t end) {
    ++calls;
    Expect(begin == 0 && end == 10, "the whole range");
  };
  SharedWith(&late)(10, 8, count_calls);
  Pool alone(1);
  SharedWith(&alone)(10, kBytes, count_calls);
  Expect(calls == 2 && late.waiting() == 0, "small work, and a pool of one thread");
}

// For the test of the test: a caller that does not wait for its helpers.
void Race() {
  std::vector<int> times(1000);
  const std::function<void(int64_t, int64_t)> run = [&times](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++times[i];
  };
  toe::Ranges ranges(1000, 1, 2, run);
  std::thread helper([&ranges] { ranges.Work(); });
  int sum = 0;
  for (int i = 0; i < 1000; ++i) sum += times[i];
  helper.join();
  std::printf("%d\n", sum);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "race") {
    Race();
    return 0;
  }
  TestCounts();
  TestManyInARow();
  TestManyCallers();
  TestLateHelpers();
  TestRangesShrink();
  TestOnTheCallingThread();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
