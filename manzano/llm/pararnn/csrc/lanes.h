// Vectors of channels on the CPU, in GCC's and Clang's vector extension: loads and stores that
// convert, and the registers' width taken from what the compiler is told the machine has.
#pragma once

#include <cstdint>
#include <cstring>

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

typedef float FloatLanes __attribute__((vector_size(kVectorBytes)));
typedef double DoubleLanes __attribute__((vector_size(kVectorBytes)));
typedef uint32_t FloatBits __attribute__((vector_size(kVectorBytes)));
typedef uint64_t DoubleBits __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

template <>
struct Number<FloatLanes> {
  using Scalar = float;
  using Bits = FloatBits;
};

template <>
struct Number<DoubleLanes> {
  using Scalar = double;
  using Bits = DoubleBits;
};

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
constexpr int kWidth = kVectorBytes / int(sizeof(typename Element<I>::Number));

inline FloatLanes widen(const float* p) {
  FloatLanes x;
  memcpy(&x, p, sizeof(x));
  return x;
}

inline DoubleLanes widen(const double* p) {
  DoubleLanes x;
  memcpy(&x, p, sizeof(x));
  return x;
}

template <typename I>
inline FloatBits half_bits(const I* p) {
  HalfBits x;
  memcpy(&x, p, sizeof(x));
  return __builtin_convertvector(x, FloatBits);
}

inline FloatLanes widen(const BFloat16* p) { return bit_cast<FloatLanes>(half_bits(p) << 16); }

inline FloatLanes widen(const Half* p) {
  const FloatBits x = half_bits(p);
  const FloatBits magnitude = x & 0x7fffu;
  // Read as the top of a float, a half's exponent is 112 too small; this also mends subnormals.
  const FloatLanes scaled = bit_cast<FloatLanes>(magnitude << 13) * 0x1p112f;
  const FloatBits special = (FloatBits)(magnitude >= 0x7c00u) & 0x7f800000u;  // inf and NaN
  return bit_cast<FloatLanes>(bit_cast<FloatBits>(scaled) | special | ((x & 0x8000u) << 16));
}

inline void narrow(FloatLanes x, float* p) { memcpy(p, &x, sizeof(x)); }
inline void narrow(DoubleLanes x, double* p) { memcpy(p, &x, sizeof(x)); }

template <typename I>
inline void store_half_bits(FloatBits bits, I* p) {
  const HalfBits x = __builtin_convertvector(bits, HalfBits);
  memcpy(p, &x, sizeof(x));
}

inline void narrow(FloatLanes x, BFloat16* p) {  // to nearest, ties to even
  const FloatBits bits = bit_cast<FloatBits>(x);
  const FloatBits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const FloatBits is_nan = (FloatBits)(x != x);
  store_half_bits((rounded & ~is_nan) | (is_nan & 0x7fc0u), p);
}

inline void narrow(FloatLanes x, Half* p) {  // to nearest, ties to even
  const FloatBits bits = bit_cast<FloatBits>(x);
  const FloatBits magnitude = bits & 0x7fffffffu;
  const FloatBits normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding a half moves a subnormal's digits to the end of the mantissa, rounded.
  const FloatBits subnormal = bit_cast<FloatBits>(bit_cast<FloatLanes>(magnitude) + 0.5f) - 0x3f000000u;
  const FloatBits is_nan = (FloatBits)(x != x);
  const FloatBits is_large = (FloatBits)(magnitude >= 0x47800000u);
  const FloatBits is_small = (FloatBits)(magnitude < 0x38800000u);
  FloatBits out = (subnormal & is_small) | (normal & ~is_small);
  out = (out & ~is_large) | (is_large & 0x7c00u) | (is_nan & 0x0200u);
  store_half_bits(out | ((bits >> 16) & 0x8000u), p);
}

// `count` channels from p, `stride` elements apart; lanes beyond them are zero.
template <typename I>
inline typename Element<I>::Lanes load(const I* p, int64_t stride, int count) {
  if (count == kWidth<I> && stride == 1) return widen(p);
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

}  // namespace pararnn
