// The fused solver's forward pass on CUDA: one thread a channel, exact or in chunks of time.
//
// Neighbouring threads have neighbouring channels, so that loads and stores of a step are whole
// sectors; every thread has the loads of its next few steps under way while it computes. All chunks
// of a channel lie in one block, which therefore decides by itself, without the host, what is to be
// swept again.

#include "kernels_cuda.h"
#include "device.cuh"

namespace pararnn {
namespace {

// Steps of a batch, by what registers hold: a double takes two.
template <typename I, int kSteps>
constexpr int kBatch = sizeof(I) == 8 ? kSteps / 2 : kSteps;

// Steps begin .. end from `state`, which ends as the state after them. kWrite: states (and
// checkpoints) are written. kProduct: `product` becomes (product of Jacobians) `product`.
// kAhead: time goes in batches of so many steps, cut at its multiples. When half a batch is done,
// the same half of the next one is loaded in its place: half of it to all is under way. In a whole
// batch there is no branch: what does not wait for the state, such as the next steps' loads and
// conversions, fills the waits of the step before.
template <typename Cell, typename I, int kAhead, bool kWrite, bool kProduct>
__device__ __forceinline__ void march(const FusedForward& p, const Lane& lane, int64_t begin,
                                      int64_t end, const typename Element<I>::Number* a,
                                      typename Element<I>::Number* state,
                                      typename Element<I>::Number* product) {
  using F = typename Element<I>::Number;
  constexpr int S = Cell::kStates, G = Cell::kGates;
  static_assert(kCheckpoint % kAhead == 0, "checkpoints lie where batches begin");
  const int64_t D = p.shape.channels, rows = (p.shape.steps + kCheckpoint - 1) / kCheckpoint;
  const I* from = (const I*)p.preactivations + lane.row * p.strides.row +
                  lane.channel * p.strides.channel;
  I* out = (I*)p.states + (lane.row * p.shape.steps + begin) * S * D + lane.channel;
  F* checkpoints = (F*)p.checkpoints + lane.row * rows * S * D + lane.channel;
  I ring[kAhead][G];  // step t lies at t % kAhead
  auto load = [&](int64_t t0, int k, auto whole) {
    if (!decltype(whole)::value && t0 + k >= end) return;
    const I* at = from + (t0 + k) * p.strides.time;
#pragma unroll
    for (int g = 0; g < G; ++g) ring[k][g] = at[g * p.strides.gate];
  };
  auto advance = [&](int64_t t0, auto whole) {
    if (kWrite && Element<I>::kRounded && t0 % kCheckpoint == 0 && t0 >= begin)
      for (int s = 0; s < S; ++s) checkpoints[(t0 / kCheckpoint * S + s) * D] = state[s];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (decltype(whole)::value || (t0 + k >= begin && t0 + k < end)) {
        F u[G], after[S], jacobian[S * S];
#pragma unroll
        for (int g = 0; g < G; ++g) u[g] = widen(ring[k][g]);
        if (kProduct) {
          Cell::step_jacobian(state, u, a, after, jacobian);
          multiply<F, S>(jacobian, product);
        } else {
          Cell::step(state, u, a, after);
        }
#pragma unroll
        for (int s = 0; s < S; ++s) {
          state[s] = after[s];
          if (kWrite) narrow(after[s], out + s * D);
        }
        out += S * D;
      }
      if ((k + 1) % (kAhead / 2) == 0)
#pragma unroll
        for (int i = k + 1 - kAhead / 2; i <= k; ++i) load(t0 + kAhead, i, whole);
    }
  };
  int64_t t0 = begin / kAhead * kAhead;
#pragma unroll
  for (int k = 0; k < kAhead; ++k) load(t0, k, std::false_type());
  for (; t0 < end; t0 += kAhead) {
    if (t0 >= begin && t0 + 2 * kAhead <= end) advance(t0, std::true_type());
    else advance(t0, std::false_type());
  }
  if (kWrite && begin < end && end == lane.end)
    for (int s = 0; s < S; ++s)
      ((F*)p.final)[(lane.sequence * S + s) * D + lane.channel] = state[s];
}

template <typename Cell, typename F>
__device__ __forceinline__ void load_parameters(const void* parameters, int64_t D, int64_t channel,
                                                F* a) {
#pragma unroll
  for (int i = 0; i < Cell::kParameters; ++i) a[i] = ((const F*)parameters)[i * D + channel];
}

template <typename Cell, typename F>
__device__ __forceinline__ void load_initial(const FusedForward& p, const Lane& lane, F* state) {
  const F* from = (const F*)p.initial + lane.sequence * Cell::kStates * p.shape.channels;
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) state[s] = from[s * p.shape.channels + lane.channel];
}

