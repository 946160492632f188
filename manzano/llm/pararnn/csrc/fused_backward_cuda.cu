// The fused solver's backward pass on CUDA: one sweep back through time, or, in chunks, two.
//
// lambda and M are as in fused_backward_cpu.cpp; threads and chunks as in fused_cuda.cu.

#include "kernels_cuda.h"
#include "device.cuh"

namespace pararnn {
namespace {

// Steps that a thread loads at once: a stretch between checkpoints where states are computed anew,
// else what registers hold, of which a double takes two.
template <typename I>
constexpr int kStretch = Element<I>::kRounded ? kCheckpoint : 32 / sizeof(I);

template <typename Cell, typename I>
struct Reverse {
  using F = typename Element<I>::Number;
  static constexpr int S = Cell::kStates, G = Cell::kGates, P = Cell::kParameters;
  static constexpr int K = kStretch<I>;
  static constexpr bool kRecompute = Element<I>::kRounded;

  const FusedBackward& p;
  const Lane& lane;
  const int64_t D;
  F a[P];

  __device__ Reverse(const FusedBackward& problem, const Lane& lane)
      : p(problem), lane(lane), D(problem.shape.channels) {
#pragma unroll
    for (int i = 0; i < P; ++i) a[i] = ((const F*)p.parameters)[i * D + lane.channel];
  }

  // Inputs of the steps of one stretch. previous: the states before them; where states are computed
  // anew, only that before the first is loaded.
  struct Stretch {
    I u[K][G], gradient[K][S];
    F previous[K][S];
  };

  // The state that the first step of a stretch begins from.
  __device__ __forceinline__ void load_first(int64_t t, F* state) const {
    const F* from = (const F*)p.initial + lane.sequence * S * D + lane.channel;
    if (t != lane.begin && kRecompute) {
      const int64_t rows = (p.shape.steps + kCheckpoint - 1) / kCheckpoint;
      from = (const F*)p.saved + (lane.row * rows + t / kCheckpoint) * S * D + lane.channel;
    } else if (t != lane.begin) {
      from = state_after(t - 1);
    }
#pragma unroll
    for (int s = 0; s < S; ++s) state[s] = from[s * D];
  }

  __device__ __forceinline__ const F* state_after(int64_t t) const {
    return (const F*)p.saved + (lane.row * p.shape.steps + t) * S * D + lane.channel;
  }

  __device__ __forceinline__ void load(int64_t from, int count, Stretch& x) const {
    const I* u = (const I*)p.preactivations + lane.row * p.strides.row +
                 lane.channel * p.strides.channel + from * p.strides.time;
    const I* gradient = (const I*)p.grad_states + lane.row * p.grad_strides.row +
                        lane.channel * p.grad_strides.channel + from * p.grad_strides.time;
    const F* before = state_after(from - 1);
    load_first(from, x.previous[0]);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (k < count) {
#pragma unroll
        for (int g = 0; g < G; ++g) x.u[k][g] = u[g * p.strides.gate];
#pragma unroll
        for (int s = 0; s < S; ++s) x.gradient[k][s] = gradient[s * p.grad_strides.gate];
        if (!kRecompute && k > 0)
#pragma unroll
          for (int s = 0; s < S; ++s) x.previous[k][s] = before[s * D];
      }
      u += p.strides.time;
      gradient += p.grad_strides.time;
      before += S * D;
    }
  }

  __device__ __forceinline__ static void widen_all(const I* from, F* to) {
#pragma unroll
    for (int g = 0; g < G; ++g) to[g] = widen(from[g]);
  }

  __device__ __forceinline__ void recompute(int count, Stretch& x) const {
#pragma unroll
    for (int k = 0; k + 1 < K; ++k)
      if (k + 1 < count) {
        F u[G];
        widen_all(x.u[k], u);
        Cell::step(x.previous[k], u, a, x.previous[k + 1]);
      }
  }

