// Runs the CUDA kernels of csrc/ on a CPU, so that their indices, barriers and decisions are tested
// where no GPU is. It shows nothing of races, speed or a GPU's own arithmetic.
//
// The threads of a block are fibers that take turns: __syncthreads hands over to the next one, and
// returns once all have come to it. Blocks run one after the other.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define LAUNCH(kernel, grid, block, bytes, stream, ...) \
  cuda_on_cpu::run(grid, block, bytes, [&] { kernel(__VA_ARGS__); })
#define SHARED_MEMORY(name) unsigned char* name = cuda_on_cpu::memory.data()

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
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) { return *value = 4, cudaSuccess; }

inline dim3 threadIdx, blockIdx, blockDim;

namespace cuda_on_cpu {

struct Fiber {
  ucontext_t context;
  std::vector<unsigned char> stack;
  dim3 thread;
  bool done;
};

inline std::vector<Fiber> fibers;
inline std::vector<unsigned char> memory;
inline std::vector<double> exchanged;
inline size_t current;
inline int votes, votes_before;
inline ucontext_t outside;
inline const std::function<void()>* body;

inline void enter() {
  (*body)();
  fibers[current].done = true;
}

inline void run_block() {
  for (bool running = true; running;) {
    running = false;
    votes_before = votes;
    votes = 0;
    for (current = 0; current < fibers.size(); ++current) {
      if (fibers[current].done) continue;
      threadIdx = fibers[current].thread;
      swapcontext(&outside, &fibers[current].context);
      running = running || !fibers[current].done;
    }
  }
}

inline void run(dim3 grid, dim3 block, size_t bytes, const std::function<void()>& kernel) {
  memory.assign(bytes, 0xff);  // what is read unwritten is no number
  fibers.resize(block.x * block.y);
  exchanged.resize(fibers.size());
  blockDim = block;
  body = &kernel;
  for (unsigned b = 0; b < grid.x; ++b) {
    blockIdx = dim3(b, 0, 0);
    for (size_t i = 0; i < fibers.size(); ++i) {
      Fiber& fiber = fibers[i];
      fiber.stack.resize(1 << 16);
      fiber.thread = dim3(unsigned(i) % block.x, unsigned(i) / block.x, 0);
      fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = &outside;
      makecontext(&fiber.context, enter, 0);
    }
    run_block();
  }
}

}  // namespace cuda_on_cpu

inline void __syncthreads() {
  using namespace cuda_on_cpu;
  swapcontext(&fibers[current].context, &outside);
}

inline int __syncthreads_or(int vote) {
  cuda_on_cpu::votes += vote != 0;
  __syncthreads();
  return cuda_on_cpu::votes_before != 0;
}

// All threads of a block come to a shuffle together in these kernels.
template <typename T>
T __shfl_up_sync(unsigned, T value, int distance) {
  using namespace cuda_on_cpu;
  const size_t self = current;
  exchanged[self] = value;
  __syncthreads();
  const T result = T(int(self % 32) >= distance ? exchanged[self - distance] : exchanged[self]);
  __syncthreads();
  return result;
}

inline int __float_as_int(float x) {
  int bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline int atomicMax(int* target, int value) {
  const int before = *target;
  *target = std::max(before, value);
  return before;
}
