#include "cuda_launch.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "cuda_tables.h"

namespace tf_optim_ext {

namespace {

// Arguments of a kernel: a head, then columns with an entry for each of at most `capacity` variables.
class Arguments {
 public:
  template <typename Head>
  Arguments(const Head& head, size_t capacity, size_t bytes_of_variable)
      : capacity_(capacity), bytes_(sizeof(Head) + capacity * bytes_of_variable + 8) {
    std::memcpy(bytes_.data(), &head, sizeof head);
    column_ = sizeof head;
  }

  // Begins a column whose entries are `width` values.
  template <typename Value>
  Value* Column(size_t width = 1) {
    char* const begin = bytes_.data() + column_;
    column_ += capacity_ * width * sizeof(Value);
    return reinterpret_cast<Value*>(begin);
  }

  std::vector<char> Take() { return std::move(bytes_); }

 private:
  size_t capacity_, column_ = 0;
  std::vector<char> bytes_;
};

uint32_t Formats(const Array* arrays, int count) {
  uint32_t formats = 0;
  for (int i = 0; i < count; ++i) formats |= static_cast<uint32_t>(arrays[i].format) << (2 * i);
  return formats;
}

std::string LaunchOne(const CudaDriver& driver, const std::string& name, CudaFunction function,
                      int64_t blocks, int threads, std::vector<char> arguments,
                      CudaStream stream) {
  if (blocks == 0) return "";
  void* parameters[] = {arguments.data()};
  const CudaResult result = driver.launch(function, static_cast<unsigned>(blocks), 1, 1, threads, 1,
                                          1, 0, stream, parameters, nullptr);
  if (result == kCudaSuccess) return "";
  return CudaErrorText(
      driver, "cuLaunchKernel of " + name + " with " + std::to_string(blocks) + " blocks", result);
}

}  // namespace

int CudaShape::all_reductions() const {
  return std::accumulate(reductions.begin(), reductions.end(), 0);
}

const CudaProgram::Functions* CudaProgram::FunctionsIn(const CudaDriver& driver,
                                                       CudaContext context,
                                                       std::string* reason) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = loaded_.find(context);
  if (found != loaded_.end()) return &found->second;
  CudaModule module;
  CudaResult result = driver.load_module(&module, image_.data());
  if (result != kCudaSuccess) {
    *reason = CudaErrorText(driver, "cuModuleLoadData", result);
    return nullptr;
  }
  Functions functions;
  const auto get = [&](const std::string& name) {
    CudaFunction function = nullptr;
    const CudaResult result = driver.get_function(&function, module, name.c_str());
    if (result != kCudaSuccess)
      *reason = CudaErrorText(driver, "cuModuleGetFunction of " + name, result);
    return function;
  };
  for (int pass = 0; pass < shape_.passes(); ++pass) {
    const std::string number = std::to_string(pass);
    functions.scalars.push_back(get("scalars" + number));
    functions.passes.push_back(get("pass" + number));
    functions.totals.push_back(shape_.reductions[pass] > 0 ? get("totals" + number) : nullptr);
  }
  if (shape_.state() > 0) functions.finish = get("finish");
  if (!reason->empty()) return nullptr;
  return &(loaded_[context] = functions);
}

// What the kernels of a step hand to each other.
struct CudaStep::Scratch {
  double* h;
  double* r;
  double* partials;
  float* c;
};

CudaStep::CudaStep(const CudaProgram& program, std::vector<CudaVariable> variables,
                   const CudaScalars& scalars, bool rounds)
    : shape_(program.shape()),
      variables_(std::move(variables)),
      scalars_(scalars),
      rounds_(rounds) {
  const bool own = scalars_.own_rates || scalars_.own_scales || scalars_.own_hyperparameters ||
                   shape_.uses_size;
  shares_row_ = !own && shape_.state() == 0 && shape_.all_reductions() == 0;
  rows_ = shares_row_ ? std::min<size_t>(1, variables_.size()) : variables_.size();
  int64_t chunks = 0;
  for (const CudaVariable& variable : variables_) {
    first_chunk_.push_back(chunks);
    chunks += (variable.size + shape_.chunk - 1) / shape_.chunk;
  }
  first_chunk_.push_back(chunks);
  const int most = *std::max_element(shape_.reductions.begin(), shape_.reductions.end());
  const int64_t doubles =
      static_cast<int64_t>(rows_) * (shape_.width() + shape_.all_reductions()) + most * chunks;
  scratch_bytes_ =
      8 * doubles + static_cast<int64_t>(sizeof(float)) * static_cast<int64_t>(rows_) * shape_.scalars;
}

CudaStep::Scratch CudaStep::Divide(void* scratch) const {
  Scratch parts;
  parts.h = static_cast<double*>(scratch);
  parts.r = parts.h + rows_ * shape_.width();
  parts.partials = parts.r + rows_ * shape_.all_reductions();
  const int most = *std::max_element(shape_.reductions.begin(), shape_.reductions.end());
  parts.c = reinterpret_cast<float*>(parts.partials + most * first_chunk_.back());
  return parts;
}

double* CudaStep::Reductions(void* scratch) const { return Divide(scratch).r; }