  // Back through the steps from .. from + count, as `run`. A whole stretch has no branches, so that
  // what does not wait for lambda fills its waits.
  template <bool kApply, bool kWhole>
  __device__ __forceinline__ void pass(int64_t from, int count, Stretch& x, F* lambda, F* totals,
                                       F* transfer) const {
    if (kWhole) count = K;
    I* out = (I*)p.grad_preactivations + (lane.row * p.shape.steps + from) * G * D + lane.channel;
    if (kRecompute) recompute(count, x);
    F sums[P] = {};  // of a few steps first: shorter sums round less
#pragma unroll
    for (int k = K - 1; k >= 0; --k)
      if (k < count) {
        F u[G], mu[S];
        widen_all(x.u[k], u);
#pragma unroll
        for (int s = 0; s < S; ++s) mu[s] = lambda[s] + widen(x.gradient[k][s]);
        if (kApply) {
          F du[G];
          Cell::adjoint(x.previous[k], u, a, mu, lambda, du, sums);
#pragma unroll
          for (int g = 0; g < G; ++g) narrow(du[g], out + (k * G + g) * D);
        } else {
          F after[S], jacobian[S * S];
          Cell::step_jacobian(x.previous[k], u, a, after, jacobian);
          transfer_back<F, S>(jacobian, mu, lambda, transfer);
        }
      }
    if (kApply)
#pragma unroll
      for (int i = 0; i < P; ++i) totals[i] += sums[i];
  }

  // Back through steps begin .. end: lambda goes from their end to their begin. kApply: gradients
  // are written and the parameters' added to `totals`; else `transfer` becomes M `transfer`.
  // kWholes: with passes of their own for whole stretches, which take more registers.
  template <bool kApply, bool kWholes>
  __device__ __forceinline__ void run(int64_t begin, int64_t end, F* lambda, F* totals,
                                      F* transfer) const {
    for (int64_t stop = end, from; stop > begin; stop = from) {
      from = (stop - 1) / K * K;
      if (from < begin) from = begin;
      const int count = int(stop - from);
      Stretch x;
      load(from, count, x);
      if (kWholes && count == K) pass<kApply, true>(from, count, x, lambda, totals, transfer);
      else pass<kApply, false>(from, count, x, lambda, totals, transfer);
    }
  }

  // lambda at the end of the sequence.
  __device__ void load_final(F* lambda) const {
    const F* from = (const F*)p.grad_final + lane.sequence * S * D + lane.channel;
#pragma unroll
    for (int s = 0; s < S; ++s) lambda[s] = from[s * D];
  }

