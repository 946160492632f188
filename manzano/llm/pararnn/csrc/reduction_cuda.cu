// The linear recurrence x_i = A_i x_(i-1) + r_i on CUDA, reduced in four levels:
//
//   thread    kPiece steps in order
//   warp      8 channels (one sector of memory) by 4 pieces of time, combined by shuffles
//   block     kWarps warps, combined in shared memory; a block walks along its stretch of time
//   sequence  where channels are few, several stretches: their ends first, then the ends' own
//             recurrence, then all steps
//
// A piece of time is the affine map x -> A x + b; `second after first` is (A2 A1, A2 b1 + b2).

#include <algorithm>

#include "kernels_cuda.h"
#include "device.cuh"

namespace pararnn {
namespace {

constexpr int kChannels = 8, kPieces = 4, kWarps = 8, kPiece = 4;
constexpr int kThreads = kWarps * kChannels * kPieces;
constexpr int kSegment = kWarps * kPieces * kPiece;  // steps a block takes at once

template <typename F, int S>
struct Affine {
  F a[S * S], b[S];

  static __device__ __forceinline__ Affine identity() {
    Affine x;
#pragma unroll
    for (int i = 0; i < S * S; ++i) x.a[i] = i % (S + 1) == 0;
#pragma unroll
    for (int s = 0; s < S; ++s) x.b[s] = 0;
    return x;
  }

  // b <- A b of `step` plus its own, and so the whole map.
  __device__ __forceinline__ void follow(const Affine& step) {
    step.apply(b);
    multiply<F, S>(step.a, a);
  }

  __device__ __forceinline__ void apply(F* x) const {
    F result[S];
#pragma unroll
    for (int i = 0; i < S; ++i) {
      result[i] = b[i];
#pragma unroll
      for (int j = 0; j < S; ++j) result[i] += a[i * S + j] * x[j];
    }
#pragma unroll
    for (int i = 0; i < S; ++i) x[i] = result[i];
  }
};

// Step i in the direction of the recurrence; beyond the last one it is the identity.
template <typename F, int S>
__device__ __forceinline__ Affine<F, S> load_step(const Reduction& p, int64_t row, int64_t channel,
                                                  int64_t i) {
  if (i >= p.steps) return Affine<F, S>::identity();
  const int64_t D = p.channels, t = row * p.steps + (p.reversed ? p.steps - 1 - i : i);
  const F* right = (const F*)p.right + t * S * D + channel;
  // Reversed, step t has the block of step t + 1, transposed. The first step follows on nothing.
  const F* block = (const F*)p.blocks + (p.reversed ? t + 1 : t) * S * S * D + channel;
  Affine<F, S> x;
#pragma unroll
  for (int s = 0; s < S; ++s) x.b[s] = right[s * D];
#pragma unroll
  for (int r = 0; r < S; ++r)
#pragma unroll
    for (int c = 0; c < S; ++c)
      x.a[r * S + c] = i == 0 ? F(0) : block[(p.reversed ? c * S + r : r * S + c) * D];
  return x;
}

template <typename F, int S>
__device__ __forceinline__ Affine<F, S> from_below(const Affine<F, S>& x, int lanes) {
  Affine<F, S> y;
#pragma unroll
  for (int i = 0; i < S * S; ++i) y.a[i] = __shfl_up_sync(0xffffffffu, x.a[i], lanes);
#pragma unroll
  for (int s = 0; s < S; ++s) y.b[s] = __shfl_up_sync(0xffffffffu, x.b[s], lanes);
  return y;
}

enum Mode : int { kWhole, kEnds, kApply };

// Scratch memory: for every row, stretch and channel the stretch's map, then the x it begins from.
template <typename F, int S>
struct Scratch {
  F *maps, *starts;
  int64_t stretches, channels;

  __device__ Scratch(const Reduction& p, int64_t stretches)
      : maps((F*)p.scratch), starts(maps + p.rows * stretches * p.channels * (S * S + S)),
        stretches(stretches), channels(p.channels) {}

  __device__ F* map(int64_t row, int64_t stretch, int i, int64_t channel) const {
    return maps + ((row * stretches + stretch) * (S * S + S) + i) * channels + channel;
  }

