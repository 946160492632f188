// Vectors of channels on the CPU, two at a time, in GCC's and Clang's vector extension: loads and
// stores that convert. The registers' width is taken from what the compiler is told the machine has.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cells.h"
#include "fused.h"

namespace pararnn {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));
typedef uint32_t FloatBits __attribute__((vector_size(kVectorBytes)));
typedef uint64_t DoubleBits __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

// Two vectors that take every operation together. A step is one long chain of operations that wait
// for each other: with two chains side by side the processor has something to do meanwhile.
template <typename V>
struct Pair {
  V low, high;

  CELL_FUNCTION Pair& operator+=(Pair x) { return *this = *this + x; }
};

#define PAIR_OPERATOR(op)                                                                          \
  template <typename V>                                                                            \
  CELL_FUNCTION Pair<V> operator op(Pair<V> x, Pair<V> y) {                                        \
    return {x.low op y.low, x.high op y.high};                                                     \
  }                                                                                                \
  template <typename V>                                                                            \
  CELL_FUNCTION Pair<V> operator op(Pair<V> x, typename Number<V>::Scalar y) {                     \
    return {x.low op y, x.high op y};                                                              \
  }                                                                                                \
  template <typename V>                                                                            \
  CELL_FUNCTION Pair<V> operator op(typename Number<V>::Scalar x, Pair<V> y) {                     \
    return {x op y.low, x op y.high};                                                              \
  }
PAIR_OPERATOR(+)
PAIR_OPERATOR(-)
PAIR_OPERATOR(*)
PAIR_OPERATOR(/)
#undef PAIR_OPERATOR

template <typename V>
CELL_FUNCTION Pair<V> operator-(Pair<V> x) {
  return {-x.low, -x.high};
}

template <typename V>
CELL_FUNCTION Pair<V> operator<<(Pair<V> x, int bits) {
  return {x.low << bits, x.high << bits};
}

using FloatLanes = Pair<FloatVector>;
using DoubleLanes = Pair<DoubleVector>;

template <>
struct Number<FloatVector> {
  using Scalar = float;
  using Bits = FloatBits;
};

template <>
struct Number<DoubleVector> {
  using Scalar = double;
  using Bits = DoubleBits;
};

template <>
struct Number<FloatBits> {
  using Scalar = uint32_t;
};

template <>
struct Number<DoubleBits> {
  using Scalar = uint64_t;
};

template <typename V>
struct Number<Pair<V>> {
  using Scalar = typename Number<V>::Scalar;
  using Bits = Pair<typename Number<V>::Bits>;
};

#if defined(__AVX512F__)
// Dividing 16 numbers takes as long as 20 multiplications: an estimate of 14 bits and one step of
// Newton's method give all but the last bit.
template <>
CELL_FUNCTION FloatVector quotient<FloatVector>(FloatVector a, FloatVector b) {
  const __m512 inverse = _mm512_rcp14_ps((__m512)b);
  const __m512 estimate = _mm512_mul_ps((__m512)a, inverse);
  const __m512 left = _mm512_fnmadd_ps(estimate, (__m512)b, (__m512)a);
  return (FloatVector)_mm512_fmadd_ps(left, inverse, estimate);
}

// In two instructions. A compiler that must not assume that nothing is NaN takes four.
template <>
CELL_FUNCTION FloatVector clamp<FloatVector>(FloatVector x, float limit) {  // NaN stays NaN
  const __m512 below = _mm512_min_ps(_mm512_set1_ps(limit), (__m512)x);
  return (FloatVector)_mm512_max_ps(_mm512_set1_ps(-limit), below);
}
#endif

template <>
CELL_FUNCTION FloatLanes quotient<FloatLanes>(FloatLanes a, FloatLanes b) {
  return {quotient<FloatVector>(a.low, b.low), quotient<FloatVector>(a.high, b.high)};
}

template <>
CELL_FUNCTION FloatLanes clamp<FloatLanes>(FloatLanes x, float limit) {
  return {clamp<FloatVector>(x.low, limit), clamp<FloatVector>(x.high, limit)};
}

template <>
CELL_FUNCTION DoubleLanes clamp<DoubleLanes>(DoubleLanes x, double limit) {
  return {clamp<DoubleVector>(x.low, limit), clamp<DoubleVector>(x.high, limit)};
}

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

// What an element of type I is computed in: a number, and a vector of them.
template <typename I>
struct Element {
  using Number = float;
  using Lanes = FloatLanes;
  static constexpr bool kRounded = true;  // storing a state loses digits
};

template <>
struct Element<float> {
  using Number = float;
  using Lanes = FloatLanes;
  static constexpr bool kRounded = false;
};

template <>
struct Element<double> {
  using Number = double;
  using Lanes = DoubleLanes;
  static constexpr bool kRounded = false;
};

template <typename I>
constexpr int kWidth = 2 * kVectorBytes / int(sizeof(typename Element<I>::Number));

inline FloatVector widen_half(const float* p) {
  FloatVector x;
  memcpy(&x, p, sizeof(x));
  return x;
}

