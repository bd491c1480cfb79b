// Runs one kernel over arrays that NumPy holds: for tests of rules that are in no optimizer.
#include <cstdint>
#include <vector>

#include "driver.h"

namespace toe = tf_optim_ext;

// The state is written; that of a kernel by row, for each number that of every row, is read, too.
// Returns 0; 1 if this processor lacks the instruction set; 2 if there is no such kernel.
extern "C" __attribute__((visibility("default"))) int run(const char* instruction_set,
                                                          const char* name, int64_t rows,
                                                          int64_t width, void* const* data,
                                                          const int* formats, const double* h,
                                                          double* state) {
  const toe::Table* table = toe::FindTable(instruction_set);
  if (table == nullptr) return 1;
  const toe::Kernel* kernel = toe::FindKernel(*table, name);
  if (kernel == nullptr) return 2;
  std::vector<toe::Array> arrays;
  for (int i = 0; i < 2 + kernel->slots; ++i)
    arrays.push_back({data[i], static_cast<toe::Format>(formats[i])});
  std::vector<double> scalars(h, h + toe::Width(*kernel));
  std::vector<double*> rows_state;
  for (int k = 0; k < toe::StateScalars(*kernel); ++k) rows_state.push_back(state + k * rows);
  toe::Run(*table, {kernel},
           {{rows * width, width, arrays.data(), nullptr, scalars.data(), state,
             rows_state.data(), nullptr}},
           false, [](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& work) {
             work(0, count);
           });
  return 0;
}
