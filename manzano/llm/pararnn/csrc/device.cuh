// What the CUDA kernels share: element types, launches, and which chunk and channel a thread has.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cells.h"
#include "fused.h"

// A launch, and a block's memory of the size that the launch gives: macros, so that the tests can
// run the kernels where no GPU is.
#ifndef LAUNCH
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#define LAUNCH(kernel, grid, block, bytes, stream, ...) \
  kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#endif

namespace pararnn {

using BFloat16 = __nv_bfloat16;
using Half = __half;

// What an element of type I is computed in.
template <typename I>
struct Element {
  using Number = float;
  static constexpr bool kRounded = true;  // storing a state loses digits
};

template <>
struct Element<float> {
  using Number = float;
  static constexpr bool kRounded = false;
};

template <>
struct Element<double> {
  using Number = double;
  static constexpr bool kRounded = false;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(Half x) { return __half2float(x); }

__device__ __forceinline__ void narrow(float x, float* p) { *p = x; }
__device__ __forceinline__ void narrow(double x, double* p) { *p = x; }
__device__ __forceinline__ void narrow(float x, BFloat16* p) { *p = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, Half* p) { *p = __float2half_rn(x); }

// The cell and the element of a problem, as types.
template <typename CellType, typename ElementType>
struct Kind {
  using Cell = CellType;
  using Element = ElementType;
};

template <template <typename> class Cell, typename Function>
void dispatch_element(int element, Function function) {
  switch (element) {
    case kFloat: return function(Kind<Cell<float>, float>());
    case kDouble: return function(Kind<Cell<double>, double>());
    case kBFloat16: return function(Kind<Cell<float>, BFloat16>());
    case kHalf: return function(Kind<Cell<float>, Half>());
  }
}

// function(Kind) of a problem's own kind.
template <typename Function>
void dispatch(const FusedShape& shape, Function function) {
  if (shape.cell == kGru) dispatch_element<Gru>(shape.element, function);
  else dispatch_element<Lstm>(shape.element, function);
}

// A sequence, the channel and the chunk of one thread. Threads beyond the last channel have no
// steps, but keep step with their block.
struct Lane {
  int64_t row, sequence, begin, end, channel;
  bool active;

  __device__ Lane(const FusedShape& shape) {
    const int64_t tiles = (shape.channels + blockDim.x - 1) / blockDim.x;
    sequence = blockIdx.x / tiles;
    channel = blockIdx.x % tiles * blockDim.x + threadIdx.x;
    active = channel < shape.channels;
    row = shape.starts ? 0 : sequence;
    begin = shape.starts ? shape.starts[sequence] : 0;
    end = shape.starts ? shape.starts[sequence + 1] : shape.steps;
    if (!active) {
      channel = shape.channels - 1;
      end = begin;
    }
  }

  // Where a chunk begins: cuts lie on checkpoints, chunks may be empty.
  __device__ int64_t cut(int64_t chunk, int64_t chunks) const {
    if (chunk == 0) return begin;
    const int64_t at = begin + (end - begin) * chunk / chunks;
    const int64_t aligned = (at + kCheckpoint - 1) / kCheckpoint * kCheckpoint;
    return aligned < end ? aligned : end;
  }
};

// One block is a tile of channels (x) of one sequence, in all its chunks of time (y).
struct Launch {
  dim3 grid, block;
};

inline Launch launch_of(const FusedShape& shape, int processors) {
  int64_t lanes = shape.chunks > 16 ? 16 : 32;
  auto blocks = [&] { return shape.sequences * ((shape.channels + lanes - 1) / lanes); };
  if (shape.chunks > 1 && blocks() < processors) lanes = 16;
  if (blocks() > 2147483647)
    throw std::runtime_error("the fused kernel takes less than 2^31 blocks of channels; got " +
                             std::to_string(blocks()) + ": split the batch");
  return {dim3(unsigned(blocks())), dim3(unsigned(lanes), unsigned(shape.chunks))};
}

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + " has failed: " + cudaGetErrorString(status));
}

// Makes a device current for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != device) check(cudaSetDevice(device), "choosing the device");
  }
  ~DeviceGuard() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

inline int processor_count(int device) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "asking for the number of multiprocessors");
  return count;
}

}  // namespace pararnn
