// Streaming sums over rows in memory.
#pragma once
#include "buffer.h"

namespace featgeo {

struct Moments {  // see scatter_ in ops.py
  int64_t groups, labelled_groups, buckets;
  float* shift;
  double *counts, *sums, *squares, *scatter;  // scatter: null where none is kept
};

void add_scatter(const Matrix& rows, const int64_t* groups, const Moments& m);
void add_directions(const Matrix& rows, const bool* keep, double* count, double* sums, double* squares);
// minimum and maximum: null where they are not wanted
void add_activity(const Matrix& rows, const bool* keep, double* active, double* minimum, double* maximum);

}  // namespace featgeo
