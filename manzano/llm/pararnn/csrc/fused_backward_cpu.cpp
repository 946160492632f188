// The fused solver's backward pass on the CPU: one sweep back through time that emits all gradients.
//
// lambda is the loss's derivative by the state at a border of steps, by way of the later steps
// only; at step t, lambda <- J_t^T (lambda + grad_t). Over a chunk of time that is affine,
// lambda_begin = M lambda_end + q: where time is cut into chunks, a first pass finds every chunk's M
// and q, and a second applies the lambdas that follow from them.

#include <cmath>

#include "kernels_cpu.h"
#include "lanes.h"
#include "tiles.h"

namespace pararnn {
namespace {

template <template <typename> class CellOf, typename I>
struct Backward {
  using F = typename Element<I>::Number;
  using L = typename Element<I>::Lanes;
  using Cell = CellOf<L>;
  static constexpr int S = Cell::kStates, G = Cell::kGates, P = Cell::kParameters;
  static constexpr int W = kWidth<I>;
  static constexpr bool kRecompute = Element<I>::kRounded;

  const FusedBackward& p;
  const int threads;
  const Grid grid;
  const int64_t D, chunks, per_unit;

  Backward(const FusedBackward& problem, int threads)
      : p(problem), threads(threads),
        grid(p.shape.sequences, p.shape.channels, p.shape.chunks, W, threads),
        D(p.shape.channels), chunks(p.shape.chunks), per_unit(grid.per_tile()) {}

  // One thread's arrays.
  struct Scratch {
    std::vector<L> a, sums, previous;

    explicit Scratch(int64_t n)
        : a(n * P), sums(n * P), previous(kRecompute ? (kCheckpoint + 1) * n * S : 0) {}
  };

  void load_parameters(const Tile& tile, L* a) const {
    for (int v = 0; v < tile.vectors; ++v)
      for (int i = 0; i < P; ++i)
        a[v * P + i] = load((const F*)p.parameters + i * D + tile.channel + v * W, 1,
                            tile.count(v, W));
  }

  // lambda at the end of a sequence.
  void load_final(int64_t sequence, const Tile& tile, L* lambda) const {
    const F* from = (const F*)p.grad_final + sequence * S * D + tile.channel;
    for (int v = 0; v < tile.vectors; ++v)
      for (int s = 0; s < S; ++s)
        lambda[v * S + s] = load(from + s * D + v * W, 1, tile.count(v, W));
  }

  // Where the numbers of step t lie, for a tile of channels.
  Rows<I> preactivations(int64_t row, int64_t t, int64_t channel) const {
    return {(const I*)p.preactivations, p.strides, row, t, channel};
  }

  Rows<I> grad_states(int64_t row, int64_t t, int64_t channel) const {
    return {(const I*)p.grad_states, p.grad_strides, row, t, channel};
  }

  // The state before step t: the sequence's first, or saved after the step before, or, of 16-bit
  // problems, before every stretch of steps.
  Rows<F> state_before(const Span& span, int64_t t, int64_t channel) const {
    if (t == span.begin)
      return {(const F*)p.initial, {S * D, 0, D, 1}, span.sequence, 0, channel};
    const int64_t T = p.shape.steps, kept = kRecompute ? (T + kCheckpoint - 1) / kCheckpoint : T;
    const Strides strides = {kept * S * D, S * D, D, 1};
    return {(const F*)p.saved, strides, span.row, kRecompute ? t / kCheckpoint : t - 1, channel};
  }

  // States before steps begin .. end, within one stretch between checkpoints, computed anew.
  void recompute(const Span& span, int64_t begin, int64_t end, const Tile& tile,
                 Scratch& x) const {
    const Rows<F> first = state_before(span, begin, tile.channel);
    for (int v = 0; v < tile.vectors; ++v)
      for (int s = 0; s < S; ++s)
        x.previous[v * S + s] = first.template load<false>(s, v, tile.count(v, W));
    for (int64_t t = begin; t < end; ++t) {
      const Rows<I> rows = preactivations(span.row, t, tile.channel);
      const L* before = x.previous.data() + (t - begin) * per_unit * S;
      L* after = x.previous.data() + (t - begin + 1) * per_unit * S;
      for (int v = 0; v < tile.vectors; ++v) {
        L u[G];
        for (int g = 0; g < G; ++g) u[g] = rows.template load<false>(g, v, tile.count(v, W));
        Cell::step(before + v * S, u, x.a.data() + v * P, after + v * S);
      }
    }
  }

