// Tests of the driver and of all kernels without TensorFlow, for sanitizers: every kernel over odd
// sizes in every combination of formats, on every instruction set, with one thread and with several.
//
//   driver_test            exits with 0, or prints what is wrong and exits with 1
//   driver_test overflow   reads one element too many
//   driver_test race       adds to one number from several threads
//
// The last two are for the test of these tests: a sanitizer must stop them.
#include <algorithm>

#include "testing.h"

namespace {

// Whether all are the same bits; of a NaN, sign and payload are nobody's promise.
bool SameNumbers(const Buffer& a, const Buffer& b) {
  if (a.SameBits(b)) return true;
  const std::vector<float> x = a.Values(), y = b.Values();
  for (size_t i = 0; i < x.size(); ++i)
    if (std::memcmp(&x[i], &y[i], sizeof(float)) != 0 && !(std::isnan(x[i]) && std::isnan(y[i])))
      return false;
  return true;
}

bool SameNumbers(const Example& a, const Example& b) {
  for (size_t i = 0; i < a.buffers.size(); ++i)
    if (!SameNumbers(a.buffers[i], b.buffers[i])) return false;
  return a.state == b.state;
}

// Rows as wide as a variable's size allows: kernels by row are to have more and fewer elements in a
// row than a block or a strip.
int64_t WidthOf(int64_t size) {
  for (int64_t width : {25000, 1024, 257, 33, 16, 7, 5, 3})
    if (size > 0 && size % width == 0) return width;
  return size > 0 ? 1 : 0;
}

void TestKernel(const std::string& set, const toe::Table& table, const toe::Kernel& kernel,
                const std::vector<Format>& formats, const std::vector<int64_t>& sizes) {
  std::string what = set + " " + kernel.name + " formats";
  for (Format format : formats) what += " " + std::to_string(format);
  std::vector<Example> variables;
  for (size_t v = 0; v < sizes.size(); ++v)
    variables.push_back(Make(kernel, formats, sizes[v], WidthOf(sizes[v]), v));
  for (size_t v = 1; v < sizes.size(); v += 2) variables[v].rounding = 12345 + v;
  const std::vector<Example> one = Run(table, kernel, variables, 1);
  const std::vector<Example> several = Run(table, kernel, variables, 4);
  for (size_t v = 0; v < one.size(); ++v)
    if (!SameBits(one[v], several[v])) Fail(what + ": threads change the result");
  uint32_t writes = 0;
  for (int p = 0; p < kernel.passes; ++p) writes |= kernel.pass[p].writes;
  for (size_t v = 0; v < one.size(); ++v) {
    for (double value : one[v].state)
      if (!std::isfinite(value)) Fail(what + ": the state is not finite");
    for (size_t i = 0; i < one[v].buffers.size(); ++i) {
      const Buffer& buffer = one[v].buffers[i];
      const bool same = buffer.SameBits(variables[v].buffers[i]);
      if ((writes >> i & 1) == 0 && !same) Fail(what + ": writes what it only reads");
      // Slots may keep what they hold, by a selection.
      if (i == 0 && (writes & 1) == 1 && same && sizes[v] > 100) Fail(what + ": writes nothing");
      int64_t finite = 0;
      for (float value : buffer.Values()) finite += std::isfinite(value);
      if (2 * finite < buffer.size()) Fail(what + ": hardly any finite results");
    }
  }
  // Alone as in company.
  if (!IsJoint(kernel) && !SameBits(Run(table, kernel, {variables.back()}, 1)[0], one.back()))
    Fail(what + ": depends on other variables");
  if (&table == &Baseline()) return;
  const toe::Kernel* reference = toe::FindKernel(Baseline(), kernel.name);
  if (reference == nullptr) return Fail(what + ": missing in baseline");
  const std::vector<Example> expected = Run(Baseline(), *reference, variables, 1);
  for (size_t v = 0; v < one.size(); ++v)
    if (!SameNumbers(one[v], expected[v])) Fail(what + ": instruction sets differ");
}

void TestKernels(const std::string& set, const toe::Table& table) {
  const std::vector<int64_t> small = {0, 1, 7, 16, 33, 257, 1025};
  const std::vector<int64_t> large = {16383, 0, 16384, 16385, 5, 50000, 100003};
  for (int k = 0; k < table.count; ++k) {
    const toe::Kernel& kernel = *table.kernels[k];
    if (toe::FindKernel(table, kernel.name) != &kernel) Fail("two kernels of one name");
    const int arrays = 2 + kernel.slots;
    int combinations = 1;
    for (int i = 0; i < arrays; ++i) combinations *= 3;
    // Every one of a gradient alone and of one slot; of more, about twenty.
    const int stride = combinations > 60 ? combinations / 20 | 1 : 1;
    for (int c = 0; c < combinations; c += stride) {
      std::vector<Format> formats;
      for (int i = 0, rest = c; i < arrays; ++i, rest /= 3)
        formats.push_back(static_cast<Format>(rest % 3));
      TestKernel(set, table, kernel, formats, small);
    }
    for (Format format : {toe::kFloat32, toe::kBFloat16, toe::kFloat16}) {
      std::vector<Format> formats(arrays, format);
      TestKernel(set, table, kernel, formats, large);
      formats.assign(arrays, toe::kFloat32);
      formats[0] = format;
      if (format != toe::kFloat32) TestKernel(set, table, kernel, formats, large);
    }
    std::vector<int64_t> many(2000, 3);
    TestKernel(set, table, kernel, std::vector<Format>(arrays, toe::kFloat32), many);
    // Nothing to do.
    toe::Run(table, {&kernel}, {}, false, Threads(4));
    TestKernel(set, table, kernel, std::vector<Format>(arrays, toe::kFloat32), {0, 0});
  }
}

void TestSquaredNorms(const std::string& set, const toe::Table& table, Format format,
                      float scale) {
  const std::vector<int64_t> sizes = {0, 1, 7, 257, 1025, 16385, 200001, 0};
  std::vector<Buffer> buffers;
  std::vector<toe::Array> arrays;
  for (size_t i = 0; i < sizes.size(); ++i) {
    Random random(i);
    std::vector<float> values(sizes[i]);
    for (float& value : values) value = 2 * random() * scale;
    buffers.emplace_back(format, sizes[i]);
    buffers.back().Fill(values);
  }
  for (const Buffer& buffer : buffers) arrays.push_back(buffer.array());
  std::vector<double> one(sizes.size(), -1.0), several = one, baseline = one;
  toe::SquaredNorms(table, arrays, sizes, one.data(), Threads(1));
  toe::SquaredNorms(table, arrays, sizes, several.data(), Threads(4));
  toe::SquaredNorms(Baseline(), arrays, sizes, baseline.data(), Threads(1));
  for (size_t i = 0; i < sizes.size(); ++i) {
    double exact = 0.0;
    for (float value : buffers[i].Values()) exact += static_cast<double>(value) * value;
    if (std::fabs(one[i] - exact) > 1e-12 * exact) Fail(set + ": a norm is wrong");
  }
  if (one != several) Fail(set + ": threads change a norm");
  if (one != baseline) Fail(set + ": instruction sets differ in a norm");
}

void TestSquaredNorms(const std::string& set, const toe::Table& table) {
  for (Format format : {toe::kFloat32, toe::kBFloat16, toe::kFloat64})
    // The squares of the last two are no float32.
    for (float scale : {1.0f, 1e-30f, 1e30f}) TestSquaredNorms(set, table, format, scale);
  for (float scale : {1.0f, 1e-3f, 3e4f}) TestSquaredNorms(set, table, toe::kFloat16, scale);
  toe::SquaredNorms(table, {}, {}, nullptr, Threads(4));
}

// A factor of gradients that float32 has no normal number for has the effect of one that it has.
void TestTinyScales(const std::string& set, const toe::Table& table) {
  constexpr int64_t kSize = 5000, kWidth = 50;
  constexpr double kUsual = 0.75 * 0x1p-8, kTiny = kUsual * 0x1p-120;
  for (int k = 0; k < table.count; ++k) {
    const toe::Kernel& kernel = *table.kernels[k];
    int reductions = 0;
    for (int p = 0; p < kernel.passes; ++p) reductions += kernel.pass[p].reductions;
    for (Format format : {toe::kFloat32, toe::kBFloat16}) {
      // What is converted is added up in blocks, in another order than what is not.
      if (format == toe::kFloat32 && reductions > 0) continue;
      std::vector<Format> formats(2 + kernel.slots, toe::kFloat32);
      formats[1] = format;
      std::vector<Example> usual(2, Make(kernel, formats, kSize, kWidth, k));
      usual[1].rows = {1, 2, 3, 50, 99};
      usual[1].buffers[1] = usual[1].buffers[1].Gather(kWidth, *usual[1].rows);
      std::vector<Example> large = usual;
      for (Example& example : large) {
        std::vector<float> values = example.buffers[1].Values();
        for (float& value : values) value *= 0x1p120f;
        example.buffers[1].Fill(values);
      }
      const bool may_be_lazy =
          kernel.by_row || (kernel.passes == 1 && toe::StateScalars(kernel) == 0);
      for (bool lazy : {false, true}) {
        if (lazy && !may_be_lazy) continue;
        const std::vector<Example> expected = Run(table, kernel, usual, 1, lazy, kUsual);
        // As those of averages: their gradient is none, and not scaled.
        if (SameBits(Run(table, kernel, usual, 1, lazy, 2 * kUsual)[0], expected[0])) continue;
        const std::vector<Example> one = Run(table, kernel, large, 1, lazy, kTiny);
        const std::vector<Example> several = Run(table, kernel, large, 4, lazy, kTiny);
        for (size_t v = 0; v < usual.size(); ++v)
          if (!SameBits(one[v], expected[v]) || !SameBits(several[v], expected[v]))
            Fail(set + ": a scale that is no float32 changes " + kernel.name);
      }
    }
  }
}

void TestConversions(const std::string& set, const toe::Table& table) {
  std::vector<uint16_t> all(65536);
  for (int i = 0; i < 65536; ++i) all[i] = static_cast<uint16_t>(i);
  Random random(3);
  std::vector<float> values(100000);
  for (float& value : values) {
    uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(random() * 2147483647.0f)) ^
                    static_cast<uint32_t>(static_cast<int32_t>(random() * 65535.0f));
    std::memcpy(&value, &bits, sizeof value);
  }
  for (Format format : {toe::kBFloat16, toe::kFloat16}) {
    std::vector<float> loaded(65536), expected(65536);
    std::vector<uint16_t> stored(values.size()), expected_stored(values.size());
    // In pieces of odd length: vector loops and what remains of them.
    for (int64_t begin = 0, n = 1; begin < 65536; begin += n, n = std::min<int64_t>(n + 1, 61)) {
      n = std::min<int64_t>(n, 65536 - begin);
      table.load(format, &all[begin], &loaded[begin], n);
    }
    Baseline().load(format, all.data(), expected.data(), 65536);
    for (int i = 0; i < 65536; ++i)
      if (!(loaded[i] == expected[i] || (std::isnan(loaded[i]) && std::isnan(expected[i]))))
        Fail(set + ": loads differ at " + std::to_string(i));
    for (size_t begin = 0; begin < values.size(); begin += 13)
      table.store(format, &values[begin], &stored[begin],
                  std::min<int64_t>(13, static_cast<int64_t>(values.size() - begin)));
    Baseline().store(format, values.data(), expected_stored.data(),
                     static_cast<int64_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i)
      if (stored[i] != expected_stored[i] && !std::isnan(values[i]))
        Fail(set + ": stores differ at " + std::to_string(values[i]));
    // What was loaded is stored as it was.
    std::vector<uint16_t> again(65536);
    table.store(format, loaded.data(), again.data(), 65536);
    for (int i = 0; i < 65536; ++i)
      if (again[i] != all[i] && !std::isnan(loaded[i]))
        Fail(set + ": a number changes when it is loaded and stored: " + std::to_string(i));
  }
}

