// Tests of gradients by rows, of kernels by row, and of the sums of rows; see `driver_test.cc`.
#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "row_sums.h"
#include "testing.h"

namespace {

std::vector<int64_t> Range(int64_t begin, int64_t end) {
  std::vector<int64_t> numbers;
  for (int64_t i = begin; i < end; ++i) numbers.push_back(i);
  return numbers;
}

// Increasing numbers in [0, count) that are not in `rows`.
std::vector<int64_t> Others(const std::vector<int64_t>& rows, int64_t count) {
  std::vector<int64_t> others;
  const std::vector<int64_t> all = Range(0, count);
  std::set_difference(all.begin(), all.end(), rows.begin(), rows.end(),
                      std::back_inserter(others));
  return others;
}

// None, all, the last one, and single ones with some that are adjacent.
std::vector<std::vector<int64_t>> Patterns(int64_t count) {
  Random random(count);
  std::vector<int64_t> scattered;
  for (int64_t i = 0; i < count; ++i)
    if (random() > 0.8f || (i > count / 2 && i < count / 2 + 9)) scattered.push_back(i);
  return {{}, Range(0, count), {count - 1}, scattered};
}

// The example with those rows of its gradient only.
Example ByRows(const Example& dense, const std::vector<int64_t>& rows) {
  Example example(dense);
  example.buffers[1] = dense.buffers[1].Gather(dense.width, rows);
  example.rows = rows;
  return example;
}

// The opposite: zeros where there was no gradient.
Example Dense(const Example& by_rows) {
  Example dense(by_rows);
  if (!by_rows.rows) return dense;
  dense.buffers[1] = by_rows.buffers[1].Scatter(by_rows.width, *by_rows.rows, by_rows.size());
  dense.rows.reset();
  return dense;
}

// Some rows of an example with a dense gradient, as an example of its own.
Example Part(const Example& dense, const std::vector<int64_t>& rows) {
  Example part{dense.width, {}, {}, std::nullopt, std::nullopt};
  for (const Buffer& buffer : dense.buffers)
    part.buffers.push_back(buffer.Gather(dense.width, rows));
  const int64_t count = dense.row_count();
  for (size_t k = 0; count > 0 && k < dense.state.size() / count; ++k)
    for (int64_t row : rows) part.state.push_back(dense.state[k * count + row]);
  return part;
}

// One step over variables with all `Patterns` of rows, and one with a dense gradient.
void TestKernelByRows(const std::string& what, const toe::Table& table, const toe::Kernel& kernel,
                      const std::vector<Format>& formats, int64_t count, int64_t width) {
  std::vector<Example> examples, dense;
  for (const std::vector<int64_t>& rows : Patterns(count)) {
    const Example whole = Make(kernel, formats, count * width, width, examples.size());
    examples.push_back(ByRows(whole, rows));
    dense.push_back(Dense(examples.back()));
  }
  examples.push_back(Make(kernel, formats, count * width, width, examples.size()));
  dense.push_back(examples.back());
  const std::vector<Example> expected = Run(table, kernel, dense, 1);
  for (int threads : {1, 4}) {
    const std::vector<Example> results = Run(table, kernel, examples, threads);
    for (size_t v = 0; v < results.size(); ++v) {
      if (!SameBits(results[v], expected[v])) Fail(what + ": rows are not as if dense");
      if (!results[v].buffers[1].SameBits(examples[v].buffers[1]))
        Fail(what + ": the gradient is written");
    }
  }
  if (kernel.by_row) {
    for (int k = 0; count >= 20 && k < toe::StateScalars(kernel); ++k) {
      const auto begin = dense.back().state.begin() + k * count;
      if (std::equal(begin, begin + count, expected.back().state.begin() + k * count))
        Fail(what + ": a number of the rows is not written");
    }
    const std::vector<int64_t> some = {0, count / 2, count - 1};
    for (size_t v = 0; v < dense.size(); ++v) {
      std::vector<Example> alone;
      for (int64_t row : some) alone.push_back(Part(dense[v], {row}));
      alone = Run(table, kernel, alone, 1);
      for (size_t k = 0; k < some.size(); ++k)
        if (!SameBits(alone[k], Part(expected[v], {some[k]})))
          Fail(what + ": a row depends on others");
    }
  }

  if (!kernel.by_row && (kernel.passes > 1 || toe::StateScalars(kernel) > 0)) return;
  std::vector<Example> present;
  for (size_t v = 0; v < dense.size(); ++v)
    present.push_back(Part(dense[v], examples[v].rows.value_or(Range(0, count))));
  present = Run(table, kernel, present, 1);
  for (int threads : {1, 4}) {
    const std::vector<Example> results = Run(table, kernel, examples, threads, true);
    for (size_t v = 0; v < results.size(); ++v) {
      const std::vector<int64_t> rows = examples[v].rows.value_or(Range(0, count));
      const std::vector<int64_t> others = Others(rows, count);
      const Example result = Dense(results[v]);
      if (!SameBits(Part(result, rows), present[v]))
        Fail(what + ": lazy rows are not as if alone");
      if (!SameBits(Part(result, others), Part(dense[v], others)))
        Fail(what + ": lazy steps change rows without gradient");
    }
  }
}

void TestKernelsByRows(const std::string& set, const toe::Table& table) {
  struct Shape {
    int64_t count, width;
  };
  for (int k = 0; k < table.count; ++k) {
    const toe::Kernel& kernel = *table.kernels[k];
    const size_t arrays = 2 + kernel.slots;
    std::vector<std::vector<Format>> combinations;
    for (Format format : {toe::kFloat32, toe::kBFloat16, toe::kFloat16})
      combinations.emplace_back(arrays, format);
    for (size_t i : {0, 1}) {
      combinations.emplace_back(arrays, toe::kFloat32);
      combinations.back()[i] = toe::kBFloat16;
    }
    for (const std::vector<Format>& formats : combinations) {
      std::string what = set + " " + kernel.name + " formats";
      for (Format format : formats) what += " " + std::to_string(format);
      std::vector<Shape> shapes = {{1, 1}, {5, 2}, {1, 7}, {40, 3}, {20, 64}, {4, 1000}};
      // The end of a segment in a row.
      if (formats[0] != formats[1]) shapes.push_back({5500, 3});
      // More rows than a segment has, and rows of more than one segment.
      if (formats == combinations[0]) shapes.insert(shapes.end(), {{17000, 1}, {2, 20000}});
      for (const Shape& shape : shapes)
        TestKernelByRows(what + " width " + std::to_string(shape.width), table, kernel, formats,
                         shape.count, shape.width);
    }
    // Variables without an element, also with a gradient of no rows.
    Example empty = Make(kernel, std::vector<Format>(arrays, toe::kFloat32), 0, 0, 1);
    std::vector<Example> both = {empty, empty};
    both[0].rows.emplace();
    Run(table, kernel, both, 4);
  }
}

// ------------------------------------------------------------------------------------ sums of rows

template <typename Index>
void TestGroups(const std::string& what, const std::vector<Index>& indices, int64_t rows) {
  const int64_t count = static_cast<int64_t>(indices.size());
  std::map<int64_t, std::vector<int64_t>> expected;
  for (int64_t i = 0; i < count; ++i) expected[indices[i]].push_back(i);
  const toe::RowGroups groups = toe::GroupRows(indices.data(), count, rows);
  std::map<int64_t, std::vector<int64_t>> found;
  if (groups.starts.size() != groups.indices.size() + 1 || groups.starts.back() != count ||
      static_cast<int64_t>(groups.order.size()) != count)
    return Fail(what + ": groups do not fit together");
  for (size_t k = 0; k < groups.indices.size(); ++k)
    for (int64_t i = groups.starts[k]; i < groups.starts[k + 1]; ++i)
      found[groups.indices[k]].push_back(groups.order[i]);
  if (found != expected || found.size() != groups.indices.size()) Fail(what + ": other groups");
  if (!std::is_sorted(groups.indices.begin(), groups.indices.end()))
    Fail(what + ": indices are not increasing");
}

template <typename Index>
void TestDifferent(const std::string& what) {
  for (int64_t count : {0, 1, 2, 3, 4, 7, 8, 9, 1000}) {
    const Index highest = std::numeric_limits<Index>::max();
    std::vector<Index> indices(count);
    for (int64_t i = 0; i < count; ++i) indices[i] = static_cast<Index>(highest - 3 * (count - i));
    const auto expect = [&](bool different, bool increasing) {
      if (toe::AllDifferent(indices.data(), count, false) != different ||
          toe::AllDifferent(indices.data(), count, true) != increasing)
        Fail(what + ": " + std::to_string(count) + " indices are not seen as what they are");
    };
    expect(true, true);
    std::reverse(indices.begin(), indices.end());
    expect(true, count < 2);
    for (int64_t i = 1; i < count; i += 1 + count / 7) {
      const Index before = std::exchange(indices[i], indices[i / 2]);
      expect(false, false);
      indices[i] = before;
    }
  }
}

template <typename Index>
void TestGrouping(const std::string& what, int64_t highest) {
  // Fewer and more keys than are sorted by comparisons, and numbers of rows on both sides of a
  // power of 2^11, by which digits more are sorted.
  for (int64_t count : {0, 1, 2, 3, 255, 256, 257, 5000})
    for (int64_t limit : {int64_t{1}, int64_t{7}, int64_t{300}, int64_t{2048}, int64_t{2049},
                          int64_t{1} << 22, (int64_t{1} << 22) + 1, int64_t{1} << 33,
                          int64_t{1} << 40, std::numeric_limits<int64_t>::max()}) {
      const int64_t rows = std::min(limit, highest);
      Random random(static_cast<uint64_t>(rows) + count);
      std::vector<Index> indices(count);
      for (Index& index : indices) index = static_cast<Index>(random.Below(rows));
      TestGroups(what, indices, rows);
      // Many repeats, far from each other; the highest index among them.
      for (int64_t i = 0; i < count; ++i)
        indices[i] = static_cast<Index>(rows - 1 - (rows - 1) / 4 * random.Below(4));
      TestGroups(what, indices, rows);
      std::sort(indices.begin(), indices.end());
      TestGroups(what, indices, rows);
      std::reverse(indices.begin(), indices.end());
      TestGroups(what, indices, rows);
    }
}

void TestSums(const std::string& set, const toe::Table& table, Format format, int64_t count,
              int64_t rows, int64_t width) {
  const std::string what = set + " sums of " + std::to_string(count) + " rows of width " +
                           std::to_string(width) + ", format " + std::to_string(format);
  Random random(count + width);
  std::vector<int64_t> indices(count);
  for (int64_t& index : indices) index = random.Below(rows);
  Buffer values(format, count * width);
  std::vector<float> numbers(count * width);
  // Of different magnitude, so that another order of additions gives other bits.
  for (float& number : numbers) number = random() * (random() > 0 ? 1.0f : 300.0f);
  values.Fill(numbers);
  numbers = values.Values();
  const toe::RowGroups groups = toe::GroupRows(indices.data(), count, rows);
  const int64_t found = static_cast<int64_t>(groups.indices.size());
  Buffer expected(toe::kFloat32, found * width);
  std::vector<float> sums(found * width, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t k =
        std::lower_bound(groups.indices.begin(), groups.indices.end(), indices[i]) -
        groups.indices.begin();
    for (int64_t j = 0; j < width; ++j) sums[k * width + j] += numbers[i * width + j];
  }
  expected.Fill(sums);
  for (int threads : {1, 2, 4}) {
    Buffer actual(toe::kFloat32, found * width);
    actual.Fill(std::vector<float>(found * width, -1.0f));
    toe::SumRows(table, groups, values.array(), width, static_cast<float*>(actual.array().data),
                 Threads(threads));
    if (!actual.SameBits(expected)) Fail(what);
  }
}

// Sums that are too small are zero, for every thread, as they are in the step.
void TestTinySums(const std::string& set, const toe::Table& table) {
  const int64_t count = 1000;
  Buffer values(toe::kFloat32, count);
  std::vector<float> numbers(count);
  for (int64_t i = 0; i < count; ++i) numbers[i] = i % 2 == 0 ? 0x1.8p-126f : -0x1p-126f;
  values.Fill(numbers);
  std::vector<int64_t> indices(count);
  for (int64_t i = 0; i < count; ++i) indices[i] = i / 2;
  const toe::RowGroups groups = toe::GroupRows(indices.data(), count, count);
  for (int threads : {1, 4}) {
    std::vector<float> sums(count / 2, -1.0f);
    toe::SumRows(table, groups, values.array(), 1, sums.data(), Threads(threads));
    for (float sum : sums)
      if (sum != 0.0f) Fail(set + ": a sum that is too small was written");
  }
}

}  // namespace

void TestRows(const std::string& set, const toe::Table& table) {
  TestKernelsByRows(set, table);
  if (&table == &Baseline()) {
    TestDifferent<int32_t>("int32");
    TestDifferent<int64_t>("int64");
    TestGrouping<int32_t>("int32", std::numeric_limits<int32_t>::max());
    TestGrouping<int64_t>("int64", std::numeric_limits<int64_t>::max());
  }
  for (Format format : {toe::kFloat32, toe::kBFloat16, toe::kFloat16}) {
    for (int64_t width : {1, 3, 64, 1000}) {
      TestSums(set, table, format, 300, 40, width);
      TestSums(set, table, format, 100, int64_t{1} << 40, width);
    }
    TestSums(set, table, format, 20000, 500, 5);
    TestSums(set, table, format, 30, 4, 20001);
    TestSums(set, table, format, 1, 1, 17);
    TestSums(set, table, format, 0, 10, 3);
    TestSums(set, table, format, 50, 10, 0);
  }
  TestTinySums(set, table);
}
