// The best w of a row, on host and device alike: what select.cuh does with many threads, a host loop can do with one.
//
// A buffer holds the best so far and behind them what has come in since. Sorting it by (value, index), a total order,
// and keeping its head gives the same result however the newcomers are ordered among themselves.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define FEATGEO_BOTH __host__ __device__ inline
#else
#define FEATGEO_BOTH inline
#endif

namespace featgeo {

// Whether (value, index) comes before another one. Empty places hold (inf, −1) and come last.
template <class Value>
FEATGEO_BOTH bool before(Value a, int64_t i, Value b, int64_t j) {
  return a < b || (a == b && uint64_t(i) < uint64_t(j));
}

// The comparison that thread `i` of a bitonic sort makes at distance `step` in runs of `run`.
template <class Value>
FEATGEO_BOTH void exchange(int i, int step, int run, Value* values, int64_t* indices) {
  int other = i ^ step;
  if (other <= i) return;
  bool ascending = (i & run) == 0;
  if (before(values[other], indices[other], values[i], indices[i]) == ascending) {
    Value value = values[i];
    values[i] = values[other];
    values[other] = value;
    int64_t index = indices[i];
    indices[i] = indices[other];
    indices[other] = index;
  }
}

// Room for the best `width` and `incoming` more, as a bitonic sort wants it: a power of two.
FEATGEO_BOTH int room_for(int width, int incoming) {
  int room = 1;
  while (room < width + incoming) room *= 2;
  return room;
}

// ‖q‖² + ‖b‖² − 2q·b, in the order that every backend uses.
template <class Value>
FEATGEO_BOTH Value squared(Value query_norm, Value reference_norm, Value product) {
  return (query_norm + reference_norm) - (product + product);
}

}  // namespace featgeo