inline DoubleVector widen_half(const double* p) {
  DoubleVector x;
  memcpy(&x, p, sizeof(x));
  return x;
}

template <typename I>
inline FloatBits half_bits(const I* p) {
  HalfBits x;
  memcpy(&x, p, sizeof(x));
  return __builtin_convertvector(x, FloatBits);
}

inline FloatVector widen_half(const BFloat16* p) { return bit_cast<FloatVector>(half_bits(p) << 16); }

inline FloatVector widen_half(const Half* p) {
  const FloatBits x = half_bits(p);
  const FloatBits magnitude = x & 0x7fffu;
  // Read as the top of a float, a half's exponent is 112 too small; this also mends subnormals.
  const FloatVector scaled = bit_cast<FloatVector>(magnitude << 13) * 0x1p112f;
  const FloatBits special = (FloatBits)(magnitude >= 0x7c00u) & 0x7f800000u;  // inf and NaN
  return bit_cast<FloatVector>(bit_cast<FloatBits>(scaled) | special | ((x & 0x8000u) << 16));
}

inline void narrow_half(FloatVector x, float* p) { memcpy(p, &x, sizeof(x)); }

inline void narrow_half(DoubleVector x, double* p) { memcpy(p, &x, sizeof(x)); }

template <typename I>
inline void store_half_bits(FloatBits bits, I* p) {
  const HalfBits x = __builtin_convertvector(bits, HalfBits);
  memcpy(p, &x, sizeof(x));
}

inline void narrow_half(FloatVector x, BFloat16* p) {  // to nearest, ties to even
  const FloatBits bits = bit_cast<FloatBits>(x);
  const FloatBits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const FloatBits is_nan = (FloatBits)(x != x);
  store_half_bits((rounded & ~is_nan) | (is_nan & 0x7fc0u), p);
}

inline void narrow_half(FloatVector x, Half* p) {  // to nearest, ties to even
  const FloatBits bits = bit_cast<FloatBits>(x);
  const FloatBits magnitude = bits & 0x7fffffffu;
  const FloatBits normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding a half moves a subnormal's digits to the end of the mantissa, rounded.
  const FloatBits subnormal = bit_cast<FloatBits>(bit_cast<FloatVector>(magnitude) + 0.5f) - 0x3f000000u;
  const FloatBits is_nan = (FloatBits)(x != x);
  const FloatBits is_large = (FloatBits)(magnitude >= 0x47800000u);
  const FloatBits is_small = (FloatBits)(magnitude < 0x38800000u);
  FloatBits out = (subnormal & is_small) | (normal & ~is_small);
  out = (out & ~is_large) | (is_large & 0x7c00u) | (is_nan & 0x0200u);
  store_half_bits(out | ((bits >> 16) & 0x8000u), p);
}

template <typename I>
inline typename Element<I>::Lanes widen(const I* p) {
  return {widen_half(p), widen_half(p + kWidth<I> / 2)};
}

template <typename I>
inline void narrow(typename Element<I>::Lanes x, I* p) {
  narrow_half(x.low, p);
  narrow_half(x.high, p + kWidth<I> / 2);
}

// Fetches what `load` is to read some steps later: to a march back in time, or over many short runs,
// the processor does not see ahead. An address outside of the array does no harm. (Inline, always:
// GCC removes calls of functions that only fetch.)
template <typename I>
CELL_FUNCTION void prefetch(const I* p) {
  constexpr int kLine = 64;
  for (int at = 0; at < int(kWidth<I> * sizeof(I)); at += kLine)
    __builtin_prefetch((const char*)p + at);
}

// `count` channels from p, `stride` elements apart; lanes beyond them are zero. kWhole: it is known
// that they fill the lanes and are neighbours.
template <bool kWhole = false, typename I>
CELL_FUNCTION typename Element<I>::Lanes load(const I* p, int64_t stride, int count) {
  if (kWhole || (count == kWidth<I> && stride == 1)) return widen(p);
  I gathered[kWidth<I>] = {};
  for (int lane = 0; lane < count; ++lane) gathered[lane] = p[lane * stride];
  return widen(gathered);
}

template <typename I>
inline void store(typename Element<I>::Lanes x, I* p, int count) {
  if (count == kWidth<I>) return narrow(x, p);
  I scattered[kWidth<I>];
  narrow(x, scattered);
  memcpy(p, scattered, count * sizeof(I));
}

// `store` of what nobody reads before much else has gone through the caches: where it is made of
// whole lines, they go past the caches, which spares reading what they replace.
template <bool kWhole, typename I>
CELL_FUNCTION void stream(typename Element<I>::Lanes x, I* p, int count) {
#if defined(__AVX512F__)
  if constexpr (std::is_same<I, float>::value) {
    if (kWhole && (uintptr_t)p % kVectorBytes == 0) {
      _mm512_stream_ps(p, (__m512)x.low);
      return _mm512_stream_ps(p + kWidth<I> / 2, (__m512)x.high);
    }
  }
#endif
  store(x, p, count);
}

// Before others read what `stream` has written.
inline void finish_streams() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

}  // namespace pararnn
