// Runs the CUDA kernels of csrc/ on a CPU, so that their indices, barriers, decisions and races are
// tested where no GPU is. It shows nothing of speed or of a GPU's own arithmetic.
//
// The threads of a block are fibers that take turns, in an order that is chosen: one runs up to a
// barrier or shuffle and hands over; it goes on when all have come there. Blocks run one after the
// other. See runtime.cpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define LAUNCH(kernel, grid, block, bytes, stream, ...) \
  cuda_on_cpu::run(grid, block, bytes, [&] { kernel(__VA_ARGS__); })
#define SHARED_MEMORY(name) unsigned char* name = cuda_on_cpu::shared_memory()

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

typedef struct CUstream_st* cudaStream_t;
typedef int cudaError_t;
constexpr cudaError_t cudaSuccess = 0;
constexpr int cudaDevAttrMultiProcessorCount = 0;
inline const char* cudaGetErrorString(cudaError_t) { return "none"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  return memset(p, value, bytes), cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) { return *value = 4, cudaSuccess; }

extern dim3 threadIdx, blockIdx, blockDim;

namespace cuda_on_cpu {

void run(dim3 grid, dim3 block, size_t bytes, const std::function<void()>& kernel);
unsigned char* shared_memory();
void barrier(int line);
bool any(bool vote, int line);
double from_below(double value, int lanes, int line);
int largest(int* target, int value);

}  // namespace cuda_on_cpu

inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_cpu::barrier(line); }
inline int __syncthreads_or(int vote, int line = __builtin_LINE()) {
  return cuda_on_cpu::any(vote != 0, line);
}

template <typename T>
T __shfl_up_sync(unsigned, T value, int lanes, int line = __builtin_LINE()) {
  return T(cuda_on_cpu::from_below(value, lanes, line));
}

inline int __float_as_int(float x) {
  int bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline int atomicMax(int* target, int value) { return cuda_on_cpu::largest(target, value); }
