// What the tests of the driver share: variables on the heap, and runs of a kernel over them.
#ifndef TF_OPTIM_EXT_TESTS_NATIVE_TESTING_H_
#define TF_OPTIM_EXT_TESTS_NATIVE_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "driver.h"

namespace toe = tf_optim_ext;
using toe::Format;

inline int failures = 0;

inline void Fail(const std::string& what) {
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

// A fixed sequence of numbers in [-1, 1).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  float operator()() { return static_cast<float>(static_cast<int32_t>(Bits())) / 2147483648.0f; }

  // In [0, limit).
  int64_t Below(int64_t limit) {
    const uint64_t high = Bits();
    return static_cast<int64_t>((high << 32 | Bits()) % static_cast<uint64_t>(limit));
  }

 private:
  uint32_t Bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }

  uint64_t state_;
};

inline const toe::Table& Baseline() { return *toe::FindTable("baseline"); }

// An array on the heap that is not a byte longer than it must be.
class Buffer {
 public:
  Buffer(Format format, int64_t size) : format_(format), size_(size) {
    data_.reset(size > 0 ? new char[Bytes()] : nullptr);
  }
  Buffer(const Buffer& other) : Buffer(other.format_, other.size_) {
    if (size_ > 0) std::memcpy(data_.get(), other.data_.get(), Bytes());
  }
  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&&) = default;

  void Fill(const std::vector<float>& values) {
    if (size_ == 0) return;
    if (format_ == toe::kFloat64) {
      const std::vector<double> doubles(values.begin(), values.end());
      std::memcpy(data_.get(), doubles.data(), Bytes());
    } else if (format_ == toe::kFloat32) {
      std::memcpy(data_.get(), values.data(), Bytes());
    } else {
      Baseline().store(format_, values.data(), reinterpret_cast<uint16_t*>(data_.get()), size_);
    }
  }

  std::vector<float> Values() const {
    std::vector<float> values(size_);
    if (size_ == 0) return values;
    if (format_ == toe::kFloat64) {
      std::vector<double> doubles(size_);
      std::memcpy(doubles.data(), data_.get(), Bytes());
      std::copy(doubles.begin(), doubles.end(), values.begin());
    } else if (format_ == toe::kFloat32) {
      std::memcpy(values.data(), data_.get(), Bytes());
    } else {
      Baseline().load(format_, reinterpret_cast<const uint16_t*>(data_.get()), values.data(),
                      size_);
    }
    return values;
  }

  bool SameBits(const Buffer& other) const {
    return size_ == other.size_ &&
           (size_ == 0 || std::memcmp(data_.get(), other.data_.get(), Bytes()) == 0);
  }

  // Some of its rows, one after the other.
  Buffer Gather(int64_t width, const std::vector<int64_t>& rows) const {
    Buffer some(format_, width * static_cast<int64_t>(rows.size()));
    const size_t bytes = width * ElementBytes();
    for (size_t k = 0; k < rows.size(); ++k)
      std::memcpy(some.data_.get() + k * bytes, data_.get() + rows[k] * bytes, bytes);
    return some;
  }

  // The opposite: its rows among others, which are zero.
  Buffer Scatter(int64_t width, const std::vector<int64_t>& rows, int64_t size) const {
    Buffer all(format_, size);
    if (size > 0) std::memset(all.data_.get(), 0, all.Bytes());
    const size_t bytes = width * ElementBytes();
    for (size_t k = 0; k < rows.size(); ++k)
      std::memcpy(all.data_.get() + rows[k] * bytes, data_.get() + k * bytes, bytes);
    return all;
  }

  toe::Array array() const { return {data_.get(), format_}; }
  Format format() const { return format_; }
  int64_t size() const { return size_; }

 private:
  size_t ElementBytes() const {
    if (format_ == toe::kFloat64) return 8;
    return format_ == toe::kFloat32 ? 4 : 2;
  }
  size_t Bytes() const { return static_cast<size_t>(size_) * ElementBytes(); }

  Format format_;
  int64_t size_;
  std::unique_ptr<char[]> data_;
};

// One variable of a step.
struct Example {
  int64_t width;                             // elements of a row
  std::vector<Buffer> buffers;               // weights, gradient, slots
  std::vector<double> state;                 // of a kernel by row: for each number, every row's
  std::optional<std::vector<int64_t>> rows;  // those that the gradient has; none: all
  std::optional<uint32_t> rounding;          // key of stochastic rounding; none: to nearest

  int64_t size() const { return buffers[0].size(); }
  int64_t row_count() const { return width == 0 ? 0 : size() / width; }
};

