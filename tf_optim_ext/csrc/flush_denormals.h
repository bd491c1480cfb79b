#ifndef TF_OPTIM_EXT_NATIVE_FLUSH_DENORMALS_H_
#define TF_OPTIM_EXT_NATIVE_FLUSH_DENORMALS_H_

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace tf_optim_ext {

// TensorFlow's worker threads flush denormals, the calling thread may not. A result must not depend
// on who computed it, and slots that decay towards zero must not slow the step down: flush always.
class FlushDenormals {
 public:
#if defined(__SSE__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t{1} << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_FLUSH_DENORMALS_H_
