// x86-64 with AVX-512 (F, BW, DQ, VL), and its bf16 products where the processor has them.
#include "tile.h"

#ifdef __AVX512F__
#include <immintrin.h>

#define FEATGEO_SET avx512
#define FEATGEO_BYTES 64
#define FEATGEO_OWN_MASKS
namespace featgeo {
namespace avx512 {
// Columns beyond n are masked out of the result; callers own whole blocks, so that reading them is allowed.
inline uint64_t first(int64_t n) { return n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }
inline uint64_t below(const float* v, float limit, int64_t n) {
  uint64_t bits = 0;
  __m512 t = _mm512_set1_ps(limit);
  for (int64_t j = 0; j < n; j += 16)
    bits |= uint64_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(v + j), t, _CMP_LT_OQ)) << j;
  return bits & first(n);
}
inline uint64_t below_each(const float* v, const float* t, int64_t n) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < n; j += 16)
    bits |= uint64_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(v + j), _mm512_loadu_ps(t + j), _CMP_LT_OQ)) << j;
  return bits & first(n);
}
inline uint64_t below(const double* v, double limit, int64_t n) {
  uint64_t bits = 0;
  __m512d t = _mm512_set1_pd(limit);
  for (int64_t j = 0; j < n; j += 8)
    bits |= uint64_t(_mm512_cmp_pd_mask(_mm512_loadu_pd(v + j), t, _CMP_LT_OQ)) << j;
  return bits & first(n);
}
inline uint64_t below_each(const double* v, const double* t, int64_t n) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < n; j += 8)
    bits |= uint64_t(_mm512_cmp_pd_mask(_mm512_loadu_pd(v + j), _mm512_loadu_pd(t + j), _CMP_LT_OQ)) << j;
  return bits & first(n);
}

#ifdef __AVX512BF16__
template <int Rows, int Vectors>
void multiply_pairs(const uint32_t* __restrict a, const uint32_t* __restrict b, int64_t depth, float* __restrict c,
                    int64_t ldc, bool add) {
  constexpr int kPanel = Vectors * 16;
  __m512 sum[Rows][Vectors];
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) sum[i][v] = _mm512_setzero_ps();
  for (int64_t k = 0; k < depth; ++k, a += kPanel, b += kPanel) {
    __m512bh right[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + v * 16);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      __m512bh left = (__m512bh)_mm512_set1_epi32(int(a[i]));
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) {
      float* to = c + i * ldc + v * 16;
      _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum[i][v]) : sum[i][v]);
    }
}
#endif
}  // namespace avx512
}  // namespace featgeo
#include "tile_impl.h"

namespace featgeo {
const InstructionSet* avx512_set() {
  using namespace avx512;
#ifdef __AVX512BF16__
  void (*pairs)(const uint32_t*, const uint32_t*, int64_t, float*, int64_t, bool) =
      __builtin_cpu_supports("avx512bf16") ? multiply_pairs<8, 3> : nullptr;
#else
  void (*pairs)(const uint32_t*, const uint32_t*, int64_t, float*, int64_t, bool) = nullptr;
#endif
  static const InstructionSet set = {
      "avx512",
      {8, 48, multiply<float, 8, 3>},
      {8, 24, multiply<double, 8, 3>},
      {8, 48, pairs},
      {squares<float>, below, below_each, kernel<float>},
      {squares<double>, below, below_each, kernel<double>},
      row_ops<float>(),
      row_ops<double>(),
  };
  return &set;
}
}  // namespace featgeo

#else
const featgeo::InstructionSet* featgeo::avx512_set() { return nullptr; }
#endif
