// The mathematics of the cells, once, for the CPU and for CUDA.
//
// Everything here is templated on T, the type of a number: float, double or, on the CPU, a vector
// of them, one channel a lane. Formulas: arXiv 2510.21450, eq. 3.1a (GRU) and 3.1b (LSTM with
// coupled gates and peepholes); Jacobians and adjoints are their derivatives.
//
// A cell has states S, preactivations G and parameters P a channel, and three functions:
//   step           previous state, preactivations, parameters -> next state
//   step_jacobian  the same, and d next[i] / d previous[j] at jacobian[i * S + j]
//   adjoint        `mu`, the whole derivative of the loss by the next state -> its derivative by the
//                  previous state and by the preactivations; parameters' derivatives are added up
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#define CELL_FUNCTION __host__ __device__ __forceinline__
#else
#define CELL_FUNCTION inline __attribute__((always_inline))
#endif

namespace pararnn {

// What a number of type T is made of. Vectors specialise it (lanes.h).
template <typename T>
struct Number;

template <>
struct Number<float> {
  using Scalar = float;
  using Bits = uint32_t;
};

template <>
struct Number<double> {
  using Scalar = double;
  using Bits = uint64_t;
};

template <typename To, typename From>
CELL_FUNCTION To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// ---- exp, sigmoid and tanh ---------------------------------------------------------------------
// Neither branches nor calls, so that a compiler keeps them in vector registers. Write x as
// n ln 2 + r with n whole and |r| <= ln 2 / 2; then exp(x) = 2^n (1 + expm1(r)), and expm1(r) is
// r + r^2 q(r). Keeping 2^n and expm1(r) apart is what keeps tanh accurate near zero.

template <typename F>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLimit = 87.0f;  // of |x|, so that 2^n and 1 / (1 + exp x) are normal
  static constexpr float kTanhLimit = 20.0f;  // of |2 x|: beyond it tanh rounds to +-1
  static constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2High = 0.693359375f;  // few bits: n times it is exact
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr int kMantissa = 23;
  static constexpr uint32_t kOne = 0x3f800000u;
};

template <>
struct ExpConstants<double> {
  static constexpr double kLimit = 700.0;
  static constexpr double kTanhLimit = 44.0;
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2High = 0.693147180369123816490;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kMantissa = 52;
  static constexpr uint64_t kOne = 0x3ff0000000000000ull;
};

// q of expm1(r) = r + r^2 q(r): minimax in float (relative error 3e-10), Taylor in double (2e-17).
// In float as a polynomial of r^2 whose coefficients do not wait for each other.
template <typename T>
CELL_FUNCTION T expm1_tail(T r, float) {
  const T square = r * r;
  const T low = r * 1.6666667e-1f + 0.5f;
  const T middle = r * 8.3332732e-3f + 4.1666355e-2f;
  const T high = r * 1.9914171e-4f + 1.3941008e-3f;
  return (high * square + middle) * square + low;
}

template <typename T>
CELL_FUNCTION T expm1_tail(T r, double) {
  T q = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  q = q * r + 1.0 / 39916800.0;
  q = q * r + 1.0 / 3628800.0;
  q = q * r + 1.0 / 362880.0;
  q = q * r + 1.0 / 40320.0;
  q = q * r + 1.0 / 5040.0;
  q = q * r + 1.0 / 720.0;
  q = q * r + 1.0 / 120.0;
  q = q * r + 1.0 / 24.0;
  q = q * r + 1.0 / 6.0;
  return q * r + 0.5;
}

// exp(x) = power * (1 + rest), for |x| within the limit.
template <typename T>
CELL_FUNCTION void split_exp(T x, T& power, T& rest) {
  using F = typename Number<T>::Scalar;
  using Bits = typename Number<T>::Bits;
  using C = ExpConstants<F>;
  const T shifted = x * C::kLog2E + C::kShift;
  const T whole = shifted - C::kShift;
  const T r = (x - whole * C::kLn2High) - whole * C::kLn2Low;
  rest = r * r * expm1_tail(r, F()) + r;
  // The lowest bits of `shifted` are n: moved up they are the exponent of 2^n.
  power = bit_cast<T>((bit_cast<Bits>(shifted) << C::kMantissa) + C::kOne);
}

template <typename T>
CELL_FUNCTION T clamp(T x, typename Number<T>::Scalar limit) {  // NaN stays NaN
  const T low = T{} - limit, high = T{} + limit;
  x = x > high ? high : x;
  return x < low ? low : x;
}

// a / b. Vectors that divide slowly specialise it (lanes.h).
template <typename T>
CELL_FUNCTION T quotient(T a, T b) {
  return a / b;
}

