// A bottom-k reservoir: which slots take which new rows.
#pragma once
#include "buffer.h"

namespace featgeo {

// See reservoir_slots in ops.py: the same slots, in the same order, as its reference.
void reservoir_slots(const int64_t* priorities, int64_t capacity, const int64_t* offered, int64_t n, int64_t empty,
                     int64_t* slots, int64_t* sources, bool* accepted);

}  // namespace featgeo
