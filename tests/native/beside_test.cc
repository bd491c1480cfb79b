// Programs beside a rule, over one segment after the other: the same bits as one program after the
// other over all of them.

#include "testing.h"

namespace {

// Whether a kernel may run beside others.
bool IsStage(const toe::Kernel& kernel) {
  return kernel.slots == 0 && kernel.passes == 1 && kernel.pass[0].reductions == 0 &&
         toe::StateScalars(kernel) == 0 && !kernel.by_row && !kernel.uses_size;
}

class Steps {
 public:
  Steps(const toe::Table& table, const toe::Kernel& rule, const toe::Kernel& first,
        const toe::Kernel& second, int threads)
      : table_(table), rule_(rule), first_(first), second_(second), threads_(threads) {}

  void AtOnce(std::vector<Example>* examples) const {
    const int sums = 2 + rule_.slots, averages = sums + 1;
    toe::Sequence sequence{&rule_};
    sequence.gradient = sums;
    sequence.before.push_back({&first_, sums, 1, Scalars(first_, kTiny)});
    sequence.after.push_back({&second_, averages, 0, Scalars(second_, 0.75)});
    sequence.after.push_back({&first_, sums, 0, Scalars(first_, 0.5)});
    std::vector<int> all(averages + 1);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
    Run(sequence, rule_, all, 0.75, examples);
  }

  void InTurn(std::vector<Example>* examples) const {
    const int sums = 2 + rule_.slots, averages = sums + 1;
    Run({&first_}, first_, {sums, 1}, kTiny, examples);
    std::vector<int> of_rule = {0, sums};
    for (int s = 0; s < rule_.slots; ++s) of_rule.push_back(2 + s);
    Run({&rule_}, rule_, of_rule, 0.75, examples);
    Run({&second_}, second_, {averages, 0}, 0.75, examples);
    Run({&first_}, first_, {sums, 0}, 0.5, examples);
  }

 private:
  // A factor that float32 has no normal number for.
  static constexpr double kTiny = 1e-39;

  void Run(const toe::Sequence& sequence, const toe::Kernel& kernel, const std::vector<int>& order,
           double gradient_scale, std::vector<Example>* examples) const {
    const size_t count = examples->size(), numbers = toe::StateScalars(kernel);
    std::vector<std::vector<toe::Array>> arrays(count);
    std::vector<toe::Rows> rows(count);
    std::vector<std::vector<double*>> rows_state(count);
    std::vector<std::vector<double>> h(count, Scalars(kernel, gradient_scale));
    std::vector<toe::Variable> work;
    for (size_t v = 0; v < count; ++v) {
      Example& example = (*examples)[v];
      for (int i : order) arrays[v].push_back(example.buffers[i].array());
      const bool by_rows = example.rows.has_value() && order[1] == 1;
      if (by_rows) rows[v] = {example.rows->data(), static_cast<int64_t>(example.rows->size())};
      if (!kernel.by_row && numbers > 0) example.state.assign(numbers, -1.0);
      for (size_t k = 0; kernel.by_row && k < numbers; ++k)
        rows_state[v].push_back(example.state.data() + k * example.row_count());
      const bool rounds = example.rounding && &kernel == &rule_;
      work.push_back({example.size(), example.width, arrays[v].data(), by_rows ? &rows[v] : nullptr,
                      h[v].data(), kernel.by_row ? nullptr : example.state.data(),
                      rows_state[v].data(), rounds ? &*example.rounding : nullptr});
    }
    toe::Run(table_, sequence, work, false, Threads(threads_));
  }

  const toe::Table& table_;
  const toe::Kernel &rule_, &first_, &second_;
  const int threads_;
};

void TestRule(const std::string& set, const toe::Table& table, const toe::Kernel& rule,
              const toe::Kernel& first, const toe::Kernel& second, Format format) {
  std::vector<Format> formats(4 + rule.slots, toe::kFloat32);
  formats[0] = formats[1] = format;
  std::vector<Example> examples;
  struct Shape {
    int64_t rows, width;
  };
  for (const Shape& shape : std::vector<Shape>{{0, 4}, {1, 1}, {5, 7}, {2, 20000}, {6000, 5}}) {
    const uint64_t seed = examples.size();
    examples.push_back(Make(rule, formats, shape.rows * shape.width, shape.width, seed));
    if (seed % 2 == 1) examples.back().rounding = 321 + seed;
    Example some = Make(rule, formats, shape.rows * shape.width, shape.width, seed + 50);
    some.rows.emplace();
    for (int64_t row = 0; row < shape.rows; row += 3) some.rows->push_back(row);
    some.buffers[1] = some.buffers[1].Gather(shape.width, *some.rows);
    examples.push_back(std::move(some));
  }
  std::vector<Example> expected = examples;
  Steps(table, rule, first, second, 1).InTurn(&expected);
  for (int threads : {1, 4}) {
    std::vector<Example> found = examples;
    Steps(table, rule, first, second, threads).AtOnce(&found);
    for (size_t v = 0; v < found.size(); ++v)
      if (!SameBits(found[v], expected[v]))
        Fail(set + " " + rule.name + " beside " + first.name + " and " + second.name +
             ": not as one after the other");
  }
}

}  // namespace

void TestBeside(const std::string& set, const toe::Table& table) {
  std::vector<const toe::Kernel*> stages;
  for (int k = 0; k < table.count; ++k)
    if (IsStage(*table.kernels[k])) stages.push_back(table.kernels[k]);
  if (stages.size() < 3) return Fail(set + ": no kernels to run beside others");
  for (int k = 0; k < table.count; ++k)
    for (size_t i = 0; i < stages.size(); ++i)
      for (Format format : {toe::kFloat32, toe::kBFloat16, toe::kFloat16})
        TestRule(set, table, *table.kernels[k], *stages[i], *stages[(i + 1) % stages.size()],
                 format);
}