std::vector<char> CudaStep::PassArguments(const Scratch& scratch, size_t first,
                                          size_t count) const {
  PassHead head{};
  head.h = scratch.h;
  head.c = scratch.c;
  head.partials = scratch.partials;
  head.chunks = first_chunk_.back();
  head.c_stride = shares_row_ ? 0 : shape_.scalars;
  head.count = static_cast<int32_t>(count);
  head.first = static_cast<int32_t>(first);
  head.first_chunk = static_cast<uint32_t>(first_chunk_[first]);
  head.rounds = rounds_;
  Arguments arguments(head, shape_.pass_variables, 8 * shape_.arrays + 8 + 3 * 4);
  void** const arrays = arguments.Column<void*>(shape_.arrays);
  int64_t* const size = arguments.Column<int64_t>();
  uint32_t* const end = arguments.Column<uint32_t>();
  uint32_t* const formats = arguments.Column<uint32_t>();
  uint32_t* const key = arguments.Column<uint32_t>();
  for (size_t v = 0; v < count; ++v) {
    const CudaVariable& variable = variables_[first + v];
    for (int i = 0; i < shape_.arrays; ++i)
      arrays[v * shape_.arrays + i] = variable.arrays[i].data;
    size[v] = variable.size;
    end[v] = static_cast<uint32_t>(first_chunk_[first + v + 1] - first_chunk_[first]);
    formats[v] = Formats(variable.arrays, shape_.arrays);
    key[v] = variable.key;
  }
  return arguments.Take();
}

std::vector<char> CudaStep::RowArguments(const Scratch& scratch, size_t first,
                                         size_t count) const {
  RowHead head{};
  head.finished = scalars_.finished;
  head.learning_rate = scalars_.learning_rate;
  head.scales = scalars_.scales;
  head.hyperparameters = scalars_.hyperparameters;
  head.h = scratch.h;
  head.c = scratch.c;
  head.partials = scratch.partials;
  head.r = scratch.r;
  head.chunks = first_chunk_.back();
  head.rate_is_double = scalars_.rate_is_double;
  head.rate_stride = scalars_.own_rates;
  head.scale_stride = scalars_.own_scales;
  head.hyperparameter_stride = scalars_.own_hyperparameters ? shape_.hyperparameters : 0;
  head.first = static_cast<int32_t>(first);
  head.variables = static_cast<int32_t>(variables_.size());
  const int states = std::max(1, shape_.state());
  Arguments arguments(head, shape_.row_variables, 8 * states + 8 + 2 * 4);
  double** const state = arguments.Column<double*>(states);
  int64_t* const size = arguments.Column<int64_t>();
  uint32_t* const begin = arguments.Column<uint32_t>();
  uint32_t* const end = arguments.Column<uint32_t>();
  for (size_t v = 0; v < count; ++v) {
    const CudaVariable& variable = variables_[first + v];
    for (int k = 0; k < shape_.state(); ++k) state[v * states + k] = variable.state[k];
    size[v] = variable.size;
    begin[v] = static_cast<uint32_t>(first_chunk_[first + v]);
    end[v] = static_cast<uint32_t>(first_chunk_[first + v + 1]);
  }
  return arguments.Take();
}

std::string CudaStep::Launch(const CudaDriver& driver, const CudaProgram::Functions& functions,
                             void* scratch, CudaStream stream) const {
  if (first_chunk_.back() > std::numeric_limits<int32_t>::max())
    return "The variables are too large for one step.";
  const Scratch parts = Divide(scratch);
  // One block for each variable.
  const auto over_rows = [&](const std::string& name, CudaFunction function, int threads) {
    std::string problem;
    const size_t most = static_cast<size_t>(shape_.row_variables);
    for (size_t first = 0; first < rows_ && problem.empty(); first += most) {
      const size_t count = std::min(most, rows_ - first);
      problem = LaunchOne(driver, name, function, static_cast<int64_t>(count), threads,
                          RowArguments(parts, first, count), stream);
    }
    return problem;
  };
  std::string problem;
  bool changed = false;
  for (int pass = 0; pass < shape_.passes(); ++pass) {
    const std::string number = std::to_string(pass);
    problem = over_rows("scalars" + number, functions.scalars[pass], 1);
    const size_t most = static_cast<size_t>(shape_.pass_variables);
    for (size_t first = 0; first < variables_.size() && problem.empty(); first += most) {
      const size_t count = std::min(most, variables_.size() - first);
      problem = LaunchOne(driver, "pass" + number, functions.passes[pass],
                          first_chunk_[first + count] - first_chunk_[first], kThreads,
                          PassArguments(parts, first, count), stream);
      changed |= problem.empty() && pass == shape_.passes() - 1;
    }
    if (problem.empty() && shape_.reductions[pass] > 0)
      problem = over_rows("totals" + number, functions.totals[pass], kThreads);
    if (!problem.empty()) break;
  }
  if (problem.empty() && shape_.state() > 0) problem = over_rows("finish", functions.finish, 1);
  if (!problem.empty() && changed) problem += "; some of the weights and slots were changed before";
  return problem;
}

namespace {

using CudaKey = std::tuple<std::string, bool, int>;

std::mutex programs_mutex;

std::map<CudaKey, std::shared_ptr<const CudaProgram>>& Programs() {
  static auto* const programs = new std::map<CudaKey, std::shared_ptr<const CudaProgram>>;
  return *programs;
}

}  // namespace

void RegisterCudaProgram(const std::string& name, bool converts, int architecture,
                         std::shared_ptr<const CudaProgram> program) {
  const std::lock_guard<std::mutex> lock(programs_mutex);
  Programs()[{name, converts, architecture}] = std::move(program);
}

std::shared_ptr<const CudaProgram> FindCudaProgram(const std::string& name, bool converts,
                                                   int architecture) {
  const std::lock_guard<std::mutex> lock(programs_mutex);
  const auto found = Programs().find({name, converts, architecture});
  return found == Programs().end() ? nullptr : found->second;
}

std::shared_ptr<const CudaProgram> FindAnyCudaProgram(const std::string& name) {
  const std::lock_guard<std::mutex> lock(programs_mutex);
  for (const auto& [key, program] : Programs())
    if (std::get<0>(key) == name) return program;
  return nullptr;
}

}  // namespace tf_optim_ext
