// Arguments of the kernels for GPUs, as the launcher fills them and as kernels read them: a head of
// fixed size, and then columns with an entry for each variable of the launch.
#ifndef TF_OPTIM_EXT_NATIVE_CUDA_TABLES_H_
#define TF_OPTIM_EXT_NATIVE_CUDA_TABLES_H_

namespace tf_optim_ext {

constexpr int kThreads = 256;  // of a block that works on elements

// Of a pass over memory. The columns: arrays, size, end, formats, key; see `PassTable`.
struct PassHead {
  const double* h;       // scalars of the step
  const float* c;        // what the loop is handed
  double* partials;      // of each reduction, those of all chunks
  int64_t chunks;        // of all variables of the step
  int32_t c_stride;      // from one variable to the next; 0 if they share a row
  int32_t count;         // of variables in this launch
  int32_t first;         // number of the first of them
  uint32_t first_chunk;  // number of its first chunk
  int32_t rounds;        // whether weights of 16 bits are rounded at random
  int32_t unused;
};

// Of what is done once for each variable. The columns: state, size, begin, end; see `RowTable`.
struct RowHead {
  const int64_t* finished;  // updates before this one
  const void* learning_rate;
  const double* scales;
  const double* hyperparameters;
  double* h;
  float* c;
  const double* partials;
  double* r;       // all reductions of each variable
  int64_t chunks;  // of all variables of the step
  int32_t rate_is_double;
  int32_t scale_stride;
  int32_t hyperparameter_stride;
  int32_t first;      // number of the first variable of this launch
  int32_t variables;  // of the step
  int32_t rate_stride;
};

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_CUDA_TABLES_H_
