// Sums the rows of a sparse gradient that have the same index. Plain C++ without TensorFlow.
#ifndef TF_OPTIM_EXT_NATIVE_ROW_SUMS_H_
#define TF_OPTIM_EXT_NATIVE_ROW_SUMS_H_

#include <cstdint>
#include <vector>

#include "driver.h"

namespace tf_optim_ext {

// Which rows of a gradient belong together: those of `indices[k]` are the rows
// `order[starts[k]]`, ..., `order[starts[k + 1] - 1]`, in the order in which they were given.
struct RowGroups {
  std::vector<int64_t> indices;  // increasing
  std::vector<int64_t> starts;   // one more than indices
  std::vector<int64_t> order;
};

// Whether no index occurs twice; `increasing` asks for their order as well.
template <typename Index>
bool AllDifferent(const Index* indices, int64_t count, bool increasing);

// Groups indices in [0, rows).
template <typename Index>
RowGroups GroupRows(const Index* indices, int64_t count, int64_t rows);

// Writes the sums of the rows of each group, one after the other: `width` float32 for each. The
// order of additions is that of the gradient, for any number of threads.
void SumRows(const Table& table, const RowGroups& groups, const Array& values, int64_t width,
             float* sums, const ParallelFor& parallel_for);

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_ROW_SUMS_H_
