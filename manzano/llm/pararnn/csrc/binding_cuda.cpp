// The CUDA kernels as a Python module; see binding.h. The last arguments are device and stream.

#include "binding.h"
#include "kernels_cuda.h"

using namespace pararnn;

FUNCTION(fused_forward) {
  Arguments arguments(values, count);
  const FusedForward problem = arguments.forward();
  const int device = int(arguments.number());
  CUstream_st* stream = arguments.pointer<CUstream_st>();
  return call([&] { fused_forward_cuda(problem, device, stream); });
}

FUNCTION(fused_backward) {
  Arguments arguments(values, count);
  const FusedBackward problem = arguments.backward();
  const int device = int(arguments.number());
  CUstream_st* stream = arguments.pointer<CUstream_st>();
  return call([&] { fused_backward_cuda(problem, device, stream); });
}

FUNCTION(reduction) {
  Arguments arguments(values, count);
  const Reduction problem = arguments.reduction();
  const int device = int(arguments.number());
  CUstream_st* stream = arguments.pointer<CUstream_st>();
  return call([&] { reduction_cuda(problem, device, stream); });
}

FUNCTION(reduction_bytes) {
  Arguments x(values, count);
  const int element_size = int(x.number()), block = int(x.number());
  const int64_t rows = x.number(), steps = x.number(), channels = x.number();
  if (PyErr_Occurred()) return nullptr;
  return PyLong_FromLongLong(
      reduction_scratch(element_size, block, rows, steps, channels));
}

MODULE(TORCH_EXTENSION_NAME, METHOD(reduction_bytes))
