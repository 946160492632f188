// The fused solver's forward pass on the CPU: exact sweep over time, and multiple shooting.
//
// A thread marches one tile of channels of one sequence through time, vector after vector within a
// step: vectors do not depend on each other, so their latencies overlap.

#include "kernels_cpu.h"

#include <cmath>

#include "lanes.h"
#include "tiles.h"

namespace pararnn {
namespace {

template <template <typename> class CellOf, typename I>
struct Forward {
  using F = typename Element<I>::Number;
  using L = typename Element<I>::Lanes;
  using Cell = CellOf<L>;
  static constexpr int S = Cell::kStates, G = Cell::kGates, P = Cell::kParameters;
  static constexpr int W = kWidth<I>;

  const FusedForward& p;
  const int threads;
  const Grid grid;
  const int64_t chunks, per_unit;  // per_unit: vectors of one unit's arrays, a row of S or S * S each

  Forward(const FusedForward& problem, int threads)
      : p(problem), threads(threads),
        grid(p.shape.sequences, p.shape.channels, p.shape.chunks, W, threads),
        chunks(p.shape.chunks), per_unit(grid.per_tile()) {}

  const F* initial(int64_t sequence, int s, int64_t channel) const {
    return (const F*)p.initial + (sequence * S + s) * p.shape.channels + channel;
  }

  void load_parameters(const Tile& tile, L* a) const {
    for (int v = 0; v < tile.vectors; ++v)
      for (int i = 0; i < P; ++i)
        a[v * P + i] = load((const F*)p.parameters + i * p.shape.channels + tile.channel + v * W, 1,
                            tile.count(v, W));
  }

  void load_initial(int64_t sequence, const Tile& tile, L* state) const {
    for (int v = 0; v < tile.vectors; ++v)
      for (int s = 0; s < S; ++s)
        state[v * S + s] = load(initial(sequence, s, tile.channel + v * W), 1, tile.count(v, W));
  }

  void store_checkpoint(const Span& span, int64_t t, const Tile& tile, const L* state) const {
    const int64_t D = p.shape.channels, rows = (p.shape.steps + kCheckpoint - 1) / kCheckpoint;
    F* out = (F*)p.checkpoints + (span.row * rows + t / kCheckpoint) * S * D + tile.channel;
    for (int v = 0; v < tile.vectors; ++v)
      for (int s = 0; s < S; ++s) store<F>(state[v * S + s], out + s * D + v * W, tile.count(v, W));
  }

  void store_final(const Span& span, const Tile& tile, const L* state) const {
    F* out = (F*)p.final + span.sequence * S * p.shape.channels + tile.channel;
    for (int v = 0; v < tile.vectors; ++v)
      for (int s = 0; s < S; ++s)
        store<F>(state[v * S + s], out + s * p.shape.channels + v * W, tile.count(v, W));
  }

  // One step of vector v of a tile; states go to `out`, rows of `channels` numbers.
  template <bool kWrite, bool kProduct, bool kWhole>
  static CELL_FUNCTION void advance(const Rows<I>& preactivations, int v, int count, const L* a,
                                    L* state, L* product, I* out, int64_t channels) {
    L u[G], next[S], jacobian[S * S];
    for (int g = 0; g < G; ++g) {
      u[g] = preactivations.template load<kWhole>(g, v, count);
      if (kWhole) preactivations.prefetch(g, v, kAhead);
    }
    L* h = state + v * S;
    if (kProduct) {
      Cell::step_jacobian(h, u, a + v * P, next, jacobian);
      multiply<L, S>(jacobian, product + v * S * S);
    } else {
      Cell::step(h, u, a + v * P, next);
    }
    for (int s = 0; s < S; ++s) {
      h[s] = next[s];
      if (kWrite) stream<kWhole>(next[s], out + s * channels + v * W, count);
    }
  }