  __device__ void store_results(const F* lambda, const F* totals) const {
    if (!lane.active) return;
    F* initial = (F*)p.grad_initial + lane.sequence * S * D + lane.channel;
    F* parameters = (F*)p.grad_parameters + lane.sequence * P * D + lane.channel;
#pragma unroll
    for (int s = 0; s < S; ++s) initial[s * D] = lambda[s];
#pragma unroll
    for (int i = 0; i < P; ++i) parameters[i * D] = totals[i];
  }
};

template <typename Cell, typename I>
__global__ void __launch_bounds__(32) reverse_exactly(const FusedBackward p) {
  using F = typename Element<I>::Number;
  const Lane lane(p.shape);
  const Reverse<Cell, I> reverse(p, lane);
  F lambda[Cell::kStates], totals[Cell::kParameters] = {};
  reverse.load_final(lambda);
  reverse.template run<true, true>(lane.begin, lane.end, lambda, totals, nullptr);
  reverse.store_results(lambda, totals);
}

// From every chunk's q (in `lambdas`) and M to the lambda at every chunk's end, for one lane, from
// the last one's, `carried`; false where those are not finite, as a chunk's M may be although the
// gradient itself is.
template <typename F, int S>
__device__ bool chain(F* lambdas, const F* transfers, F* carried) {
  const int width = blockDim.x, lane = threadIdx.x;
  bool finite = true;
  for (int c = int(blockDim.y) - 1; c >= 0; --c) {
    F next[S];
    for (int i = 0; i < S; ++i) {
      next[i] = lambdas[(c * S + i) * width + lane];
      for (int j = 0; j < S; ++j)
        next[i] += transfers[((c * S + i) * S + j) * width + lane] * carried[j];
      finite = finite && next[i] - next[i] == F(0);
    }
    for (int i = 0; i < S; ++i) {
      lambdas[(c * S + i) * width + lane] = carried[i];
      carried[i] = next[i];
    }
  }
  return finite;
}

template <typename F, int S, int P>
size_t chunked_bytes(int64_t threads) {
  return threads * (S + (S * S > P ? S * S : P)) * sizeof(F);
}

template <typename Cell, typename I>
__global__ void __launch_bounds__(512) reverse_chunked(const FusedBackward p) {
  using F = typename Element<I>::Number;
  constexpr int S = Cell::kStates, P = Cell::kParameters;
  SHARED_MEMORY(memory);
  const int width = blockDim.x, chunks = blockDim.y, chunk = threadIdx.y;
  F* lambdas = (F*)memory;                       // (chunks, S, lanes)
  F* transfers = lambdas + width * chunks * S;   // (chunks, S * S, lanes), then (chunks, P, lanes)
  __shared__ bool finite[32];
  const Lane lane(p.shape);
  const Reverse<Cell, I> reverse(p, lane);
  const int64_t begin = lane.cut(chunk, chunks), end = lane.cut(chunk + 1, chunks);
  F lambda[S] = {}, totals[P] = {}, transfer[S * S];
  for (int i = 0; i < S * S; ++i) transfer[i] = i % (S + 1) == 0;
  reverse.template run<false, false>(begin, end, lambda, totals, transfer);
  for (int s = 0; s < S; ++s) lambdas[(chunk * S + s) * width + threadIdx.x] = lambda[s];
  for (int i = 0; i < S * S; ++i)
    transfers[(chunk * S * S + i) * width + threadIdx.x] = transfer[i];
  __syncthreads();
  if (chunk == 0) {
    reverse.load_final(lambda);
    finite[threadIdx.x] = chain<F, S>(lambdas, transfers, lambda);
  }
  __syncthreads();
  // Where the chunks cannot be chained, the first of them goes through all of time.
  const bool whole = !finite[threadIdx.x];
  if (!whole || chunk == 0) {
    if (whole) reverse.load_final(lambda);
    else
      for (int s = 0; s < S; ++s) lambda[s] = lambdas[(chunk * S + s) * width + threadIdx.x];
    reverse.template run<true, false>(begin, whole ? lane.end : end, lambda, totals, nullptr);
  }
  for (int i = 0; i < P; ++i) transfers[(chunk * P + i) * width + threadIdx.x] = totals[i];
  __syncthreads();
  if (chunk == 0) {
    for (int c = 1; c < chunks; ++c)
      for (int i = 0; i < P; ++i) totals[i] += transfers[(c * P + i) * width + threadIdx.x];
    reverse.store_results(lambda, totals);
  }
}

template <typename Cell, typename I>
void launch(const FusedBackward& p, int processors, cudaStream_t stream) {
  using F = typename Element<I>::Number;
  const Launch x = launch_of(p.shape, processors);
  if (p.shape.chunks == 1) {
    LAUNCH((reverse_exactly<Cell, I>), x.grid, x.block, 0, stream, p);
  } else {
    const size_t bytes = chunked_bytes<F, Cell::kStates, Cell::kParameters>(x.block.x * x.block.y);
    LAUNCH((reverse_chunked<Cell, I>), x.grid, x.block, bytes, stream, p);
  }
  check(cudaGetLastError(), "launching the fused backward kernel");
}

}  // namespace

void fused_backward_cuda(const FusedBackward& p, int device, cudaStream_t stream) {
  const DeviceGuard guard(device);
  dispatch(p.shape, [&](auto kind) {
    using Kind = decltype(kind);
    launch<typename Kind::Cell, typename Kind::Element>(p, processor_count(device), stream);
  });
}

}  // namespace pararnn
