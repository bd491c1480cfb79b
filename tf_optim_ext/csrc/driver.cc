#include "driver.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "flush_denormals.h"

namespace tf_optim_ext {

namespace baseline {
extern const Table table;
}
#if defined(TF_OPTIM_EXT_X86)
namespace avx2 {
extern const Table table;
}
namespace avx512 {
extern const Table table;
}
#endif

namespace {

// The unit in which variables are cut. It fixes the order of reductions, so it depends on nothing.
constexpr int64_t kSegment = 16384;
// 16-bit arrays are converted in blocks of this size, which stay in the first-level cache.
constexpr int64_t kBlock = 1024;
// Rows are fetched from memory this many rows before they are updated.
constexpr int64_t kRowsAhead = 4;
constexpr int kWeights = 0, kGradient = 1;
// Work is handed to threads in slabs of about this many bytes.
constexpr int64_t kSlabBytes = 512 * 1024;

struct Segment {
  int32_t variable;
  int32_t size;
  int64_t begin;
};

int64_t ElementBytes(Format format) {
  if (format == kFloat64) return 8;
  return format == kFloat32 ? 4 : 2;
}

void* Advance(const Array& array, int64_t elements) {
  return static_cast<char*>(array.data) + elements * ElementBytes(array.format);
}

// How a variable is cut: into units, elements or rows, of which a segment has at most so many.
struct Cut {
  int64_t units;
  int64_t unit_bytes;
  int64_t segment;
};

// Segments of all variables, in order, and the first segment of every slab.
struct Plan {
  std::vector<Segment> segments;
  std::vector<int64_t> slabs;
  int64_t bytes = 0;
};

Plan MakePlan(const std::vector<Cut>& cuts) {
  Plan plan;
  int64_t slab = kSlabBytes;  // the first segment opens a slab
  for (size_t v = 0; v < cuts.size(); ++v) {
    for (int64_t begin = 0; begin < cuts[v].units; begin += cuts[v].segment) {
      const int64_t size = std::min(cuts[v].segment, cuts[v].units - begin);
      if (slab >= kSlabBytes) {
        plan.slabs.push_back(static_cast<int64_t>(plan.segments.size()));
        slab = 0;
      }
      plan.segments.push_back({static_cast<int32_t>(v), static_cast<int32_t>(size), begin});
      slab += size * cuts[v].unit_bytes;
      plan.bytes += size * cuts[v].unit_bytes;
    }
  }
  plan.slabs.push_back(static_cast<int64_t>(plan.segments.size()));
  return plan;
}

void ForEachSegment(const Plan& plan, const ParallelFor& parallel_for,
                    const std::function<void(int64_t)>& run) {
  const int64_t count = static_cast<int64_t>(plan.slabs.size()) - 1;
  if (count == 0) return;
  parallel_for(count, plan.bytes / count, [&](int64_t begin, int64_t end) {
    FlushDenormals flush;
    for (int64_t i = plan.slabs[begin]; i < plan.slabs[end]; ++i) run(i);
  });
}

void Accumulate(const Pass& pass, const double* partial, double* total) {
  for (int k = 0; k < pass.reductions; ++k) {
    if (pass.combine[k] != kMax) {
      total[k] += partial[k];
    } else {
      total[k] = partial[k] > total[k] || partial[k] != partial[k] ? partial[k] : total[k];
    }
  }
}

// Arrays of `size` elements that begin at element `first` of a variable.
struct Part {
  Part(const Variable& variable, int count, int64_t first, int64_t size)
      : first(first), size(size), rounding(variable.rounding), shrinks(variable.shrinks) {
    for (int i = 0; i < count; ++i) {
      const bool is_elsewhere = i == kGradient && variable.rows != nullptr;
      arrays[i] = {Advance(variable.arrays[i], is_elsewhere ? 0 : first),
                   variable.arrays[i].format};
    }
  }