  // Steps begin .. end from `state`, which ends as the state after them. kWrite: states (and
  // checkpoints) are written. kProduct: `product` becomes (product of Jacobians) `product`.
  template <bool kWrite, bool kProduct>
  __attribute__((noinline)) void march(const Span& span, int64_t begin, int64_t end,
                                       const Tile& tile, const L* a, L* state, L* product) const {
    const int64_t D = p.shape.channels;
    I* out = (I*)p.states + (span.row * p.shape.steps + begin) * S * D + tile.channel;
    const int whole = tile.whole(W, p.strides.channel);
    for (int64_t t = begin; t < end; ++t, out += S * D) {
      if (kWrite && Element<I>::kRounded && t % kCheckpoint == 0)
        store_checkpoint(span, t, tile, state);
      const Rows<I> u((const I*)p.preactivations, p.strides, span.row, t, tile.channel);
      for (int v = 0; v < whole; ++v)
        advance<kWrite, kProduct, true>(u, v, W, a, state, product, out, D);
      for (int v = whole; v < tile.vectors; ++v)
        advance<kWrite, kProduct, false>(u, v, tile.count(v, W), a, state, product, out, D);
    }
    if (kWrite && begin < end && end == span.end) store_final(span, tile, state);
    if (kWrite) finish_streams();
  }

  void exact() const {
#pragma omp parallel num_threads(threads)
    {
      std::vector<L> a(per_unit * P), state(per_unit * S);
#pragma omp for schedule(dynamic, 1)
      for (int64_t unit = 0; unit < grid.units(); ++unit) {
        const Tile tile = grid.tile(unit);
        const Span span = sequence_span(p.shape, grid.sequence(unit));
        load_parameters(tile, a.data());
        load_initial(grid.sequence(unit), tile, state.data());
        march<true, false>(span, span.begin, span.end, tile, a.data(), state.data(), nullptr);
      }
    }
    *p.sweeps = 1;
    *p.residual = 0;
  }

  // ---- multiple shooting: Newton on the chunks' starts alone -----------------------------------

  struct Shooting {
    std::vector<L> starts, ends, products;  // (units, chunks, vectors, S or S * S)
    std::vector<uint8_t> pending;           // (units, chunks): must be swept again
    std::vector<int64_t> unsettled;         // (units): the first chunk in doubt, or `chunks`
    std::vector<float> residual;            // (units)

    Shooting(int64_t units, int64_t chunks, int64_t per_unit)
        : starts(units * chunks * per_unit * S), ends(starts.size()), products(starts.size() * S),
          pending(units * chunks, 1), unsettled(units, 1), residual(units, 0) {}
  };

  // First guess of a chunk's start: a few steps from zero, run up to it.
  void guess_start(const Span& span, int64_t sequence, int64_t chunk, const Tile& tile, const L* a,
                   L* start) const {
    const int64_t begin = chunk_begin(span, chunk, chunks);
    const int64_t from = chunk == 0 ? begin : std::max(span.begin, begin - kBurnIn);
    if (from == span.begin) load_initial(sequence, tile, start);
    else std::fill_n(start, tile.vectors * S, L{});
    march<false, false>(span, from, begin, tile, a, start, nullptr);
  }

  void sweep(Shooting& x, bool first) const {
#pragma omp parallel num_threads(threads)
    {
      std::vector<L> a(per_unit * P);
#pragma omp for schedule(dynamic, 1)
      for (int64_t job = 0; job < grid.units() * chunks; ++job) {
        if (!x.pending[job]) continue;
        const int64_t unit = job / chunks, chunk = job % chunks, sequence = grid.sequence(unit);
        const Tile tile = grid.tile(unit);
        const Span span = sequence_span(p.shape, sequence);
        load_parameters(tile, a.data());
        L* start = x.starts.data() + job * per_unit * S;
        L* end = x.ends.data() + job * per_unit * S;
        L* product = x.products.data() + job * per_unit * S * S;
        if (first) guess_start(span, sequence, chunk, tile, a.data(), start);
        std::copy_n(start, tile.vectors * S, end);
        for (int i = 0; i < tile.vectors * S * S; ++i)
          product[i] = L{} + F(i % (S * S) % (S + 1) == 0);
        march<true, true>(span, chunk_begin(span, chunk, chunks),
                          chunk_begin(span, chunk + 1, chunks), tile, a.data(), end, product);
      }
    }
  }

