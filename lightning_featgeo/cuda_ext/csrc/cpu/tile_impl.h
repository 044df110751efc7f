// The bodies of tile.h, compiled once per instruction set. Nothing here may call an inline function of the standard
// library: the linker would be free to use this copy of it on processors that lack the instructions.
#include "tile.h"

namespace featgeo {
namespace FEATGEO_SET {

template <class T, int Rows, int Vectors>
void multiply(const T* __restrict a, const T* __restrict b, int64_t depth, T* __restrict c, int64_t ldc, bool add) {
  typedef T Vector __attribute__((vector_size(FEATGEO_BYTES), aligned(sizeof(T))));
  constexpr int kLanes = FEATGEO_BYTES / sizeof(T), kPanel = Vectors * kLanes;
  Vector sum[Rows][Vectors] = {};
  for (int64_t k = 0; k < depth; ++k, a += kPanel, b += kPanel) {
    Vector right[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) right[v] = *(const Vector*)(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      Vector left = a[i] - Vector{};
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[i][v] += left * right[v];
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) {
      Vector* to = (Vector*)(c + i * ldc + v * kLanes);
      *to = add ? *to + sum[i][v] : sum[i][v];
    }
}

template <class T>
void squares(T* __restrict v, const T* __restrict norms, T own, int64_t n) {
  for (int64_t j = 0; j < n; ++j) v[j] = (own + norms[j]) - (v[j] + v[j]);
}

#ifndef FEATGEO_OWN_MASKS
template <class T>
uint64_t below(const T* v, T limit, int64_t n) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < n; ++j) bits |= uint64_t(v[j] < limit) << j;
  return bits;
}
template <class T>
uint64_t below_each(const T* v, const T* limits, int64_t n) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < n; ++j) bits |= uint64_t(v[j] < limits[j]) << j;
  return bits;
}
#endif

// exp(x) and exp(x) − 1 for x in [−87, 0], each to a few roundings of itself: with x = n·ln 2 + r, |r| <= ln 2 / 2, they
// are 2ⁿ(eʳ − 1) + 2ⁿ and 2ⁿ(eʳ − 1) + (2ⁿ − 1), and eʳ − 1 a Taylor polynomial of degree 8 (truncated at 2e-10 of it).
inline void exponential(float x, float* whole, float* minus_one) {
  x = x < -87.0f ? -87.0f : x;
  float bounded = x > -87.0f ? (x < 87.0f ? x : 87.0f) : -87.0f;  // also of NaN, of an infinite scale and no distance
  float n = (bounded * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest whole number
  float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 720 + r * (1.0f / 5040 + r * (1.0f / 40320));
  p = r + r * r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * p))));
  union {
    int32_t i;
    float f;
  } power;
  power.i = (int32_t(n) + 127) << 23;
  *whole = power.f * p + power.f;
  *minus_one = power.f * p + (power.f - 1.0f);
}
inline void exponential(double x, double* whole, double* minus_one) {
  *whole = __builtin_exp(x);
  *minus_one = __builtin_expm1(x);
}

template <class T>
void kernel(const T* __restrict v, const int32_t* __restrict ids, int32_t id, T scale, int64_t n, double* row,
            T* __restrict columns, int64_t stride) {
  constexpr int kRun = 64;  // so many terms are summed in T before they join the double
  T* __restrict column = columns;
  T* __restrict column_squares = columns + stride;
  T* __restrict column_counts = columns + 2 * stride;
  for (int64_t start = 0; start < n; start += kRun) {
    int64_t count = start + kRun < n ? kRun : n - start;
    T terms[3][kRun] = {};
    for (int64_t j = 0; j < count; ++j) {
      T d = v[start + j] > 0 ? v[start + j] : T(0);
      T e, k;
      exponential(-scale * d, &k, &e);
      bool here = ids[start + j] != id, near = e > T(-0.5);
      T term = near ? e : k, square = near ? e * (T(2) + e) : k * k;
      terms[0][j] = here ? term : T(0);
      terms[1][j] = here ? square : T(0);
      terms[2][j] = here && near ? T(1) : T(0);
    }
    for (int64_t j = 0; j < count; ++j) {
      column[start + j] += terms[0][j];
      column_squares[start + j] += terms[1][j];
      column_counts[start + j] += terms[2][j];
    }
    for (int t = 0; t < 3; ++t) {
      T lanes[16] = {}, sum = 0;
      for (int j = 0; j < kRun; j += 16)
        for (int l = 0; l < 16; ++l) lanes[l] += terms[t][j + l];
      for (int l = 0; l < 16; ++l) sum += lanes[l];
      row[t] += double(sum);
    }
  }
}