template <typename Cell, typename I>
__global__ void __launch_bounds__(32) sweep_exactly(const FusedForward p) {
  using F = typename Element<I>::Number;
  const Lane lane(p.shape);
  F a[Cell::kParameters], state[Cell::kStates];
  load_parameters<Cell, F>(p.parameters, p.shape.channels, lane.channel, a);
  load_initial<Cell, F>(p, lane, state);
  march<Cell, I, kBatch<I, 16>, true, false>(p, lane, lane.begin, lane.end, a, state,
                                             (F*)nullptr);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    *p.sweeps = 1;
    *p.residual = 0;
  }
}

// A block's memory of multiple shooting, by chunk and lane.
template <typename F, int S>
struct Borders {
  F *starts, *ends, *products;  // (chunks, S, lanes), the same, (chunks, S * S, lanes)
  int* unsettled;               // (lanes): the first chunk in doubt, or the number of chunks

  static size_t bytes(int64_t threads, int64_t lanes) {
    return threads * (2 * S + S * S) * sizeof(F) + lanes * sizeof(int);
  }

  __device__ explicit Borders(unsigned char* memory) {
    const int threads = blockDim.x * blockDim.y;
    starts = (F*)memory;
    ends = starts + threads * S;
    products = ends + threads * S;
    unsettled = (int*)(products + threads * S * S);
  }

  __device__ static int at(int chunk, int s) { return (chunk * S + s) * blockDim.x + threadIdx.x; }
};

// Newton's correction of one lane's starts, in order of time; a lane that has settled keeps its own.
// Returns the largest doubt in one.
template <typename F, int S>
__device__ F correct(Borders<F, S>& x, const FusedForward& p, const F* bound) {
  const int chunks = blockDim.y;
  F largest = 0;
  // The first time finds out whether the lane has settled, the second time moves its starts.
  for (int writes = 0; writes < 2; ++writes) {
    int unsettled = chunks;
    F moved[S] = {};
    for (int c = 1; c < chunks; ++c) {
      F end[S], product[S * S], next[S];
      for (int s = 0; s < S; ++s) end[s] = x.ends[Borders<F, S>::at(c - 1, s)];
      for (int i = 0; i < S * S; ++i)
        product[i] = x.products[((c - 1) * S * S + i) * blockDim.x + threadIdx.x];
      for (int s = 0; s < S; ++s)
        next[s] = corrected_start<F, S>(s, end, product, moved, bound[s]);
      for (int s = 0; s < S; ++s) {
        F& start = x.starts[Borders<F, S>::at(c, s)];
        moved[s] = next[s] - start;
        const F doubt = unsettled_by(end[s], start, next[s]);
        if (!(doubt <= F(p.tolerance) * bound[s]) && unsettled == chunks) unsettled = c;
        if (doubt > largest) largest = doubt;
        if (writes) start = next[s];
      }
    }
    if (!writes) x.unsettled[threadIdx.x] = unsettled;
    if (unsettled == chunks) break;
  }
  return largest;
}