// What is too small is zero for every thread, and the calling thread has it back afterwards.
// What is stored at random is one of the two neighbours, the right one on average.
void TestRandomStores(const std::string& set, const toe::Table& table) {
  const int64_t n = 40000;
  for (Format format : {toe::kBFloat16, toe::kFloat16}) {
    const bool half = format == toe::kFloat16;
    // Among them a number that is none of the normal ones in float16, and one that is one already.
    for (float value : {1.001f, -3.1415926f, 3e-6f, 1.5f, 60001.0f, 0.0f}) {
      const std::vector<float> values(n, value);
      std::vector<uint16_t> stored(n), baseline(n), parts(n);
      std::vector<float> loaded(n);
      table.store_randomly(format, values.data(), stored.data(), n, 77, 5);
      Baseline().store_randomly(format, values.data(), baseline.data(), n, 77, 5);
      for (int64_t i = 0; i < n; i += 1000)
        table.store_randomly(format, &values[i], &parts[i], 1000, 77, 5 + i);
      if (stored != baseline || stored != parts)
        Fail(set + ": stochastic rounding depends on more than key and position");
      table.load(format, stored.data(), loaded.data(), n);
      const auto [lowest, highest] = std::minmax_element(loaded.begin(), loaded.end());
      const double distance = static_cast<double>(*highest) - *lowest;
      const double unit =
          half ? std::max(std::fabs(value) * 0x1p-10, 0x1p-24) : std::fabs(value) * 0x1p-7;
      if (*lowest > value || *highest < value || distance > unit)
        Fail(set + ": " + std::to_string(value) + " was not rounded to a neighbour");
      double sum = 0.0;
      for (float x : loaded) sum += x;
      // Five standard deviations of the mean, of which each number has at most half a distance.
      if (std::fabs(sum / n - value) > 2.5 * distance / std::sqrt(n))
        Fail(set + ": the mean of " + std::to_string(value) + " is " + std::to_string(sum / n));
    }
    for (float value : {INFINITY, -INFINITY, NAN, 3e38f}) {
      uint16_t nearest, stored;
      table.store(format, &value, &nearest, 1);
      table.store_randomly(format, &value, &stored, 1, 3, 0);
      if (stored != nearest && (half || value != 3e38f))
        Fail(set + ": special numbers are rounded as usual");
    }
  }
}