  __device__ F* start(int64_t row, int64_t stretch, int s, int64_t channel) const {
    return starts + ((row * stretches + stretch) * S + s) * channels + channel;
  }
};

// One block: kChannels channels of one row along one stretch. kWhole: the stretch is all of time.
// kEnds: only the stretch's map is stored. kApply: it begins from what `chain_stretches` has found.
template <typename F, int S>
__global__ void __launch_bounds__(kThreads) reduce(const Reduction p, int64_t stretches,
                                                   Mode mode) {
  __shared__ F tails[kWarps][S * S + S][kChannels];
  const int64_t tiles = (p.channels + kChannels - 1) / kChannels;
  const int64_t stretch = blockIdx.x % stretches, tile = blockIdx.x / stretches % tiles;
  const int64_t row = blockIdx.x / stretches / tiles;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = lane % kChannels, piece = lane / kChannels;
  const bool active = tile * kChannels + column < p.channels;
  const int64_t channel = active ? tile * kChannels + column : p.channels - 1;
  const Scratch<F, S> scratch(p, stretches);
  const int64_t segments = (p.steps + kSegment - 1) / kSegment;
  const int64_t first = segments * stretch / stretches, last = segments * (stretch + 1) / stretches;

  F carried[S] = {};
  Affine<F, S> whole = Affine<F, S>::identity();
  if (mode == kApply)
    for (int s = 0; s < S; ++s) carried[s] = *scratch.start(row, stretch, s, channel);
  for (int64_t segment = first; segment < last; ++segment) {
    const int64_t begin = segment * kSegment + (warp * kPieces + piece) * kPiece;
    // Thread, then warp: the map of all pieces up to this one.
    Affine<F, S> upto = Affine<F, S>::identity();
#pragma unroll
    for (int k = 0; k < kPiece; ++k)
      upto.follow(load_step<F, S>(p, row, channel, begin + k));
#pragma unroll
    for (int distance = 1; distance < kPieces; distance *= 2) {
      Affine<F, S> before = from_below(upto, distance * kChannels);
      if (piece >= distance) {
        before.follow(upto);
        upto = before;
      }
    }
    // Block: every thread follows the warps' tails.
    if (piece == kPieces - 1) {
      for (int i = 0; i < S * S; ++i) tails[warp][i][column] = upto.a[i];
      for (int s = 0; s < S; ++s) tails[warp][S * S + s][column] = upto.b[s];
    }
    __syncthreads();
    F x[S];
    for (int w = 0; w < kWarps; ++w) {
      Affine<F, S> tail;
      for (int i = 0; i < S * S; ++i) tail.a[i] = tails[w][i][column];
      for (int s = 0; s < S; ++s) tail.b[s] = tails[w][S * S + s][column];
      if (w == warp)
        for (int s = 0; s < S; ++s) x[s] = carried[s];
      tail.apply(carried);
      if (mode == kEnds) whole.follow(tail);
    }
    __syncthreads();
    if (mode == kEnds) continue;
    const Affine<F, S> before = from_below(upto, kChannels);
    if (piece > 0) before.apply(x);
    for (int k = 0; k < kPiece; ++k) {
      const int64_t i = begin + k;
      if (i >= p.steps || !active) break;
      load_step<F, S>(p, row, channel, i).apply(x);
      const int64_t t = row * p.steps + (p.reversed ? p.steps - 1 - i : i);
      for (int s = 0; s < S; ++s) ((F*)p.solution)[(t * S + s) * p.channels + channel] = x[s];
    }
  }
  if (mode == kEnds && threadIdx.x < kChannels && active) {
    for (int i = 0; i < S * S; ++i) *scratch.map(row, stretch, i, channel) = whole.a[i];
    for (int s = 0; s < S; ++s) *scratch.map(row, stretch, S * S + s, channel) = whole.b[s];
  }
}

// The recurrence of the stretches' ends: one thread a channel.
template <typename F, int S>
__global__ void chain_stretches(const Reduction p, int64_t stretches) {
  const int64_t index = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (index >= p.rows * p.channels) return;
  const int64_t row = index / p.channels, channel = index % p.channels;
  const Scratch<F, S> scratch(p, stretches);
  F x[S] = {};
  for (int64_t stretch = 0; stretch < stretches; ++stretch) {
    Affine<F, S> map;
    for (int i = 0; i < S * S; ++i) map.a[i] = *scratch.map(row, stretch, i, channel);
    for (int s = 0; s < S; ++s) map.b[s] = *scratch.map(row, stretch, S * S + s, channel);
    for (int s = 0; s < S; ++s) *scratch.start(row, stretch, s, channel) = x[s];
    map.apply(x);
  }
}

int64_t tile_count(int64_t rows, int64_t channels) {
  return rows * ((channels + kChannels - 1) / kChannels);
}

// Stretches of time: as many as fill a large GPU, each of some segments.
int64_t stretch_count(int64_t rows, int64_t steps, int64_t channels) {
  const int64_t wanted = 512 / tile_count(rows, channels), most = steps / (8 * kSegment);
  return std::max<int64_t>(1, std::min<int64_t>({wanted, most, 64}));
}

template <typename F, int S>
void launch(const Reduction& p, cudaStream_t stream) {
  const int64_t stretches = stretch_count(p.rows, p.steps, p.channels);
  const int64_t blocks = tile_count(p.rows, p.channels) * stretches;
  if (blocks > 2147483647)
    throw std::runtime_error("the reduction takes less than 2^31 blocks of channels; got " +
                             std::to_string(blocks) + ": split the batch");
  const dim3 grid((unsigned)blocks), block(kThreads);
  if (stretches == 1) {
    LAUNCH((reduce<F, S>), grid, block, 0, stream, p, stretches, kWhole);
  } else {
    const dim3 lanes(unsigned((p.rows * p.channels + 127) / 128));
    LAUNCH((reduce<F, S>), grid, block, 0, stream, p, stretches, kEnds);
    check(cudaGetLastError(), "launching the reduction of stretches");
    LAUNCH((chain_stretches<F, S>), lanes, dim3(128), 0, stream, p, stretches);
    check(cudaGetLastError(), "launching the chain of stretches");
    LAUNCH((reduce<F, S>), grid, block, 0, stream, p, stretches, kApply);
  }
  check(cudaGetLastError(), "launching the reduction");
}

template <typename F>
void of_block(const Reduction& p, cudaStream_t stream) {
  switch (p.block) {
    case 1: return launch<F, 1>(p, stream);
    case 2: return launch<F, 2>(p, stream);
    case 3: return launch<F, 3>(p, stream);
    case 4: return launch<F, 4>(p, stream);
  }
}

}  // namespace

int64_t reduction_scratch(int element_size, int block, int64_t rows, int64_t steps,
                          int64_t channels) {
  const int64_t stretches = stretch_count(rows, steps, channels);
  if (stretches == 1) return 0;
  return rows * stretches * channels * (block * block + 2 * block) * element_size;
}

void reduction_cuda(const Reduction& p, int device, cudaStream_t stream) {
  const DeviceGuard guard(device);
  if (p.is_double) of_block<double>(p, stream);
  else of_block<float>(p, stream);
}

}  // namespace pararnn
