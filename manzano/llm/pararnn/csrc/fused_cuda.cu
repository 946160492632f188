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

// Steps begin .. end from `state`, which ends as the state after them. kWrite: states (and
// checkpoints) are written. kProduct: `product` becomes (product of Jacobians) `product`.
// kAhead: how many steps are loaded at once, one such batch ahead.
template <typename Cell, typename I, int kAhead, bool kWrite, bool kProduct>
__device__ __forceinline__ void march(const FusedForward& p, const Lane& lane, int64_t begin,
                                      int64_t end, const typename Element<I>::Number* a,
                                      typename Element<I>::Number* state,
                                      typename Element<I>::Number* product) {
  using F = typename Element<I>::Number;
  constexpr int S = Cell::kStates, G = Cell::kGates;
  const int64_t D = p.shape.channels, rows = (p.shape.steps + kCheckpoint - 1) / kCheckpoint;
  const I* from = (const I*)p.preactivations + lane.row * p.strides.row +
                  lane.channel * p.strides.channel;
  I* out = (I*)p.states + (lane.row * p.shape.steps + begin) * S * D + lane.channel;
  F* checkpoints = (F*)p.checkpoints + lane.row * rows * S * D + lane.channel;
  I now[kAhead][G], next[kAhead][G];
  auto load = [&](int64_t t0) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (t0 + k < end) {
#pragma unroll
        for (int g = 0; g < G; ++g)
          next[k][g] = from[(t0 + k) * p.strides.time + g * p.strides.gate];
      }
  };
  load(begin);
  for (int64_t t0 = begin; t0 < end; t0 += kAhead) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
#pragma unroll
      for (int g = 0; g < G; ++g) now[k][g] = next[k][g];
    load(t0 + kAhead);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t t = t0 + k;
      if (t >= end) break;
      if (kWrite && Element<I>::kRounded && t % kCheckpoint == 0)
        for (int s = 0; s < S; ++s) checkpoints[(t / kCheckpoint * S + s) * D] = state[s];
      F u[G], after[S], jacobian[S * S];
#pragma unroll
      for (int g = 0; g < G; ++g) u[g] = widen(now[k][g]);
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
  march<Cell, I, 16, true, false>(p, lane, lane.begin, lane.end, a, state, (F*)nullptr);
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.sweeps = 1;
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
  constexpr int S = Cell::kStates;
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
  // The first guess: a few steps from zero, run up to the chunk.
  if (chunk > 0) {
    const int64_t from = begin - kBurnIn > lane.begin ? begin - kBurnIn : lane.begin;
    if (from > lane.begin)
      for (int s = 0; s < S; ++s) start[s] = 0;
    march<Cell, I, 4, false, false>(p, lane, from, begin, a, start, (F*)nullptr);
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
      march<Cell, I, 4, true, true>(p, lane, begin, end, a, state, product);
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
    march<Cell, I, 4, true, false>(p, lane, lane.cut(unsettled, chunks), lane.end, a, state,
                                   (F*)nullptr);
    residual = 0;
  }
  if (again) ++sweeps;
  if (chunk == 0 && lane.active)  // what is not negative compares as its bits do
    atomicMax((int*)p.residual, __float_as_int(float(residual)));
  if (chunk == 0 && threadIdx.x == 0) atomicMax(p.sweeps, sweeps);
}

template <template <typename> class CellOf, typename I>
void launch(const FusedForward& p, int processors, cudaStream_t stream) {
  using F = typename Element<I>::Number;
  using Cell = CellOf<F>;
  const Launch x = launch_of(p.shape, processors);
  if (p.shape.chunks == 1) {
    LAUNCH((sweep_exactly<Cell, I>), x.grid, x.block, 0, stream, p);
  } else {
    const size_t bytes = Borders<F, Cell::kStates>::bytes(x.block.x * x.block.y, x.block.x);
    LAUNCH((shoot<Cell, I>), x.grid, x.block, bytes, stream, p);
  }
  check(cudaGetLastError(), "launching the fused forward kernel");
}

template <template <typename> class Cell>
void launch_cell(const FusedForward& p, int processors, cudaStream_t stream) {
  switch (p.shape.element) {
    case kFloat: return launch<Cell, float>(p, processors, stream);
    case kDouble: return launch<Cell, double>(p, processors, stream);
    case kBFloat16: return launch<Cell, BFloat16>(p, processors, stream);
    case kHalf: return launch<Cell, Half>(p, processors, stream);
  }
}

}  // namespace

void fused_forward_cuda(const FusedForward& p, int device, cudaStream_t stream) {
  const DeviceGuard guard(device);
  if (p.shape.cell == kGru) launch_cell<Gru>(p, processor_count(device), stream);
  else launch_cell<Lstm>(p, processor_count(device), stream);
}

}  // namespace pararnn
