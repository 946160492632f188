// The linear recurrence on the CPU: forward substitution, one tile of channels a thread.

#include "kernels_cpu.h"
#include "lanes.h"
#include "tiles.h"

namespace pararnn {
namespace {

template <typename F, int S, bool kReversed>
void substitute(const Reduction& p, int threads) {
  using L = typename Element<F>::Lanes;
  constexpr int W = kWidth<F>;
  const Grid grid(p.rows, p.channels, 1, W, threads);
  const int64_t D = p.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t unit = 0; unit < grid.units(); ++unit) {
    const Tile tile = grid.tile(unit);
    std::vector<L> carried(tile.vectors * S);  // x of the step before; reversed, A^T x of that after
    for (int64_t i = 0; i < p.steps; ++i) {
      const int64_t t = grid.sequence(unit) * p.steps + (kReversed ? p.steps - 1 - i : i);
      for (int v = 0; v < tile.vectors; ++v) {
        const int count = tile.count(v, W);
        const int64_t channel = tile.channel + v * W;
        const F* blocks = (const F*)p.blocks + t * S * S * D + channel;
        const F* right = (const F*)p.right + t * S * D + channel;
        F* out = (F*)p.solution + t * S * D + channel;
        L* before = carried.data() + v * S;
        L x[S], a[S * S];
        for (int s = 0; s < S; ++s) x[s] = load(right + s * D, 1, count);
        for (int j = 0; j < S * S; ++j) a[j] = load(blocks + j * D, 1, count);
        if (kReversed)
          for (int s = 0; s < S; ++s) x[s] += before[s];
        else
          for (int s = 0; s < S; ++s)
            for (int j = 0; j < S; ++j) x[s] += a[s * S + j] * before[j];
        for (int s = 0; s < S; ++s) {
          store(x[s], out + s * D, count);
          before[s] = x[s];
        }
        if (kReversed)
          for (int s = 0; s < S; ++s) {
            before[s] = a[s] * x[0];
            for (int j = 1; j < S; ++j) before[s] += a[j * S + s] * x[j];
          }
      }
    }
  }
}

template <typename F, int S>
void in_direction(const Reduction& p, int threads) {
  if (p.reversed) substitute<F, S, true>(p, threads);
  else substitute<F, S, false>(p, threads);
}

template <typename F>
void of_block(const Reduction& p, int threads) {
  switch (p.block) {
    case 1: return in_direction<F, 1>(p, threads);
    case 2: return in_direction<F, 2>(p, threads);
    case 3: return in_direction<F, 3>(p, threads);
    case 4: return in_direction<F, 4>(p, threads);
  }
}

}  // namespace

void reduction_cpu(const Reduction& p, int threads) {
  threads = useful_threads(threads, p.rows, p.steps, p.channels);
  if (p.is_double) of_block<double>(p, threads);
  else of_block<float>(p, threads);
}

}  // namespace pararnn
