// The CPU kernels' entry points.
#pragma once

#include "fused.h"
#include "reduction.h"

namespace pararnn {

void fused_forward_cpu(const FusedForward& problem, int threads);
void fused_backward_cpu(const FusedBackward& problem, int threads);
void reduction_cpu(const Reduction& problem, int threads);

}  // namespace pararnn
