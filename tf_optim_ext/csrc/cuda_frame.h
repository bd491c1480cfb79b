// What the kernels for GPUs are written in. `codegen/cuda.py` puts this file, and those whose functions it
// uses, before the kernels of a program: they are compiled at run time, by NVRTC, without any headers.
//
// The constants of the program come before: kArrays, kHyperparameters, kState,
// kReductions (of all passes), kScalars (of a row of `c`), kUsesSize, kChunk, kPassVariables and
// kRowVariables (of one launch), and CONVERTS, whether some arrays are not float32.
//
// What the threads of a block do is a loop over them, after which each waits for the others. So what
// one hands to another is in shared memory, and a processor can run the same text, as tests do.
#ifndef FOR_EACH_THREAD
#define FOR_EACH_THREAD \
  for (int thread = threadIdx.x, pending = 1; pending; pending = 0, __syncthreads())
#endif

constexpr int kWidth = 4 + kHyperparameters + kState;  // of a row of `h`, see `Width` in kernel.h
constexpr int kStates = kState > 0 ? kState : 1;
constexpr int kQuad = 4;  // elements that a thread reads at once

struct PassTable {
  PassHead head;
  void* arrays[kPassVariables][kArrays];
  int64_t size[kPassVariables];
  uint32_t end[kPassVariables];      // of its chunks, counted from the first of this launch
  uint32_t formats[kPassVariables];  // two bits for each array
  uint32_t key[kPassVariables];      // of the stochastic rounding
};

struct RowTable {
  RowHead head;
  double* state[kRowVariables][kStates];
  int64_t size[kRowVariables];
  uint32_t begin[kRowVariables];  // of its chunks, counted from the first of the step
  uint32_t end[kRowVariables];
};

// Which elements of which variable a block works on.
struct Place {
  int variable;  // of this launch
  int size;
  int64_t begin;
};

static __device__ __forceinline__ Place find_place(const PassTable& table) {
  int low = 0, high = table.head.count - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (table.end[middle] > blockIdx.x) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const uint32_t before = low > 0 ? table.end[low - 1] : 0;
  const int64_t begin = static_cast<int64_t>(blockIdx.x - before) * kChunk;
  const int64_t left = table.size[low] - begin;
  return {low, static_cast<int>(left < kChunk ? left : kChunk), begin};
}

static __device__ __forceinline__ const float* row_of_scalars(const PassTable& table,
                                                              const Place& place) {
  return table.head.c + static_cast<int64_t>(table.head.first + place.variable) * table.head.c_stride;
}

// Four elements of an array, of which there may be fewer at its end.
struct Quad {
  float x[kQuad];
};

#if !CONVERTS

typedef float* Pointer;

static __device__ __forceinline__ Pointer array_of(const PassTable& table, const Place& place,
                                                   int array) {
  return static_cast<float*>(table.arrays[place.variable][array]) + place.begin;
}

static __device__ __forceinline__ uint64_t address_of(Pointer p) {
  return reinterpret_cast<uint64_t>(p);
}

static __device__ __forceinline__ Quad load_some(Pointer p, int first, int count) {
  Quad quad;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) quad.x[k] = k < count ? p[first + k] : 0.0f;
  return quad;
}

static __device__ __forceinline__ Quad load(Pointer p, int first, bool whole, int count) {
  if (!whole) return load_some(p, first, count);
  const float4 v = *reinterpret_cast<const float4*>(p + first);
  return {{v.x, v.y, v.z, v.w}};
}

// Of what is needed once, and shall not drive other things out of the cache.
static __device__ __forceinline__ Quad load_once(Pointer p, int first, bool whole, int count) {
  if (!whole) return load_some(p, first, count);
  const float4 v = __ldcs(reinterpret_cast<const float4*>(p + first));
  return {{v.x, v.y, v.z, v.w}};
}

static __device__ __forceinline__ void store(Pointer p, int first, bool whole, int count,
                                             const Quad& quad) {
  if (whole) {
    *reinterpret_cast<float4*>(p + first) =
        make_float4(quad.x[0], quad.x[1], quad.x[2], quad.x[3]);
    return;
  }
#pragma unroll
  for (int k = 0; k < kQuad; ++k)
    if (k < count) p[first + k] = quad.x[k];
}

