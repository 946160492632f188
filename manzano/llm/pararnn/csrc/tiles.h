// How the CPU kernels share out their work: one sequence and one tile of channels is one unit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fused.h"
#include "lanes.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace pararnn {

// Asks for large pages under an output that nothing has touched yet: its page faults, one every
// 4 KiB, otherwise cost as much as the computation.
inline void expect_writes(void* output, int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = 1 << 21;
  const uintptr_t begin = ((uintptr_t)output + kPage - 1) / kPage * kPage;
  const uintptr_t end = ((uintptr_t)output + bytes) / kPage * kPage;
  // Advice only: a kernel without large pages refuses it, and nothing is lost.
  if (begin < end) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

// Steps between fetching numbers into the cache and using them.
constexpr int64_t kAhead = 2;

struct Span {
  int64_t sequence, row, begin, end;  // steps begin .. end of a row
};

inline Span sequence_span(const FusedShape& shape, int64_t sequence) {
  if (!shape.starts) return {sequence, sequence, 0, shape.steps};
  return {sequence, 0, shape.starts[sequence], shape.starts[sequence + 1]};
}

// Where chunk `chunk` of a sequence begins: cuts lie on checkpoints, chunks may be empty.
inline int64_t chunk_begin(const Span& span, int64_t chunk, int64_t chunks) {
  if (chunk == 0) return span.begin;
  const int64_t cut = span.begin + (span.end - span.begin) * chunk / chunks;
  return std::min(span.end, (cut + kCheckpoint - 1) / kCheckpoint * kCheckpoint);
}

// Threads that pay: waking one up costs as much as some ten thousand numbers.
inline int useful_threads(int threads, int64_t rows, int64_t steps, int64_t channels) {
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, rows * steps * channels / 16384)));
}

// A tile is `vectors` vectors of channels from `channel` on, the last of `tail` channels.
struct Tile {
  int64_t channel;
  int vectors, tail;

  int count(int vector, int width) const { return vector + 1 < vectors ? width : tail; }
  // How many vectors are full, of channels that are neighbours.
  int whole(int width, int64_t stride) const {
    return stride != 1 ? 0 : vectors - (tail < width ? 1 : 0);
  }
};

// One step's numbers of a tile: rows of channels (gates or states) in an array of elements I.
template <typename I>
class Rows {
 public:
  Rows(const I* array, const Strides& strides, int64_t row, int64_t t, int64_t channel)
      : first_(array + row * strides.row + t * strides.time + channel * strides.channel),
        time_(strides.time), gate_(strides.gate), channel_(strides.channel) {}

  // Vector `vector` of row `gate`; kWhole as in `load`.
  template <bool kWhole>
  CELL_FUNCTION typename Element<I>::Lanes load(int gate, int vector, int count) const {
    if (kWhole) return widen(first_ + gate * gate_ + vector * kWidth<I>);
    return pararnn::load(first_ + gate * gate_ + vector * kWidth<I> * channel_, channel_, count);
  }

  // Of whole vectors, those `steps` later.
  CELL_FUNCTION void prefetch(int gate, int vector, int64_t steps) const {
    pararnn::prefetch(first_ + steps * time_ + gate * gate_ + vector * kWidth<I>);
  }

 private:
  const I* first_;
  int64_t time_, gate_, channel_;
};

class Grid {
 public:
  // Tiles are as wide as the threads allow, so that memory is read in long runs.
  Grid(int64_t sequences, int64_t channels, int64_t chunks, int width, int threads)
      : channels_(channels), width_(width) {
    const int64_t vectors = (channels + width - 1) / width;
    const int64_t wanted = (threads + sequences * chunks - 1) / (sequences * chunks);
    per_tile_ = std::min<int64_t>(kMaxVectors, (vectors + wanted - 1) / wanted);
    tiles_ = (vectors + per_tile_ - 1) / per_tile_;
    units_ = tiles_ * sequences;
  }

  int64_t units() const { return units_; }
  int64_t per_tile() const { return per_tile_; }
  int64_t sequence(int64_t unit) const { return unit / tiles_; }

  Tile tile(int64_t unit) const {
    const int64_t channel = unit % tiles_ * per_tile_ * width_;
    const int64_t left = std::min<int64_t>(channels_ - channel, per_tile_ * width_);
    const int vectors = int((left + width_ - 1) / width_);
    return {channel, vectors, int(left - int64_t(vectors - 1) * width_)};
  }

 private:
  static constexpr int64_t kMaxVectors = 64;
  int64_t channels_, per_tile_, tiles_, units_;
  int width_;
};

}  // namespace pararnn