inline Example Make(const toe::Kernel& kernel, const std::vector<Format>& formats, int64_t size,
                    int64_t width, uint64_t seed) {
  Example example{width, {}, {}, std::nullopt, std::nullopt};
  for (size_t i = 0; i < formats.size(); ++i) {
    Random random(seed * 100 + i);
    std::vector<float> values(size);
    // Second moments are not negative, so no slot is.
    for (float& value : values) value = i < 2 ? 2 * random() : std::fabs(random());
    example.buffers.emplace_back(formats[i], size);
    example.buffers.back().Fill(values);
  }
  Random random(seed);
  if (kernel.by_row) example.state.resize(toe::StateScalars(kernel) * example.row_count());
  for (double& number : example.state) number = std::fabs(random());
  return example;
}

inline toe::ParallelFor Threads(int threads) {
  return [threads](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& run) {
    if (threads == 1) return run(0, count);
    std::vector<std::thread> workers;
    // Backwards, and of uneven length, so that the order is another one.
    for (int t = threads - 1; t >= 0; --t) {
      const int64_t begin = count * t * t / (threads * threads);
      const int64_t end = count * (t + 1) * (t + 1) / (threads * threads);
      if (begin == end) continue;
      workers.emplace_back([&run, begin, end] {
#if defined(__SSE__)
        _mm_setcsr(0x1f80);  // as threads have it that were not started by this one
#endif
        run(begin, end);
      });
    }
    for (std::thread& worker : workers) worker.join();
  };
}

inline std::vector<double> Scalars(const toe::Kernel& kernel, double gradient_scale) {
  std::vector<double> h(toe::Width(kernel), 0.625);
  h[toe::kStep] = 3;
  h[toe::kLearningRate] = 0.125;
  h[toe::kGradientScale] = gradient_scale;
  h[toe::kSize] = std::nan("");
  return h;
}

// Runs a kernel over copies of variables and returns these, with the new state.
inline std::vector<Example> Run(const toe::Table& table, const toe::Kernel& kernel,
                                std::vector<Example> examples, int threads, bool lazy = false,
                                double gradient_scale = 0.75) {
  const size_t count = examples.size(), numbers = toe::StateScalars(kernel);
  std::vector<std::vector<toe::Array>> arrays(count);
  std::vector<toe::Rows> rows(count);
  std::vector<std::vector<double*>> rows_state(count);
  std::vector<std::vector<double>> h(count, Scalars(kernel, gradient_scale));
  std::vector<toe::Variable> work;
  for (size_t v = 0; v < count; ++v) {
    Example& example = examples[v];
    for (const Buffer& buffer : example.buffers) arrays[v].push_back(buffer.array());
    if (example.rows)
      rows[v] = {example.rows->data(), static_cast<int64_t>(example.rows->size())};
    if (!kernel.by_row) example.state.assign(numbers, -1.0);
    for (size_t k = 0; kernel.by_row && k < numbers; ++k)
      rows_state[v].push_back(example.state.data() + k * example.row_count());
    work.push_back({example.size(), example.width, arrays[v].data(),
                    example.rows ? &rows[v] : nullptr, h[v].data(),
                    kernel.by_row ? nullptr : example.state.data(), rows_state[v].data(),
                    example.rounding ? &*example.rounding : nullptr});
  }
  toe::Run(table, {&kernel}, work, lazy, Threads(threads));
  return examples;
}

// Whether weights, slots and state have the same bits; gradients may come in different forms.
inline bool SameBits(const Example& a, const Example& b) {
  for (size_t i = 0; i < a.buffers.size(); ++i)
    if (i != 1 && !a.buffers[i].SameBits(b.buffers[i])) return false;
  return a.state.size() == b.state.size() &&
         (a.state.empty() ||
          std::memcmp(a.state.data(), b.state.data(), a.state.size() * sizeof(double)) == 0);
}

// Whether the update of a variable depends on the others.
inline bool IsJoint(const toe::Kernel& kernel) {
  for (int p = 0; p < kernel.passes; ++p)
    for (int k = 0; k < kernel.pass[p].reductions; ++k)
      if (kernel.pass[p].combine[k] == toe::kGlobalSum) return true;
  return false;
}

// Gradients by rows, kernels by row, and sums of rows: `rows_test.cc`.
void TestRows(const std::string& set, const toe::Table& table);

// Programs before and after a rule: `beside_test.cc`.
void TestBeside(const std::string& set, const toe::Table& table);

// Who is asked for huge pages, and how often: `huge_pages_test.cc`.
void TestHugePages();

#endif  // TF_OPTIM_EXT_TESTS_NATIVE_TESTING_H_
