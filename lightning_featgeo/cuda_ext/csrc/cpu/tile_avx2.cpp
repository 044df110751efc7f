// x86-64 with AVX2 and FMA.
#include "tile.h"

#ifdef __AVX2__
#include <immintrin.h>

#define FEATGEO_SET avx2
#define FEATGEO_BYTES 32
#define FEATGEO_OWN_MASKS
namespace featgeo {
namespace avx2 {
// Columns beyond n are masked out of the result; callers own whole blocks, so that reading them is allowed.
inline uint64_t first(int64_t n) { return n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }
inline uint64_t below(const float* v, float limit, int64_t n) {
  uint64_t bits = 0;
  __m256 t = _mm256_set1_ps(limit);
  for (int64_t j = 0; j < n; j += 8)
    bits |= uint64_t(unsigned(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v + j), t, _CMP_LT_OQ)))) << j;
  return bits & first(n);
}
inline uint64_t below_each(const float* v, const float* t, int64_t n) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < n; j += 8)
    bits |= uint64_t(unsigned(_mm256_movemask_ps(
                _mm256_cmp_ps(_mm256_loadu_ps(v + j), _mm256_loadu_ps(t + j), _CMP_LT_OQ)))) << j;
  return bits & first(n);
}
inline uint64_t below(const double* v, double limit, int64_t n) {
  uint64_t bits = 0;
  __m256d t = _mm256_set1_pd(limit);
  for (int64_t j = 0; j < n; j += 4)
    bits |= uint64_t(unsigned(_mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(v + j), t, _CMP_LT_OQ)))) << j;
  return bits & first(n);
}
inline uint64_t below_each(const double* v, const double* t, int64_t n) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < n; j += 4)
    bits |= uint64_t(unsigned(_mm256_movemask_pd(
                _mm256_cmp_pd(_mm256_loadu_pd(v + j), _mm256_loadu_pd(t + j), _CMP_LT_OQ)))) << j;
  return bits & first(n);
}
}  // namespace avx2
}  // namespace featgeo
#include "tile_impl.h"

namespace featgeo {
const InstructionSet* avx2_set() {
  using namespace avx2;
  static const InstructionSet set = {
      "avx2",
      {4, 24, multiply<float, 4, 3>},
      {4, 12, multiply<double, 4, 3>},
      {4, 24, nullptr},
      {squares<float>, below, below_each, kernel<float>},
      {squares<double>, below, below_each, kernel<double>},
      row_ops<float>(),
      row_ops<double>(),
  };
  return &set;
}
}  // namespace featgeo

#else
const featgeo::InstructionSet* featgeo::avx2_set() { return nullptr; }
#endif