#else

struct Pointer {
  void* data;
  uint32_t format;  // `Format` in kernel.h
};

static __device__ __forceinline__ Pointer array_of(const PassTable& table, const Place& place,
                                                   int array) {
  const uint32_t format = table.formats[place.variable] >> (2 * array) & 3u;
  char* const data = static_cast<char*>(table.arrays[place.variable][array]);
  return {data + place.begin * (format == 0 ? 4 : 2), format};
}

static __device__ __forceinline__ uint64_t address_of(Pointer p) {
  return reinterpret_cast<uint64_t>(p.data);
}

static __device__ __forceinline__ float from_16_bits(uint32_t format, uint32_t x) {
  return format == 1 ? from_bfloat16(static_cast<uint16_t>(x))
                     : from_float16(static_cast<uint16_t>(x));
}

static __device__ __forceinline__ Quad load(Pointer p, int first, bool whole, int count) {
  Quad quad;
  if (p.format == 0) {
    const float* const data = static_cast<const float*>(p.data) + first;
    if (whole) {
      const float4 v = *reinterpret_cast<const float4*>(data);
      return {{v.x, v.y, v.z, v.w}};
    }
#pragma unroll
    for (int k = 0; k < kQuad; ++k) quad.x[k] = k < count ? data[k] : 0.0f;
    return quad;
  }
  const uint16_t* const data = static_cast<const uint16_t*>(p.data) + first;
  if (whole) {
    const uint2 v = *reinterpret_cast<const uint2*>(data);
    return {{from_16_bits(p.format, v.x & 0xffffu), from_16_bits(p.format, v.x >> 16),
             from_16_bits(p.format, v.y & 0xffffu), from_16_bits(p.format, v.y >> 16)}};
  }
#pragma unroll
  for (int k = 0; k < kQuad; ++k) quad.x[k] = k < count ? from_16_bits(p.format, data[k]) : 0.0f;
  return quad;
}

static __device__ __forceinline__ Quad load_once(Pointer p, int first, bool whole, int count) {
  return load(p, first, whole, count);
}

static __device__ __forceinline__ void store_16_bits(Pointer p, int first, bool whole, int count,
                                                     const uint16_t* x) {
  uint16_t* const data = static_cast<uint16_t*>(p.data) + first;
  if (whole) {
    *reinterpret_cast<uint2*>(data) =
        make_uint2(x[0] | static_cast<uint32_t>(x[1]) << 16, x[2] | static_cast<uint32_t>(x[3]) << 16);
    return;
  }
#pragma unroll
  for (int k = 0; k < kQuad; ++k)
    if (k < count) data[k] = x[k];
}

static __device__ __forceinline__ void store(Pointer p, int first, bool whole, int count,
                                             const Quad& quad) {
  if (p.format != 0) {
    uint16_t x[kQuad];
#pragma unroll
    for (int k = 0; k < kQuad; ++k)
      x[k] = p.format == 1 ? to_bfloat16(quad.x[k]) : to_float16(quad.x[k]);
    store_16_bits(p, first, whole, count, x);
    return;
  }
  float* const data = static_cast<float*>(p.data) + first;
  if (whole) {
    *reinterpret_cast<float4*>(data) = make_float4(quad.x[0], quad.x[1], quad.x[2], quad.x[3]);
    return;
  }
#pragma unroll
  for (int k = 0; k < kQuad; ++k)
    if (k < count) data[k] = quad.x[k];
}

#endif

