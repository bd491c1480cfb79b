// Runs the kernels for GPUs on a processor, block after block and thread after thread: what CUDA has and
// C++ has not. Each kernel becomes a function; see `emulated.py`.
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __grid_constant__
#define __shared__ static thread_local

#define FOR_EACH_THREAD for (int thread = 0; thread < kThreads; ++thread)

struct Index {
  unsigned x;
};
static thread_local Index blockIdx;

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline float4 __ldcs(const float4* p) { return *p; }
