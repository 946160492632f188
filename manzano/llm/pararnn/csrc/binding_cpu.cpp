// The CPU kernels as a Python module; see binding.h. The last argument is the number of threads.

#include "binding.h"
#include "kernels_cpu.h"

using namespace pararnn;

FUNCTION(fused_forward) {
  Arguments arguments(values, count);
  const FusedForward problem = arguments.forward();
  const int threads = int(arguments.number());
  return call([&] { fused_forward_cpu(problem, threads); });
}

FUNCTION(fused_backward) {
  Arguments arguments(values, count);
  const FusedBackward problem = arguments.backward();
  const int threads = int(arguments.number());
  return call([&] { fused_backward_cpu(problem, threads); });
}

FUNCTION(reduction) {
  Arguments arguments(values, count);
  const Reduction problem = arguments.reduction();
  const int threads = int(arguments.number());
  return call([&] { reduction_cpu(problem, threads); });
}

MODULE(TORCH_EXTENSION_NAME)