// New weights, of which those of 16 bits may be rounded at random.
static __device__ __forceinline__ void store_weights(const PassTable& table, const Place& place,
                                                     Pointer p, int first, bool whole, int count,
                                                     const Quad& quad) {
#if CONVERTS
  if (table.head.rounds && p.format != 0) {
    const uint32_t step = static_cast<uint32_t>(static_cast<int64_t>(table.head.h[0]));
    const uint32_t key = RoundingKey(table.key[place.variable], step);
    uint16_t x[kQuad];
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const uint32_t bits = noise(key, place.begin + first + k);
      x[k] = p.format == 1 ? to_bfloat16(quad.x[k], bits) : to_float16(quad.x[k], bits);
    }
    store_16_bits(p, first, whole, count, x);
    return;
  }
#endif
  store(p, first, whole, count, quad);
}

// Adds to a sum, or takes the larger one, NaN if either is.
template <bool kIsMax>
static __device__ __forceinline__ double combined(double total, double x) {
  if (!kIsMax) return total + x;
  return x > total || x != x ? x : total;
}

template <bool kIsMax>
static __device__ __forceinline__ double combined(const float* x) {
  if (!kIsMax) return static_cast<double>((x[0] + x[1]) + (x[2] + x[3]));
  return static_cast<double>(maximum(maximum(x[0], x[1]), maximum(x[2], x[3])));
}

// Combines what the threads of a block have, in an order that is always the same, into the first.
template <bool kIsMax>
static __device__ __forceinline__ void combine_block(double* of_threads) {
  for (int half = kThreads / 2; half > 0; half /= 2) {
    FOR_EACH_THREAD {
      if (thread < half)
        of_threads[thread] = combined<kIsMax>(of_threads[thread], of_threads[thread + half]);
    }
  }
}

// Combines the chunks of the variable of this block: reduction `partial` of the pass, `total` of all.
template <bool kIsMax>
static __device__ __forceinline__ void combine_chunks(const RowTable& rows, int partial, int total) {
  __shared__ double of_threads[kThreads];
  const double* const partials = rows.head.partials + partial * rows.head.chunks;
  const int64_t variable = rows.head.first + blockIdx.x;
  FOR_EACH_THREAD {
    double own = 0.0;
    for (uint32_t i = rows.begin[blockIdx.x] + thread; i < rows.end[blockIdx.x]; i += kThreads)
      own = combined<kIsMax>(own, partials[i]);
    of_threads[thread] = own;
  }
  combine_block<kIsMax>(of_threads);
  FOR_EACH_THREAD {
    if (thread == 0) rows.head.r[variable * kReductions + total] = of_threads[0];
  }
}

static __device__ __forceinline__ double of_variable(const RowTable& rows, int reduction) {
  return rows.head.r[static_cast<int64_t>(rows.head.first + blockIdx.x) * kReductions + reduction];
}

static __device__ __forceinline__ double over_variables(const RowTable& rows, int reduction) {
  double total = 0.0;
  for (int64_t v = 0; v < rows.head.variables; ++v)
    total += rows.head.r[v * kReductions + reduction];
  return total;
}

// Writes the scalars of the step for one variable. What `ScalarsOfStep` and `SplitScale` do for
// processors.
static __device__ __forceinline__ void fill_row(const RowTable& rows) {
  const RowHead& head = rows.head;
  const int64_t row = head.first + blockIdx.x;
  double* const h = head.h + row * kWidth;
  h[0] = static_cast<double>(*head.finished) + 1.0;
  const int64_t rate = row * head.rate_stride;
  h[1] = head.rate_is_double
             ? static_cast<const double*>(head.learning_rate)[rate]
             : static_cast<double>(static_cast<const float*>(head.learning_rate)[rate]);
  const double scale = head.scales[row * head.scale_stride];
  const bool shrinks = scale != 0.0 && fabs(scale) < 0x1p-126;
  h[2] = shrinks ? scale / 0x1p-126 : scale;
  h[3] = kUsesSize ? static_cast<double>(rows.size[blockIdx.x]) : 0.0;
  for (int k = 0; k < kHyperparameters; ++k)
    h[4 + k] = head.hyperparameters[row * head.hyperparameter_stride + k];
  for (int k = 0; k < kState; ++k) h[4 + kHyperparameters + k] = *rows.state[blockIdx.x][k];
  head.c[row * kScalars] = shrinks ? 0x1p-126f : 1.0f;
}
