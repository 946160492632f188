// One block-diagonal linear recurrence, as plain numbers and pointers.
//
//   forward    x_t = A_t x_(t-1) + r_t,       x before the first step is zero
//   reversed   x_t = A_(t+1)^T x_(t+1) + r_t, x after the last step is zero
//
// x and r are (B, T, S, D), A is (B, T, S, S, D), all contiguous; A_t[i, j] couples row j of the
// step before to row i. A sequence within a row begins where A_t is zero.
#pragma once

#include <cstdint>

namespace pararnn {

struct Reduction {
  int is_double, block;  // block: S, 1 to 4
  int reversed;
  int64_t rows, steps, channels;
  const void* blocks;
  const void* right;
  void* solution;
  void* scratch;  // CUDA: reduction_scratch bytes; CPU: null
};

}  // namespace pararnn