void TestDenormals(const std::string& set, const toe::Table& table) {
  volatile float tiny = 1e-40f;
  const int64_t size = 100000;
  for (int k = 0; k < table.count; ++k) {
    const toe::Kernel& kernel = *table.kernels[k];
    Example example =
        Make(kernel, std::vector<Format>(2 + kernel.slots, toe::kFloat32), size, 1000, k);
    for (size_t i = 0; i < example.buffers.size(); ++i)
      example.buffers[i].Fill(
          std::vector<float>(size, i == 1 ? -tiny : tiny * static_cast<float>(i + 1)));
    const Example one = Run(table, kernel, {example}, 1)[0];
    const Example several = Run(table, kernel, {example}, 4)[0];
    if (!SameBits(one, several)) Fail(set + ": threads differ in what is too small");
    uint32_t writes = kernel.pass[kernel.passes - 1].writes;
    for (size_t i = 0; i < one.buffers.size(); ++i) {
      if (one.buffers[i].SameBits(example.buffers[i])) continue;  // kept as it was by a selection
      for (float value : one.buffers[i].Values())
        if ((writes >> i & 1) && std::fpclassify(value) == FP_SUBNORMAL)
          Fail(set + ": a number that is too small was written");
    }
  }
  if (tiny * 2.0f == 0.0f) Fail("denormals are flushed after a step");
}