  // Back through steps begin .. end: lambda goes from their end to their begin. kApply: gradients
  // are written and the parameters' added to `totals`; else `transfer` becomes M `transfer`.
  template <bool kApply>
  __attribute__((noinline)) void reverse(int64_t sequence, int64_t begin, int64_t end,
                                         const Tile& tile, Scratch& x, L* lambda, L* totals,
                                         L* transfer) const {
    const Span span = sequence_span(p.shape, sequence);
    const int whole =
        std::min(tile.whole(W, p.strides.channel), tile.whole(W, p.grad_strides.channel));
    for (int64_t stop = end, from; stop > begin; stop = from) {
      from = std::max(begin, (stop - 1) / kCheckpoint * kCheckpoint);
      if (kRecompute) recompute(span, from, stop, tile, x);
      // Sums of a few steps first, then sums of those: shorter sums round less.
      std::fill(x.sums.begin(), x.sums.end(), L{});
      for (int64_t t = stop - 1; t >= from; --t) {
        const Step step = {
            preactivations(span.row, t, tile.channel), grad_states(span.row, t, tile.channel),
            state_before(span, t, tile.channel),
            kRecompute ? x.previous.data() + (t - from) * per_unit * S : nullptr,
            (I*)p.grad_preactivations + (span.row * p.shape.steps + t) * G * D + tile.channel, D};
        const L* a = x.a.data();
        L* sums = x.sums.data();
        for (int v = 0; v < whole; ++v)
          step_back<kApply, true>(step, v, W, a, sums, lambda, transfer);
        for (int v = whole; v < tile.vectors; ++v)
          step_back<kApply, false>(step, v, tile.count(v, W), a, sums, lambda, transfer);
      }
      if (kApply)
        for (int i = 0; i < tile.vectors * P; ++i) totals[i] += x.sums[i];
    }
    if (kApply) finish_streams();
  }

  // Where one step's numbers lie. (All of it in registers: what is reached by way of `this` would
  // be read again after every store, which might have changed it.)
  struct Step {
    Rows<I> preactivations, grad_states;
    Rows<F> before;
    const L* known;  // the states before it, where recomputed
    I* out;
    int64_t channels;
  };

  // One step of one vector of channels.
  template <bool kApply, bool kWhole>
  static CELL_FUNCTION void step_back(const Step& step, int v, int count, const L* a, L* sums,
                                      L* lambda, L* transfer) {
    L u[G], previous[S], mu[S];
    for (int g = 0; g < G; ++g) {
      u[g] = step.preactivations.template load<kWhole>(g, v, count);
      if (kWhole) step.preactivations.prefetch(g, v, -kAhead);
    }
    for (int s = 0; s < S; ++s) {
      mu[s] = lambda[v * S + s] + step.grad_states.template load<kWhole>(s, v, count);
      if (kWhole) step.grad_states.prefetch(s, v, -kAhead);
      if (kRecompute) {
        previous[s] = step.known[v * S + s];
      } else {
        previous[s] = step.before.template load<kWhole>(s, v, count);
        if (kWhole) step.before.prefetch(s, v, -kAhead);
      }
    }
    if (kApply) {
      L du[G], by_previous[S];
      Cell::adjoint(previous, u, a + v * P, mu, by_previous, du, sums + v * P);
      for (int g = 0; g < G; ++g)
        stream<kWhole>(du[g], step.out + g * step.channels + v * W, count);
      for (int s = 0; s < S; ++s) lambda[v * S + s] = by_previous[s];
    } else {
      L next[S], jacobian[S * S];
      Cell::step_jacobian(previous, u, a + v * P, next, jacobian);
      transfer_back<L, S>(jacobian, mu, lambda + v * S, transfer + v * S * S);
    }
  }

  void store_results(int64_t sequence, const Tile& tile, const L* lambda, const L* totals) const {
    for (int v = 0; v < tile.vectors; ++v) {
      const int64_t channel = tile.channel + v * W;
      F* initial = (F*)p.grad_initial + sequence * S * D + channel;
      F* parameters = (F*)p.grad_parameters + sequence * P * D + channel;
      for (int s = 0; s < S; ++s) store<F>(lambda[v * S + s], initial + s * D, tile.count(v, W));
      for (int i = 0; i < P; ++i) store<F>(totals[v * P + i], parameters + i * D, tile.count(v, W));
    }
  }

  void exact() const {
#pragma omp parallel num_threads(threads)
    {
      Scratch x(per_unit);
      std::vector<L> lambda(per_unit * S), totals(per_unit * P);
#pragma omp for schedule(dynamic, 1)
      for (int64_t unit = 0; unit < grid.units(); ++unit) {
        const Tile tile = grid.tile(unit);
        const int64_t sequence = grid.sequence(unit);
        const Span span = sequence_span(p.shape, sequence);
        std::fill(totals.begin(), totals.end(), L{});
        load_parameters(tile, x.a.data());
        load_final(sequence, tile, lambda.data());
        reverse<true>(sequence, span.begin, span.end, tile, x, lambda.data(), totals.data(),
                      nullptr);
        store_results(sequence, tile, lambda.data(), totals.data());
      }
    }
  }