  Array arrays[kMaxArrays];
  int64_t first, size;
  const uint32_t* rounding;
  bool shrinks;
};

// One pass over a part, by way of float32 blocks.
void RunConverted(const Table& table, const Pass& pass, int count, const Part& part,
                  const float* c, double* r) {
  const Array* const arrays = part.arrays;
  alignas(64) float blocks[kMaxArrays][kBlock];
  float* pointers[kMaxArrays];
  for (int k = 0; k < pass.reductions; ++k) r[k] = 0.0;
  for (int64_t done = 0; done < part.size; done += kBlock) {
    const int64_t n = std::min(kBlock, part.size - done);
    for (int i = 0; i < count; ++i) {
      void* const data = Advance(arrays[i], done);
      const bool shrinks = i == kGradient && part.shrinks;
      if (arrays[i].format == kFloat32 && !shrinks) {
        pointers[i] = static_cast<float*>(data);
        continue;
      }
      pointers[i] = blocks[i];
      if ((pass.reads >> i & 1) == 0) continue;
      if (arrays[i].format == kFloat32) {
        std::memcpy(blocks[i], data, n * sizeof(float));
      } else {
        table.load(arrays[i].format, static_cast<const uint16_t*>(data), blocks[i], n);
      }
      for (int64_t k = 0; shrinks && k < n; ++k) blocks[i][k] *= FLT_MIN;
    }
    double partial[kMaxReductions];
    pass.run(n, pointers, c, partial);
    Accumulate(pass, partial, r);
    for (int i = 0; i < count; ++i) {
      const Format format = arrays[i].format;
      if (format == kFloat32 || !(pass.writes >> i & 1)) continue;
      uint16_t* const to = static_cast<uint16_t*>(Advance(arrays[i], done));
      if (i == kWeights && part.rounding != nullptr) {
        table.store_randomly(format, blocks[i], to, n, *part.rounding, part.first + done);
      } else {
        table.store(format, blocks[i], to, n);
      }
    }
  }
}

// One pass over a part.
void RunPass(const Table& table, const Pass& pass, int count, const Part& part, const float* c,
             double* r) {
  float* pointers[kMaxArrays];
  bool direct = !part.shrinks;
  for (int i = 0; i < count; ++i) {
    direct &= part.arrays[i].format == kFloat32;
    pointers[i] = static_cast<float*>(part.arrays[i].data);
  }
  if (direct) {
    pass.run(part.size, pointers, c, r);
  } else {
    RunConverted(table, pass, count, part, c, r);
  }
}

// A gradient of which some rows are there, as an array of one segment, the others zero.
class SpreadGradient {
 public:
  SpreadGradient(const Table& table, const Variable& variable, int64_t begin, int64_t size)
      : begin_(begin), end_(begin + size), width_(variable.width), rows_(*variable.rows) {
    if (zeros_.empty()) zeros_.resize(kSegment);
    const Array& values = variable.arrays[kGradient];
    const int64_t* const last = rows_.indices + rows_.count;
    first_ = std::lower_bound(rows_.indices, last, begin / width_) - rows_.indices;
    for (int64_t k = first_; k < rows_.count && rows_.indices[k] * width_ < end_; ++k) {
      const Overlap overlap = OverlapOf(k);
      const void* const from = Advance(values, k * width_ + overlap.skipped);
      float* const to = zeros_.data() + overlap.offset;
      if (values.format == kFloat32) {
        std::memcpy(to, from, overlap.size * sizeof(float));
      } else {
        table.load(values.format, static_cast<const uint16_t*>(from), to, overlap.size);
      }
    }
  }
  ~SpreadGradient() {
    for (int64_t k = first_; k < rows_.count && rows_.indices[k] * width_ < end_; ++k) {
      const Overlap overlap = OverlapOf(k);
      std::fill_n(zeros_.data() + overlap.offset, overlap.size, 0.0f);
    }
  }
  SpreadGradient(const SpreadGradient&) = delete;
  SpreadGradient& operator=(const SpreadGradient&) = delete;

  Array array() const { return {zeros_.data(), kFloat32}; }

 private:
  struct Overlap {
    int64_t offset;   // in the segment
    int64_t skipped;  // elements of the row that are before it
    int64_t size;
  };

  Overlap OverlapOf(int64_t k) const {
    const int64_t row = rows_.indices[k] * width_;
    const int64_t from = std::max(row, begin_), to = std::min(row + width_, end_);
    return {from - begin_, from - row, to - from};
  }

  // Zero whenever no gradient is spread in it.
  static thread_local std::vector<float> zeros_;