void Overflow() {
  Buffer values(toe::kFloat32, 1000);
  double norm;
  toe::SquaredNorms(Baseline(), {values.array()}, {1001}, &norm, Threads(1));
  std::printf("%g\n", norm);
}

void Race() {
  double sum = 0.0;
  Threads(4)(1000, 1, [&sum](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum += 1.0;
  });
  std::printf("%g\n", sum);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "overflow") return Overflow(), 0;
  if (mode == "race") return Race(), 0;
  if (toe::FindTable("") != nullptr || toe::FindTable("avx3") != nullptr)
    Fail("an instruction set that does not exist");
  int sets = 0;
  for (const char* set : {"baseline", "avx2", "avx512"}) {
    const toe::Table* table = toe::FindTable(set);
    if (table == nullptr) {
      std::printf("%s: not on this processor\n", set);
      continue;
    }
    ++sets;
    if (table->count != Baseline().count) Fail(std::string(set) + ": another number of kernels");
    if (toe::FindKernel(*table, "rule_0") != nullptr) Fail("a kernel that does not exist");
    TestKernels(set, *table);
    TestRows(set, *table);
    TestBeside(set, *table);
    TestSquaredNorms(set, *table);
    TestTinyScales(set, *table);
    TestConversions(set, *table);
    TestRandomStores(set, *table);
    TestDenormals(set, *table);
    std::printf("%s: %d kernels\n", set, table->count);
  }
  if (sets == 0) Fail("no instruction set");
  TestHugePages();
  std::printf("%d failures\n", failures);
  return failures > 0;
}
