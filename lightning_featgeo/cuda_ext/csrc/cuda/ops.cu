// The ops on CUDA tensors, under the names that schemas.py defines. One file to compile, because torch's headers take
// most of that time.
#include "moments.cuh"
#include "select.cuh"
#include "units.cuh"

STABLE_TORCH_LIBRARY_IMPL(lightning_featgeo, CUDA, m) {
  m.impl("direction_sums_", TORCH_BOX(&featgeo::units::direction_sums_));
  m.impl("hash_priority", TORCH_BOX(&featgeo::units::hash_priority));
  m.impl("scatter_", TORCH_BOX(&featgeo::moments::scatter_));
  m.impl("select_", TORCH_BOX(&featgeo::selection::select_));
  m.impl("unit_stats_", TORCH_BOX(&featgeo::units::unit_stats_));
}

// For library.py: what this was built from, and what it holds.
#define FEATGEO_EXPORT extern "C" __attribute__((visibility("default"), used))
FEATGEO_EXPORT const char* featgeo_fingerprint() { return FEATGEO_FINGERPRINT; }
FEATGEO_EXPORT const char* featgeo_ops() { return "direction_sums_ hash_priority scatter_ select_ unit_stats_"; }