  // Moves the starts of one unit and says, in `unsettled` and `pending`, what is to be done again.
  void correct(Shooting& x, int64_t unit) const {
    const Tile tile = grid.tile(unit);
    const F* ends = (const F*)(x.ends.data() + unit * chunks * per_unit * S);
    const F* products = (const F*)(x.products.data() + unit * chunks * per_unit * S * S);
    F* starts = (F*)(x.starts.data() + unit * chunks * per_unit * S);
    std::vector<F> moved_starts(starts, starts + chunks * per_unit * S * W);
    std::vector<uint8_t> pending(chunks, 0);
    int64_t unsettled = chunks;
    F largest = 0;
    for (int v = 0; v < tile.vectors; ++v)
      for (int lane = 0; lane < tile.count(v, W); ++lane) {
        F bound[S], moved[S] = {};
        for (int s = 0; s < S; ++s)
          bound[s] = std::max(
              F(1), std::abs(*initial(grid.sequence(unit), s, tile.channel + v * W + lane)));
        for (int64_t c = 1; c < chunks; ++c) {
          const int64_t before = ((c - 1) * per_unit + v) * S, here = (c * per_unit + v) * S;
          F end[S], product[S * S], next[S];
          for (int s = 0; s < S; ++s) end[s] = ends[(before + s) * W + lane];
          for (int i = 0; i < S * S; ++i) product[i] = products[(before * S + i) * W + lane];
          for (int s = 0; s < S; ++s) {
            next[s] = corrected_start<F, S>(s, end, product, moved, bound[s]);
          }
          for (int s = 0; s < S; ++s) {
            F& start = moved_starts[(here + s) * W + lane];
            const F doubt = unsettled_by(end[s], start, next[s]);
            moved[s] = next[s] - start;
            start = next[s];
            pending[c] |= moved[s] != F(0);
            if (!(doubt <= F(p.tolerance) * bound[s]))
              unsettled = std::min(unsettled, c);
            largest = std::max(largest, doubt);
          }
        }
      }
    x.unsettled[unit] = unsettled;
    x.residual[unit] = float(largest);
    const bool again = unsettled < chunks;
    if (again) std::copy(moved_starts.begin(), moved_starts.end(), starts);
    for (int64_t c = 0; c < chunks; ++c) x.pending[unit * chunks + c] = again && pending[c];
  }

  void shoot() const {
    Shooting x(grid.units(), chunks, per_unit);
    bool again = true;
    *p.sweeps = 0;
    while (again && *p.sweeps < p.max_sweeps) {
      sweep(x, *p.sweeps == 0);
      ++*p.sweeps;
#pragma omp parallel for num_threads(threads) schedule(static)
      for (int64_t unit = 0; unit < grid.units(); ++unit)
        if (x.unsettled[unit] < chunks) correct(x, unit);
      again = *std::min_element(x.unsettled.begin(), x.unsettled.end()) < chunks;
    }
    if (again) finish(x);
    *p.residual = *std::max_element(x.residual.begin(), x.residual.end());
  }

  // The last resort: an exact sweep of what follows the last chunk that has settled.
  void finish(Shooting& x) const {
    ++*p.sweeps;
#pragma omp parallel num_threads(threads)
    {
      std::vector<L> a(per_unit * P);
#pragma omp for schedule(dynamic, 1)
      for (int64_t unit = 0; unit < grid.units(); ++unit) {
        const int64_t chunk = x.unsettled[unit];
        if (chunk == chunks) continue;
        const Tile tile = grid.tile(unit);
        const Span span = sequence_span(p.shape, grid.sequence(unit));
        load_parameters(tile, a.data());
        L* state = x.ends.data() + (unit * chunks + chunk - 1) * per_unit * S;
        march<true, false>(span, chunk_begin(span, chunk, chunks), span.end, tile, a.data(), state,
                           nullptr);
        x.residual[unit] = 0;
      }
    }
  }

  void run() const {
    expect_writes(p.states, p.shape.rows * p.shape.steps * S * p.shape.channels * sizeof(I));
    if (chunks == 1) exact();
    else shoot();
  }
};

template <template <typename> class Cell>
void forward_cell(const FusedForward& p, int threads) {
  switch (p.shape.element) {
    case kFloat: return Forward<Cell, float>(p, threads).run();
    case kDouble: return Forward<Cell, double>(p, threads).run();
    case kBFloat16: return Forward<Cell, BFloat16>(p, threads).run();
    case kHalf: return Forward<Cell, Half>(p, threads).run();
  }
}

}  // namespace

void fused_forward_cpu(const FusedForward& p, int threads) {
  threads = useful_threads(threads, p.shape.rows, p.shape.steps, p.shape.channels);
  if (p.shape.cell == kGru) forward_cell<Gru>(p, threads);
  else forward_cell<Lstm>(p, threads);
}

}  // namespace pararnn
