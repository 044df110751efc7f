// For every processor: 16-byte vectors, which compilers map to SSE2 or NEON.
#define FEATGEO_SET portable
#define FEATGEO_BYTES 16
#include "tile_impl.h"

#include <cstdlib>
#include <cstring>

namespace featgeo {

const InstructionSet* portable_set() {
  using namespace portable;
  static const InstructionSet set = {
      "portable",
      {4, 8, multiply<float, 4, 2>},
      {4, 4, multiply<double, 4, 2>},
      {4, 8, nullptr},
      {squares<float>, below<float>, below_each<float>, kernel<float>},
      {squares<double>, below<double>, below_each<double>, kernel<double>},
      row_ops<float>(),
      row_ops<double>(),
  };
  return &set;
}

namespace {

const InstructionSet* best() {
  const char* asked = std::getenv("LIGHTNING_FEATGEO_ISA");
  const InstructionSet* found = nullptr;
#if defined(__x86_64__) || defined(_M_X64)
  bool less = asked && (!std::strcmp(asked, "portable") || !std::strcmp(asked, "avx2")), any = !less;
  if (any && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found = avx512_set();
  if (!found && (any || std::strcmp(asked, "portable")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found = avx2_set();
#endif
  return found ? found : portable_set();
}

}  // namespace

const InstructionSet& instructions() {
  static const InstructionSet* const chosen = best();
  return *chosen;
}

}  // namespace featgeo