  // ---- in chunks of time -------------------------------------------------------------------------

  struct Chunked {
    std::vector<L> lambda, transfer, totals;  // (units, chunks, vectors, S or S * S or P)

    Chunked(int64_t units, int64_t chunks, int64_t per_unit)
        : lambda(units * chunks * per_unit * S), transfer(lambda.size() * S),
          totals(units * chunks * per_unit * P) {}
  };

  template <bool kApply>
  void pass(Chunked& y) const {
#pragma omp parallel num_threads(threads)
    {
      Scratch x(per_unit);
#pragma omp for schedule(dynamic, 1)
      for (int64_t job = 0; job < grid.units() * chunks; ++job) {
        const int64_t unit = job / chunks, chunk = job % chunks, sequence = grid.sequence(unit);
        const Tile tile = grid.tile(unit);
        const Span span = sequence_span(p.shape, sequence);
        L* transfer = y.transfer.data() + job * per_unit * S * S;
        if (!kApply)
          for (int i = 0; i < tile.vectors * S * S; ++i)
            transfer[i] = L{} + F(i % (S * S) % (S + 1) == 0);
        load_parameters(tile, x.a.data());
        reverse<kApply>(sequence, chunk_begin(span, chunk, chunks),
                        chunk_begin(span, chunk + 1, chunks), tile, x,
                        y.lambda.data() + job * per_unit * S,
                        y.totals.data() + job * per_unit * P, transfer);
      }
    }
  }

  // From every chunk's q (in lambda) and M to the lambda at every chunk's end; false where those
  // are not finite, as a chunk's M may be although the gradient itself is.
  bool chain(Chunked& y, int64_t unit) const {
    std::vector<L> carried(per_unit * S), q(per_unit * S);
    L doubt = L{};
    load_final(grid.sequence(unit), grid.tile(unit), carried.data());
    for (int64_t c = chunks - 1; c >= 0; --c) {
      const int64_t job = unit * chunks + c;
      L* lambda = y.lambda.data() + job * per_unit * S;
      const L* transfer = y.transfer.data() + job * per_unit * S * S;
      std::copy_n(lambda, per_unit * S, q.data());
      std::copy_n(carried.data(), per_unit * S, lambda);
      for (int v = 0; v < grid.tile(unit).vectors; ++v)
        for (int i = 0; i < S; ++i) {
          L sum = q[v * S + i];
          for (int j = 0; j < S; ++j)
            sum += transfer[(v * S + i) * S + j] * lambda[v * S + j];
          carried[v * S + i] = sum;
          doubt += sum - sum;
        }
    }
    F doubts[W];
    memcpy(doubts, &doubt, sizeof(doubt));
    return std::all_of(doubts, doubts + W, [](F x) { return x == F(0); });
  }

  void chunked() const {
    Chunked y(grid.units(), chunks, per_unit);
    pass<false>(y);
    bool finite = true;
    for (int64_t unit = 0; unit < grid.units(); ++unit) finite = chain(y, unit) && finite;
    if (!finite) return exact();
    pass<true>(y);
    for (int64_t unit = 0; unit < grid.units(); ++unit) {
      L* totals = y.totals.data() + unit * chunks * per_unit * P;
      for (int64_t c = 1; c < chunks; ++c)
        for (int64_t i = 0; i < per_unit * P; ++i) totals[i] += totals[c * per_unit * P + i];
      const L* lambda = y.lambda.data() + unit * chunks * per_unit * S;
      store_results(grid.sequence(unit), grid.tile(unit), lambda, totals);
    }
  }

  void run() const {
    expect_writes(p.grad_preactivations, p.shape.rows * p.shape.steps * G * D * sizeof(I));
    if (chunks == 1) exact();
    else chunked();
  }
};

template <template <typename> class Cell>
void backward_cell(const FusedBackward& p, int threads) {
  switch (p.shape.element) {
    case kFloat: return Backward<Cell, float>(p, threads).run();
    case kDouble: return Backward<Cell, double>(p, threads).run();
    case kBFloat16: return Backward<Cell, BFloat16>(p, threads).run();
    case kHalf: return Backward<Cell, Half>(p, threads).run();
  }
}

}  // namespace

void fused_backward_cpu(const FusedBackward& p, int threads) {
  threads = useful_threads(threads, p.shape.rows, p.shape.steps, p.shape.channels);
  if (p.shape.cell == kGru) backward_cell<Gru>(p, threads);
  else backward_cell<Lstm>(p, threads);
}

}  // namespace pararnn