#ifdef __CUDA_ARCH__
// A GPU has exp2 and 1 / x in hardware, each good to about an ulp, and a chain of fewer steps.
__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// tanh(x), given exp(2 x).
__device__ __forceinline__ float tanh_from(float x, float squared_exp) {
  const float square = x * x;
  float odd = square * -6.65357290e-3f + 2.13017035e-2f;  // minimax below 0.5: 4e-10
  odd = odd * square - 5.38999699e-2f;
  odd = odd * square + 1.33329704e-1f;
  odd = odd * square - 3.33333284e-1f;
  const float near = odd * square * x + x;
  const float far = fmaf(-2.0f, reciprocal(1.0f + squared_exp), 1.0f);
  return fabsf(x) < 0.5f ? near : far;
}
#endif

// sigmoid(a h + u), where h is what is waited for: what can be done without it is kept apart.
template <typename T>
CELL_FUNCTION T gate(T a, T h, T u) {
  using F = typename Number<T>::Scalar;
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same<T, float>::value) {
    const float minus_log2e = -ExpConstants<float>::kLog2E;
    return reciprocal(1.0f + exp2_of(fmaf(minus_log2e * a, h, minus_log2e * u)));
  }
#endif
  T power, rest;
  split_exp<T>(clamp<T>(-(a * h + u), ExpConstants<F>::kLimit), power, rest);
  return quotient<T>(T{} + F(1), power * rest + power + F(1));
}

template <typename T>
CELL_FUNCTION T tanh_of(T x) {
  using F = typename Number<T>::Scalar;
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same<T, float>::value)
    return tanh_from(x, exp2_of(2 * ExpConstants<float>::kLog2E * x));
#endif
  T power, rest;
  split_exp<T>(clamp<T>(x + x, ExpConstants<F>::kTanhLimit), power, rest);
  const T minus_one = power * rest + (power - F(1));  // exp(2 x) - 1
  return quotient<T>(minus_one, minus_one + F(2));
}

// tanh(a h + u), where h is what is waited for.
template <typename T>
CELL_FUNCTION T tanh_gate(T a, T h, T u) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same<T, float>::value) {
    const float two_log2e = 2 * ExpConstants<float>::kLog2E;
    return tanh_from(a * h + u, exp2_of(fmaf(two_log2e * a, h, two_log2e * u)));
  }
#endif
  return tanh_of<T>(a * h + u);
}

// ---- ParaGRU: state (h); preactivations (z, r, c); parameters (a_z, a_r, a_c) ------------------

template <typename T>
struct Gru {
  static constexpr int kStates = 1, kGates = 3, kParameters = 3;
  using F = typename Number<T>::Scalar;

  struct Gates {
    T z, r, c;
  };

  static CELL_FUNCTION Gates gates(T h, const T* u, const T* a) {
    Gates g;
    g.r = gate<T>(a[1], h, u[1]);
    g.z = gate<T>(a[0], h, u[0]);
    g.c = tanh_gate<T>(a[2] * h, g.r, u[2]);
    return g;
  }

  static CELL_FUNCTION void step(const T* previous, const T* u, const T* a, T* next) {
    const T h = previous[0];
    const Gates g = gates(h, u, a);
    next[0] = (h - g.z * h) + g.z * g.c;  // only the last product waits for c
  }

  static CELL_FUNCTION void step_jacobian(
      const T* previous, const T* u, const T* a, T* next, T* jacobian) {
    const T h = previous[0];
    const Gates g = gates(h, u, a);
    const T keep = F(1) - g.z;
    next[0] = (h - g.z * h) + g.z * g.c;
    jacobian[0] = keep + (g.c - h) * (g.z * keep) * a[0] +
                  g.z * (F(1) - g.c * g.c) * a[2] * (g.r + h * g.r * (F(1) - g.r) * a[1]);
  }

  static CELL_FUNCTION void adjoint(
      const T* previous, const T* u, const T* a, const T* mu, T* mu_previous, T* du, T* da) {
    const T h = previous[0];
    const Gates g = gates(h, u, a);
    const T keep = F(1) - g.z;
    const T dc = mu[0] * g.z * (F(1) - g.c * g.c);
    const T dz = mu[0] * (g.c - h) * (g.z * keep);
    const T gated = dc * a[2];  // by r h
    const T dr = gated * h * (g.r * (F(1) - g.r));
    du[0] = dz;
    du[1] = dr;
    du[2] = dc;
    da[0] = da[0] + dz * h;
    da[1] = da[1] + dr * h;
    da[2] = da[2] + dc * (g.r * h);
    mu_previous[0] = mu[0] * keep + dz * a[0] + dr * a[1] + gated * g.r;
  }
};

// ---- ParaLSTM: state (c, h); preactivations (f, o, z); parameters (a_f, a_o, a_z, p_f, p_o) ----

template <typename T>
struct Lstm {
  static constexpr int kStates = 2, kGates = 3, kParameters = 5;
  using F = typename Number<T>::Scalar;

  struct Gates {
    T f, o, z, c, s;  // c is the new cell state, s its tanh
  };