  const int64_t begin_, end_, width_;
  const Rows& rows_;
  int64_t first_;
};

thread_local std::vector<float> SpreadGradient::zeros_;

void RunSegment(const Table& table, const Pass& pass, int count, const Variable& variable,
                int64_t begin, int64_t size, const float* c, double* r) {
  Part part(variable, count, begin, size);
  if (variable.rows == nullptr) {
    RunPass(table, pass, count, part, c, r);
  } else {
    const SpreadGradient gradient(table, variable, begin, size);
    part.arrays[kGradient] = gradient.array();
    RunPass(table, pass, count, part, c, r);
  }
}

// Asks for the first bytes of rows that are updated soon: rows that are far from each other are not
// what the processor expects.
void Prefetch(const Variable& variable, int count, int64_t row) {
  for (int i = 0; i < count; ++i) {
    if (i == kGradient) continue;
    const char* const data = static_cast<const char*>(Advance(variable.arrays[i], row));
    const int64_t bytes = variable.width * ElementBytes(variable.arrays[i].format);
    for (int64_t line = 0; line < std::min<int64_t>(bytes, 512); line += 64)
      __builtin_prefetch(data + line, 1);
  }
}

// One pass over those rows of a segment that the gradient has, adjacent ones together.
void RunPresentRows(const Table& table, const Pass& pass, int count, const Variable& variable,
                    const Segment& segment, const float* c) {
  const int64_t* const indices = variable.rows->indices;
  const int64_t width = variable.width, end = segment.begin + segment.size;
  const Array& gradient = variable.arrays[kGradient];
  for (int64_t k = segment.begin; k < end;) {
    int64_t next = k + 1;
    while (next < end && indices[next] == indices[next - 1] + 1) ++next;
    if (next + kRowsAhead < variable.rows->count)
      Prefetch(variable, count, indices[next + kRowsAhead] * width);
    Part part(variable, count, indices[k] * width, (next - k) * width);
    part.arrays[kGradient] = {Advance(gradient, k * width), gradient.format};
    RunPass(table, pass, count, part, c, nullptr);
    k = next;
  }
}

// All passes of a kernel by row over one row.
void RunRow(const Table& table, const Kernel& kernel, const Variable& variable, int64_t row,
            const Array& gradient, double* h) {
  const int count = 2 + kernel.slots, state = StateScalars(kernel);
  double* const own = h + Width(kernel) - state;
  for (int k = 0; k < state; ++k) own[k] = variable.rows_state[k][row];
  Part part(variable, count, row * variable.width, variable.width);
  part.arrays[kGradient] = gradient;
  double reductions[kMaxReductions] = {};
  double* r = reductions;
  for (int p = 0; p < kernel.passes; ++p) {
    float c[kMaxScalars];
    kernel.pass[p].scalars(h, reductions, c);
    RunPass(table, kernel.pass[p], count, part, c, r);
    r += kernel.pass[p].reductions;
  }
  if (kernel.finish == nullptr) return;
  double changed[kMaxState];
  kernel.finish(h, reductions, changed);
  for (int k = 0; k < state; ++k) variable.rows_state[k][row] = changed[k];
}

// A segment of rows: of those that the gradient has if `lazy`, otherwise of all.
void RunRows(const Table& table, const Kernel& kernel, const Variable& variable,
             const Segment& segment, bool lazy) {
  const int count = 2 + kernel.slots;
  const int64_t width = variable.width, end = segment.begin + segment.size;
  const Array& values = variable.arrays[kGradient];
  std::vector<double> h(variable.h, variable.h + Width(kernel));
  const Rows* const rows = variable.rows;
  if (rows == nullptr) {
    for (int64_t row = segment.begin; row < end; ++row)
      RunRow(table, kernel, variable, row, {Advance(values, row * width), values.format}, h.data());
    return;
  }
  if (lazy) {
    for (int64_t k = segment.begin; k < end; ++k) {
      if (k + kRowsAhead < rows->count)
        Prefetch(variable, count, rows->indices[k + kRowsAhead] * width);
      RunRow(table, kernel, variable, rows->indices[k],
             {Advance(values, k * width), values.format}, h.data());
    }
    return;
  }
  std::vector<float> zeros(width);
  const int64_t* const last = rows->indices + rows->count;
  const int64_t* present = std::lower_bound(rows->indices, last, segment.begin);
  for (int64_t row = segment.begin; row < end; ++row) {
    const bool has_gradient = present != last && *present == row;
    const int64_t k = present - rows->indices;
    RunRow(table, kernel, variable, row,
           has_gradient ? Array{Advance(values, k * width), values.format}
                        : Array{zeros.data(), kFloat32},
           h.data());
    present += has_gradient;
  }
}

// The scalars that a pass hands to its loop, for every variable.
class LoopScalars {
 public:
  LoopScalars(const Kernel& kernel, const Pass& pass, const std::vector<Variable>& variables,
              const double* reductions)
      : values_(variables.size() * kMaxScalars), row_(variables.size()) {
    const size_t bytes = Width(kernel) * sizeof(double);
    const bool shareable = &pass == kernel.pass;
    for (size_t v = 0; v < variables.size(); ++v) {
      const double* h = variables[v].h;
      const bool same = v > 0 && shareable && std::memcmp(h, variables[v - 1].h, bytes) == 0;
      row_[v] = same ? row_[v - 1] : v;
      if (!same) pass.scalars(h, reductions + v * kMaxReductions, &values_[v * kMaxScalars]);
    }
  }

