// Huge pages for large weights and slots. Plain C++ without TensorFlow.
#ifndef TF_OPTIM_EXT_NATIVE_HUGE_PAGES_H_
#define TF_OPTIM_EXT_NATIVE_HUGE_PAGES_H_

#include <cstddef>

namespace tf_optim_ext {

// Asks the operating system to back an array by huge pages: a sweep then crosses fewer borders, at which
// the processor stops fetching ahead, and rows that are far from each other are found without a walk
// through the page tables each. Does nothing for arrays that are too small to need it, where the system
// or TF_OPTIM_EXT_HUGE_PAGES=off says no, or if it was asked already.
void UseHugePages(void* data, size_t bytes);

}  // namespace tf_optim_ext

#endif  // TF_OPTIM_EXT_NATIVE_HUGE_PAGES_H_