  static CELL_FUNCTION Gates gates(const T* previous, const T* u, const T* a) {
    const T c = previous[0], h = previous[1];
    Gates g;
    g.f = gate<T>(a[0], h, a[3] * c + u[0]);
    g.z = tanh_gate<T>(a[2], h, u[2]);
    g.c = g.z + g.f * (c - g.z);
    g.o = gate<T>(a[4], g.c, a[1] * h + u[1]);
    g.s = tanh_of<T>(g.c);
    return g;
  }

  static CELL_FUNCTION void step(const T* previous, const T* u, const T* a, T* next) {
    const Gates g = gates(previous, u, a);
    next[0] = g.c;
    next[1] = g.o * g.s;
  }

  static CELL_FUNCTION void step_jacobian(
      const T* previous, const T* u, const T* a, T* next, T* jacobian) {
    const Gates g = gates(previous, u, a);
    next[0] = g.c;
    next[1] = g.o * g.s;
    const T df = (previous[0] - g.z) * (g.f * (F(1) - g.f));
    const T by_gate = g.s * (g.o * (F(1) - g.o)), by_cell = g.o * (F(1) - g.s * g.s);
    const T through = by_gate * a[4] + by_cell;  // d h / d (new c)
    jacobian[0] = g.f + df * a[3];
    jacobian[1] = df * a[0] + (F(1) - g.f) * (F(1) - g.z * g.z) * a[2];
    jacobian[2] = through * jacobian[0];
    jacobian[3] = by_gate * a[1] + through * jacobian[1];
  }

  static CELL_FUNCTION void adjoint(
      const T* previous, const T* u, const T* a, const T* mu, T* mu_previous, T* du, T* da) {
    const T c = previous[0], h = previous[1];
    const Gates g = gates(previous, u, a);
    const T d_o = mu[1] * g.s * (g.o * (F(1) - g.o));
    const T kappa = mu[0] + mu[1] * g.o * (F(1) - g.s * g.s) + d_o * a[4];  // by the new c
    const T df = kappa * (c - g.z) * (g.f * (F(1) - g.f));
    const T dz = kappa * (F(1) - g.f) * (F(1) - g.z * g.z);
    du[0] = df;
    du[1] = d_o;
    du[2] = dz;
    da[0] = da[0] + df * h;
    da[1] = da[1] + d_o * h;
    da[2] = da[2] + dz * h;
    da[3] = da[3] + df * c;
    da[4] = da[4] + d_o * g.c;
    mu_previous[0] = kappa * g.f + df * a[3];
    mu_previous[1] = df * a[0] + d_o * a[1] + dz * a[2];
  }
};

// ---- what the fused kernels of both devices share -----------------------------------------------

// product <- jacobian product, of S x S matrices.
template <typename T, int S>
CELL_FUNCTION void multiply(const T* jacobian, T* product) {
  T old[S * S];
  for (int i = 0; i < S * S; ++i) old[i] = product[i];
  for (int i = 0; i < S; ++i)
    for (int j = 0; j < S; ++j) {
      T sum = jacobian[i * S] * old[j];
      for (int k = 1; k < S; ++k) sum = sum + jacobian[i * S + k] * old[k * S + j];
      product[i * S + j] = sum;
    }
}

// Through one step back in time: lambda = jacobian^T mu, transfer <- jacobian^T transfer.
template <typename T, int S>
CELL_FUNCTION void transfer_back(const T* jacobian, const T* mu, T* lambda, T* transfer) {
  T transposed[S * S];
  for (int i = 0; i < S; ++i)
    for (int j = 0; j < S; ++j) transposed[i * S + j] = jacobian[j * S + i];
  for (int i = 0; i < S; ++i) {
    lambda[i] = transposed[i * S] * mu[0];
    for (int k = 1; k < S; ++k) lambda[i] = lambda[i] + transposed[i * S + k] * mu[k];
  }
  multiply<T, S>(transposed, transfer);
}

// Correction of one chunk's start (reference: multiple shooting). `end` is where the chunk before it
// ended, `product` that chunk's product of Jacobians, `moved` by how much its start has just moved.
// A correction that is not finite counts as none; the result is clamped to +-bound.
template <typename F, int S>
CELL_FUNCTION F corrected_start(int row, const F* end, const F* product, const F* moved, F bound) {
  F correction = 0;
  bool any = false;
  for (int j = 0; j < S; ++j) {
    any = any || moved[j] != F(0);
    correction += moved[j] != F(0) ? product[row * S + j] * moved[j] : F(0);
  }
  const bool finite = correction - correction == F(0);
  F start = any && finite ? end[row] + correction : end[row];
  start = start > bound ? bound : start;
  return start < -bound ? -bound : start;
}

// How far a chunk's start is from settled: by how much it moves or, where that is more, by how much
// the chunk before it misses it. A correction that the bound cuts off hides the latter.
template <typename F>
CELL_FUNCTION F unsettled_by(F end, F start, F next) {
  const F moved = next < start ? start - next : next - start;
  const F missed = end < start ? start - end : end - start;
  return missed > moved ? missed : moved;
}

}  // namespace pararnn
