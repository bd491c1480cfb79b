#include "row_sums.h"

#include <algorithm>
#include <array>
#include <utility>

#include "flush_denormals.h"

namespace tf_optim_ext {
namespace {

struct Key {
  int64_t index;
  int64_t position;
};

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
// Fewer keys are sorted faster by comparisons than by counting digits.
constexpr int64_t kFewKeys = 256;

// One step of a radix sort: by one digit, keeping the order of equal ones.
void SortByDigit(const std::vector<Key>& from, int shift, std::vector<Key>* to) {
  std::array<int64_t, kDigits> next{};
  for (const Key& key : from) ++next[(key.index >> shift) & (kDigits - 1)];
  int64_t before = 0;
  for (int64_t& count : next) before += std::exchange(count, before);
  for (const Key& key : from) (*to)[next[(key.index >> shift) & (kDigits - 1)]++] = key;
}

void Sort(int64_t rows, std::vector<Key>* keys) {
  if (static_cast<int64_t>(keys->size()) < kFewKeys) {
    std::sort(keys->begin(), keys->end(), [](const Key& a, const Key& b) {
      return a.index != b.index ? a.index < b.index : a.position < b.position;
    });
    return;
  }
  std::vector<Key> other(keys->size());
  for (int shift = 0; shift < 63 && (rows - 1) >> shift != 0; shift += kDigitBits) {
    SortByDigit(*keys, shift, &other);
    keys->swap(other);
  }
}

}  // namespace

template <typename Index>
bool AllDifferent(const Index* indices, int64_t count, bool increasing) {
  int64_t ascents = 1;
  while (ascents < count && indices[ascents - 1] < indices[ascents]) ++ascents;
  if (ascents >= count) return true;
  if (increasing) return false;
  // A hash table with open addressing; at most half of it is filled.
  int bits = 1;
  while (int64_t{1} << bits < 2 * count) ++bits;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  std::vector<Index> table(mask + 1, Index{-1});
  for (int64_t i = 0; i < count; ++i) {
    // Fibonacci hashing: neighbouring indices do not become neighbours.
    uint64_t slot = static_cast<uint64_t>(indices[i]) * 0x9e3779b97f4a7c15u >> (64 - bits);
    for (; table[slot] != -1; slot = (slot + 1) & mask)
      if (table[slot] == indices[i]) return false;
    table[slot] = indices[i];
  }
  return true;
}

template bool AllDifferent(const int32_t*, int64_t, bool);
template bool AllDifferent(const int64_t*, int64_t, bool);

template <typename Index>
RowGroups GroupRows(const Index* indices, int64_t count, int64_t rows) {
  std::vector<Key> keys(count);
  bool increasing = true;
  for (int64_t i = 0; i < count; ++i) {
    keys[i] = {static_cast<int64_t>(indices[i]), i};
    increasing &= i == 0 || indices[i - 1] <= indices[i];
  }
  if (!increasing) Sort(rows, &keys);
  RowGroups groups;
  groups.order.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || keys[i].index != keys[i - 1].index) {
      groups.indices.push_back(keys[i].index);
      groups.starts.push_back(i);
    }
    groups.order.push_back(keys[i].position);
  }
  groups.starts.push_back(count);
  return groups;
}

template RowGroups GroupRows(const int32_t*, int64_t, int64_t);
template RowGroups GroupRows(const int64_t*, int64_t, int64_t);

void SumRows(const Table& table, const RowGroups& groups, const Array& values, int64_t width,
             float* sums, const ParallelFor& parallel_for) {
  const int64_t count = static_cast<int64_t>(groups.indices.size());
  if (count == 0 || width == 0) return;
  const bool direct = values.format == kFloat32;
  const int64_t element_bytes = direct ? 4 : 2;
  const int64_t rows = static_cast<int64_t>(groups.order.size());
  const int64_t bytes = width * (4 + element_bytes * std::max<int64_t>(1, rows / count));
  parallel_for(count, bytes, [&](int64_t begin, int64_t end) {
    FlushDenormals flush;
    std::vector<float> converted(direct ? 0 : width);
    for (int64_t k = begin; k < end; ++k) {
      float* const sum = sums + k * width;
      std::fill_n(sum, width, 0.0f);
      for (int64_t i = groups.starts[k]; i < groups.starts[k + 1]; ++i) {
        const char* const data =
            static_cast<const char*>(values.data) + groups.order[i] * width * element_bytes;
        const float* row = reinterpret_cast<const float*>(data);
        if (!direct) {
          table.load(values.format, reinterpret_cast<const uint16_t*>(data), converted.data(),
                     width);
          row = converted.data();
        }
        table.stream(1, &sum, row, width);
      }
    }
  });
}

}  // namespace tf_optim_ext
