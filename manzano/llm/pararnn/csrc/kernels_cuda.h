// The CUDA kernels' entry points. All run on the given device and stream, do not wait for it, and
// throw std::runtime_error if a launch fails.
#pragma once

#include "fused.h"
#include "reduction.h"

struct CUstream_st;

namespace pararnn {

void fused_forward_cuda(const FusedForward& problem, int device, CUstream_st* stream);
void fused_backward_cuda(const FusedBackward& problem, int device, CUstream_st* stream);
void reduction_cuda(const Reduction& problem, int device, CUstream_st* stream);

// Bytes of scratch memory that `reduction_cuda` needs for a problem.
int64_t reduction_scratch(int element_size, int block, int64_t rows, int64_t steps,
                          int64_t channels);

}  // namespace pararnn