  const float* operator[](size_t variable) const { return &values_[row_[variable] * kMaxScalars]; }

 private:
  std::vector<float> values_;
  std::vector<size_t> row_;
};

// A factor of gradients that float32 has no normal number for, as that which clips a norm of 1e38 to 1,
// becomes two, of which the gradient gets one, FLT_MIN, when it is loaded. What that makes zero would
// be so after both factors, too. Returns whether there are two.
bool SplitScale(double* h) {
  double& scale = h[kGradientScale];
  const bool shrinks = scale != 0.0 && std::fabs(scale) < FLT_MIN;
  if (shrinks) scale /= FLT_MIN;
  return shrinks;
}

// The programs before or after a rule, with the scalars of their loops.
class Beside {
 public:
  explicit Beside(const std::vector<Stage>& stages) : stages_(stages), loops_(stages.size()) {
    for (size_t i = 0; i < stages.size(); ++i) {
      loops_[i].shrinks = SplitScale(stages_[i].h.data());
      stages_[i].kernel->pass[0].scalars(stages_[i].h.data(), nullptr, loops_[i].c);
    }
  }

  void Run(const Table& table, const Variable& variable, int64_t begin, int64_t size) const {
    // A row of a table may be longer than a segment.
    for (int64_t done = 0; done < size && !stages_.empty(); done += kSegment)
      RunShort(table, variable, begin + done, std::min(kSegment, size - done));
  }

  int64_t bytes() const { return static_cast<int64_t>(stages_.size() * 2 * sizeof(float)); }

 private:
  struct Loop {
    float c[kMaxScalars];
    bool shrinks;
  };

  void RunShort(const Table& table, const Variable& variable, int64_t begin, int64_t size) const {
    for (size_t i = 0; i < stages_.size(); ++i) {
      const Array arrays[] = {variable.arrays[stages_[i].weights],
                              variable.arrays[stages_[i].gradient]};
      Variable of_stage = variable;
      of_stage.arrays = arrays;
      of_stage.rounding = nullptr;
      of_stage.shrinks = loops_[i].shrinks;
      if (stages_[i].gradient != kGradient) of_stage.rows = nullptr;
      RunSegment(table, stages_[i].kernel->pass[0], 2, of_stage, begin, size, loops_[i].c, nullptr);
    }
  }

