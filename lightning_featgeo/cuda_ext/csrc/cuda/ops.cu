// The ops on CUDA tensors, under the names that schemas.py defines. One file to compile, because torch's headers take
// most of that time.
#include "moments.cuh"
#include "prepare.cuh"
#include "prove.cuh"
#include "reservoir.cuh"
#include "search.cuh"
#include "select.cuh"
#include "units.cuh"

STABLE_TORCH_LIBRARY_IMPL(lightning_featgeo, CUDA, m) {
  m.impl("best", TORCH_BOX(&featgeo::searching::best));
  m.impl("direction_sums_", TORCH_BOX(&featgeo::units::direction_sums_));
  m.impl("frame", TORCH_BOX(&featgeo::searching::frame));
  m.impl("group_sums_", TORCH_BOX(&featgeo::moments::group_sums_));
  m.impl("hash_priority", TORCH_BOX(&featgeo::units::hash_priority));
  m.impl("kernel_sums_", TORCH_BOX(&featgeo::selection::kernel_sums_));
  m.impl("place_", TORCH_BOX(&featgeo::reservoir::place_));
  m.impl("prepare", TORCH_BOX(&featgeo::preparing::prepare));
  m.impl("prove", TORCH_BOX(&featgeo::proving::prove));
  m.impl("reservoir_slots", TORCH_BOX(&featgeo::reservoir::reservoir_slots));
  m.impl("select_", TORCH_BOX(&featgeo::selection::select_));
  m.impl("unit_stats_", TORCH_BOX(&featgeo::units::unit_stats_));
}

// For library.py: what this was built from, and what it holds.
#define FEATGEO_EXPORT extern "C" __attribute__((visibility("default"), used))
FEATGEO_EXPORT const char* featgeo_fingerprint() { return FEATGEO_FINGERPRINT; }
FEATGEO_EXPORT const char* featgeo_ops() {
  return "best direction_sums_ frame group_sums_ hash_priority kernel_sums_ place_ prepare prove reservoir_slots "
         "select_ unit_stats_";
}