template <typename Cell, typename I>
__global__ void __launch_bounds__(512) shoot(const FusedForward p) {
  using F = typename Element<I>::Number;
  constexpr int S = Cell::kStates, K = kBatch<I, 8>;
  SHARED_MEMORY(memory);
  Borders<F, S> x(memory);
  const Lane lane(p.shape);
  const int chunk = threadIdx.y, chunks = blockDim.y;
  const int64_t begin = lane.cut(chunk, chunks), end = lane.cut(chunk + 1, chunks);
  F a[Cell::kParameters], start[S], state[S], product[S * S], bound[S];
  load_parameters<Cell, F>(p.parameters, p.shape.channels, lane.channel, a);
  load_initial<Cell, F>(p, lane, start);
  for (int s = 0; s < S; ++s) {
    const F size = start[s] < F(0) ? -start[s] : start[s];
    bound[s] = size > F(1) ? size : F(1);
  }
  // The first guess: a few steps from zero, run up to the chunk. They cost little beside a long
  // chunk, and where they are enough, no chunk is swept twice.
  if (chunk > 0) {
    const int64_t eighth = (lane.end - lane.begin) / chunks / 8;
    const int64_t run_up = eighth > kBurnIn ? eighth : kBurnIn;
    const int64_t from = begin - run_up > lane.begin ? begin - run_up : lane.begin;
    if (from > lane.begin)
      for (int s = 0; s < S; ++s) start[s] = 0;
    march<Cell, I, K, false, false>(p, lane, from, begin, a, start, (F*)nullptr);
  }
  for (int s = 0; s < S; ++s) x.starts[Borders<F, S>::at(chunk, s)] = start[s];

  bool pending = true, again = true;
  F residual = 0;
  int sweeps = 0;
  while (again && sweeps < p.max_sweeps) {
    ++sweeps;
    if (pending) {
      for (int s = 0; s < S; ++s) state[s] = start[s];
      for (int i = 0; i < S * S; ++i) product[i] = i % (S + 1) == 0;
      march<Cell, I, K, true, true>(p, lane, begin, end, a, state, product);
      for (int s = 0; s < S; ++s) x.ends[Borders<F, S>::at(chunk, s)] = state[s];
      for (int i = 0; i < S * S; ++i)
        x.products[(chunk * S * S + i) * blockDim.x + threadIdx.x] = product[i];
    }
    __syncthreads();
    if (chunk == 0) residual = correct<F, S>(x, p, bound);
    __syncthreads();
    pending = false;
    for (int s = 0; s < S; ++s) {
      const F moved = x.starts[Borders<F, S>::at(chunk, s)];
      pending = pending || moved != start[s];
      start[s] = moved;
    }
    again = __syncthreads_or(x.unsettled[threadIdx.x] < chunks);
  }

  // The last resort: an exact sweep of what follows the last chunk that has settled.
  const int unsettled = x.unsettled[threadIdx.x];
  if (chunk == 0 && unsettled < chunks) {
    for (int s = 0; s < S; ++s) state[s] = x.ends[Borders<F, S>::at(unsettled - 1, s)];
    march<Cell, I, K, true, false>(p, lane, lane.cut(unsettled, chunks), lane.end, a, state,
                                   (F*)nullptr);
    residual = 0;
  }
  if (again) ++sweeps;
  if (chunk == 0 && lane.active)  // what is not negative compares as its bits do
    atomicMax((int*)p.residual, __float_as_int(float(residual)));
  if (chunk == 0 && threadIdx.x == 0) atomicMax(p.sweeps, sweeps);
}

template <typename Cell, typename I>
void launch(const FusedForward& p, int processors, cudaStream_t stream) {
  using F = typename Element<I>::Number;
  const Launch x = launch_of(p.shape, processors);
  if (p.shape.chunks == 1) {
    LAUNCH((sweep_exactly<Cell, I>), x.grid, x.block, 0, stream, p);
  } else {
    const size_t bytes = Borders<F, Cell::kStates>::bytes(x.block.x * x.block.y, x.block.x);
    check(cudaMemsetAsync(p.sweeps, 0, sizeof(int32_t), stream), "clearing the count of sweeps");
    check(cudaMemsetAsync(p.residual, 0, sizeof(float), stream), "clearing the residual");
    LAUNCH((shoot<Cell, I>), x.grid, x.block, bytes, stream, p);
  }
  check(cudaGetLastError(), "launching the fused forward kernel");
}

}  // namespace

void fused_forward_cuda(const FusedForward& p, int device, cudaStream_t stream) {
  const DeviceGuard guard(device);
  dispatch(p.shape, [&](auto kind) {
    using Kind = decltype(kind);
    launch<typename Kind::Cell, typename Kind::Element>(p, processor_count(device), stream);
  });
}

}  // namespace pararnn