  std::vector<Stage> stages_;
  std::vector<Loop> loops_;
};

// Gives every variable the sum over all variables, where a reduction is one.
void SumOverVariables(const Pass& pass, size_t variables, double* reductions) {
  for (int k = 0; k < pass.reductions; ++k) {
    if (pass.combine[k] != kGlobalSum) continue;
    double total = 0.0;
    for (size_t v = 0; v < variables; ++v) total += reductions[v * kMaxReductions + k];
    for (size_t v = 0; v < variables; ++v) reductions[v * kMaxReductions + k] = total;
  }
}

}  // namespace

void Run(const Table& table, const Sequence& sequence, const std::vector<Variable>& given,
         bool lazy, const ParallelFor& parallel_for) {
  FlushDenormals flush;
  const Kernel& kernel = *sequence.rule;
  const Beside before(sequence.before), after(sequence.after);
  const int count = 2 + kernel.slots;
  std::vector<Variable> variables = given;
  std::vector<Array> arrays(given.size() * count);
  std::vector<Cut> cuts;
  for (size_t v = 0; v < given.size(); ++v) {
    Variable& variable = variables[v];
    Array* const of_rule = &arrays[v * count];
    std::copy_n(given[v].arrays, count, of_rule);
    of_rule[kGradient] = given[v].arrays[sequence.gradient];
    variable.arrays = of_rule;
    if (sequence.gradient != kGradient) variable.rows = nullptr;
    variable.shrinks = SplitScale(variable.h);
    const int64_t size = kernel.by_row ? variable.width : variable.size;
    variable.h[kSize] = kernel.uses_size ? static_cast<double>(size) : 0.0;
    int64_t bytes = before.bytes() + after.bytes();
    for (int i = 0; i < count; ++i) bytes += 2 * ElementBytes(of_rule[i].format);
    const bool of_present_rows = lazy && variable.rows != nullptr;
    if (variable.size == 0) {
      cuts.push_back({0, 0, 1});
    } else if (of_present_rows || kernel.by_row) {
      const int64_t rows =
          of_present_rows ? variable.rows->count : variable.size / variable.width;
      const int64_t segment = std::max<int64_t>(1, kSegment / variable.width);
      cuts.push_back({rows, bytes * variable.width, segment});
    } else {
      cuts.push_back({variable.size, bytes, kSegment});
    }
  }
  const Plan plan = MakePlan(cuts);
  if (kernel.by_row) {
    ForEachSegment(plan, parallel_for, [&](int64_t i) {
      const Segment& segment = plan.segments[i];
      const Variable& whole = given[segment.variable];
      const int64_t begin = segment.begin * whole.width, size = segment.size * whole.width;
      before.Run(table, whole, begin, size);
      RunRows(table, kernel, variables[segment.variable], segment, lazy);
      after.Run(table, whole, begin, size);
    });
    return;
  }
  std::vector<double> reductions(variables.size() * kMaxReductions);
  int finished = 0;  // reductions of earlier passes
  for (int p = 0; p < kernel.passes; ++p) {
    const Pass& pass = kernel.pass[p];
    const LoopScalars scalars(kernel, pass, variables, reductions.data());
    std::vector<double> partials(plan.segments.size() * pass.reductions);
    ForEachSegment(plan, parallel_for, [&](int64_t i) {
      const Segment& segment = plan.segments[i];
      const Variable& variable = variables[segment.variable];
      const float* const c = scalars[segment.variable];
      if (lazy && variable.rows != nullptr) {
        RunPresentRows(table, pass, count, variable, segment, c);
        return;
      }
      const Variable& whole = given[segment.variable];
      if (p == 0) before.Run(table, whole, segment.begin, segment.size);
      RunSegment(table, pass, count, variable, segment.begin, segment.size, c,
                 partials.data() + i * pass.reductions);
      if (p == kernel.passes - 1) after.Run(table, whole, segment.begin, segment.size);
    });
    if (pass.reductions == 0) continue;
    for (size_t i = 0; i < plan.segments.size(); ++i)
      Accumulate(pass, &partials[i * pass.reductions],
                 &reductions[plan.segments[i].variable * kMaxReductions + finished]);
    SumOverVariables(pass, variables.size(), reductions.data() + finished);
    finished += pass.reductions;
  }
  if (kernel.finish == nullptr) return;
  for (size_t v = 0; v < variables.size(); ++v)
    kernel.finish(variables[v].h, &reductions[v * kMaxReductions], variables[v].state);
}

void SquaredNorms(const Table& table, const std::vector<Array>& arrays,
                  const std::vector<int64_t>& sizes, double* norms,
                  const ParallelFor& parallel_for) {
  FlushDenormals flush;
  std::vector<Cut> cuts;
  for (size_t i = 0; i < arrays.size(); ++i)
    cuts.push_back({sizes[i], ElementBytes(arrays[i].format), kSegment});
  const Plan plan = MakePlan(cuts);
  std::vector<double> partials(plan.segments.size());
  ForEachSegment(plan, parallel_for, [&](int64_t i) {
    const Segment& segment = plan.segments[i];
    const Array& array = arrays[segment.variable];
    if (array.format == kFloat32) {
      partials[i] = table.sum_of_squares(
          static_cast<const float*>(Advance(array, segment.begin)), segment.size);
      return;
    }
    if (array.format == kFloat64) {
      partials[i] = table.sum_of_squares_of_doubles(
          static_cast<const double*>(Advance(array, segment.begin)), segment.size);
      return;
    }
    alignas(64) float block[kBlock];
    for (int64_t done = 0; done < segment.size; done += kBlock) {
      const int64_t n = std::min(kBlock, segment.size - done);
      table.load(array.format,
                 static_cast<const uint16_t*>(Advance(array, segment.begin + done)), block, n);
      partials[i] += table.sum_of_squares(block, n);
    }
  });
  std::fill_n(norms, arrays.size(), 0.0);
  for (size_t i = 0; i < plan.segments.size(); ++i)
    norms[plan.segments[i].variable] += partials[i];
}

const Table* FindTable(const std::string& instruction_set) {
  if (instruction_set == "baseline") return &baseline::table;
#if defined(TF_OPTIM_EXT_X86)
  __builtin_cpu_init();
  if (instruction_set == "avx2" && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return &avx2::table;
  if (instruction_set == "avx512" && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return &avx512::table;
#endif
  return nullptr;
}

const Kernel* FindKernel(const Table& table, const std::string& name) {
  for (int i = 0; i < table.count; ++i)
    if (name == table.kernels[i]->name) return table.kernels[i];
  return nullptr;
}

}  // namespace tf_optim_ext
