// One fused problem, as plain numbers and pointers: what a binding hands to a kernel.
//
// Letters: B rows, T steps, N sequences, D channels; S, G, P as in cells.h; F is the type that is
// computed in (float, or double for double), I the type of inputs and outputs. Strides count
// elements. A sequence is row n, or, packed, steps starts[n] .. starts[n + 1] of row 0.
#pragma once

#include <cstdint>

namespace pararnn {

enum CellKind : int { kGru = 0, kLstm = 1 };
enum ElementKind : int { kFloat = 0, kDouble = 1, kBFloat16 = 2, kHalf = 3 };

// States of 16-bit problems are kept, in F, before every step whose number divides by this: the
// backward pass computes the others anew, so that its gradients are those of the unrounded states.
constexpr int kCheckpoint = 16;
// Steps before a chunk that are run, from zero, to guess the chunk's first start.
constexpr int kBurnIn = 32;

struct FusedShape {
  int cell, element;
  int64_t rows, sequences, steps, channels;  // rows: B
  int64_t chunks;         // chunks of time a sequence is cut into
  const int64_t* starts;  // (N + 1), or null where each row is one sequence
};

struct Strides {
  int64_t row, time, gate, channel;
};

struct FusedForward {
  FusedShape shape;
  const void* preactivations;  // I (B, T, G, D)
  Strides strides;
  const void* parameters;  // F (P, D)
  const void* initial;     // F (N, S, D)
  void* states;            // I (B, T, S, D)
  void* final;             // F (N, S, D): the last states, unrounded
  void* checkpoints;       // F (B, ceil(T / kCheckpoint), S, D); only written for 16-bit I
  int64_t max_sweeps;
  double tolerance;
  int32_t* sweeps;  // (1): the largest count of sweeps
  float* residual;  // (1): the largest doubt left in a chunk's start (`unsettled_by`)
};

struct FusedBackward {
  FusedShape shape;
  const void* preactivations;  // I (B, T, G, D)
  Strides strides;
  const void* parameters;    // F (P, D)
  const void* initial;       // F (N, S, D)
  const void* saved;         // I (B, T, S, D) the states; for 16-bit I F, the checkpoints
  const void* grad_states;   // I (B, T, S, D)
  Strides grad_strides;
  const void* grad_final;     // F (N, S, D): of the last states, added to theirs
  void* grad_preactivations;  // I (B, T, G, D)
  void* grad_parameters;      // F (N, P, D): to be summed over the sequences
  void* grad_initial;         // F (N, S, D)
};

}  // namespace pararnn