constexpr int kLanes = 16;  // independent sums, so that the compiler may vectorise and the order is always the same

inline double total(const double* lanes) {
  double sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += lanes[l];
  return sum;
}

template <class Source>
double distance(const Source* __restrict a, const Source* __restrict b, int64_t n) {
  double lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      double x = double(a[j + l]) - double(b[j + l]);
      lanes[l] += x * x;
    }
  for (int l = 0; j < n; ++j, ++l) {
    double x = double(a[j]) - double(b[j]);
    lanes[l] += x * x;
  }
  return total(lanes);
}

inline float to_bf16(float x) {  // to nearest, ties to even
  union {
    float f;
    uint32_t u;
  } bits;
  bits.f = x;
  bits.u = (bits.u + 0x7FFF + ((bits.u >> 16) & 1)) & 0xFFFF0000u;
  return bits.f;
}

template <bool Pairs, class Source, class Value>
inline void centre_one(Source x, double centre, double scale, Value* out, double* length, double* rest) {
  double v = (double(x) - centre) * scale;
  Value rounded = Pairs ? Value(to_bf16(float(v))) : Value(v);
  double lost = v - double(rounded);
  *out = rounded;
  *length += v * v;
  *rest += lost * lost;
}

template <bool Pairs, class Source, class Value>
inline void centre_all(const Source* __restrict x, const double* __restrict centre, double scale, int64_t n,
                       Value* __restrict out, double* length, double* rest) {
  double lengths[kLanes] = {}, rests[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int l = 0; l < kLanes; ++l)
      centre_one<Pairs>(x[j + l], centre[j + l], scale, out + j + l, lengths + l, rests + l);
  for (int l = 0; j < n; ++j, ++l) centre_one<Pairs>(x[j], centre[j], scale, out + j, lengths + l, rests + l);
  *length = total(lengths);
  *rest = total(rests);
}

template <class Source, class Value>
void centre(const Source* x, const double* centre, double scale, int64_t n, bool pairs, Value* out, double* length,
            double* rest) {
  if (pairs)
    centre_all<true>(x, centre, scale, n, out, length, rest);
  else
    centre_all<false>(x, centre, scale, n, out, length, rest);
}

template <class Source>
double shift_row(const Source* __restrict x, const float* __restrict shift, int64_t n, double* __restrict out,
                 double* __restrict sums) {
  double lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      double v = double(x[j + l]) - double(shift[j + l]);
      out[j + l] = v;
      sums[j + l] += v;
      lanes[l] += v * v;
    }
  for (int l = 0; j < n; ++j, ++l) {
    double v = double(x[j]) - double(shift[j]);
    out[j] = v;
    sums[j] += v;
    lanes[l] += v * v;
  }
  return total(lanes);
}

template <class Source>
void scaled_sums(const Source* __restrict x, double scale, int64_t n, double* __restrict sums,
                 double* __restrict squares) {
  for (int64_t j = 0; j < n; ++j) {
    double v = double(x[j]) * scale;
    sums[j] += v;
    squares[j] += v * v;
  }
}

template <class Source>
void activity(const Source* __restrict x, int64_t n, double* __restrict active) {
  for (int64_t j = 0; j < n; ++j) active[j] += x[j] > Source(0) ? 1.0 : 0.0;
}

template <class Source>
void extremes(const Source* __restrict x, int64_t n, double* __restrict minimum, double* __restrict maximum) {
  for (int64_t j = 0; j < n; ++j) {
    double v = double(x[j]);
    minimum[j] = v < minimum[j] ? v : minimum[j];
    maximum[j] = v > maximum[j] ? v : maximum[j];
  }
}

template <class Source>
RowOps<Source> row_ops() {
  return {distance<Source>,  centre<Source, float>, centre<Source, double>, shift_row<Source>, scaled_sums<Source>,
          activity<Source>,  extremes<Source>};
}

}  // namespace FEATGEO_SET
}  // namespace featgeo
