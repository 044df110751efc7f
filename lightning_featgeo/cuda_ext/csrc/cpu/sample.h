// What a candidate must beat from the start, told by a sample of the rows: most of what will not stay is never kept.
#pragma once
#include <algorithm>
#include <cmath>

#include "candidates.h"
#include "packing.h"

namespace featgeo {

constexpr int64_t kWorthSampling = 64;  // neighbours from which on a sample costs less than the candidates it spares

// Copies of `kBlock` of the rows, spread over all of them; and their ids.
class Spread {
 public:
  Spread(const Matrix& rows, const int32_t* ids) : bytes_(rows.columns * int64_t(rows.wide ? 8 : 4)), data_(kBlock * bytes_), ids_(kBlock) {
    double golden = (std::sqrt(5.0) - 1.0) / 2.0;  // multiples of it are spread evenly, and follow no period of the rows
    for (int64_t s = 0; s < kBlock; ++s) {
      double place = double(s) * golden;
      int64_t i = std::min(rows.rows - 1, int64_t((place - std::floor(place)) * double(rows.rows)));
      const char* from = static_cast<const char*>(rows.data) + i * bytes_;
      std::copy(from, from + bytes_, data_.get() + s * bytes_);
      ids_[s] = ids[i];
    }
    matrix = {data_.get(), kBlock, rows.columns, rows.wide};
  }
  int32_t id(int64_t s) const { return ids_[s]; }
  Matrix matrix;

 private:
  int64_t bytes_;
  Buffer<char> data_;
  Buffer<int32_t> ids_;
};

// Set the limits of rows that look for k neighbours among each other: below its limit a row finds more than k others,
// but for one row in a thousand. That one is found not to be certain, as any row that has too few candidates.
template <class P>
void begin_below(const PackedRows<P>& packed, const Matrix& rows, const int32_t* ids, const Frame& frame, int64_t k,
                 const Best<typename P::Value>& best) {
  using Value = typename P::Value;
  int64_t n = rows.rows;
  if (n == 0) return;
  double expected = double(kBlock) * double(k) / double(n);  // of a row's k neighbours, how many are in the sample
  auto rank = int64_t(std::ceil(expected + 3.0 * std::sqrt(expected))) + 2;
  if (k < kWorthSampling || rank > kBlock / 4) return;
  Spread sample(rows, ids);
  PackedRows<P> few(kBlock, rows.columns);
  few.pack(sample.matrix, 0, kBlock, frame);
  parallel_for(0, ceil_div(n, kBlock), 1, [&](int64_t begin, int64_t end) {
    Buffer<Value> c(kBlock * kBlock), others(kBlock), scratch(kBlock);
    for (int64_t b = begin; b < end; ++b) {
      int64_t i0 = b * kBlock, height = std::min(kBlock, n - i0);
      multiply(packed, i0, kBlock, few, 0, c.get());
      for (int64_t i = 0; i < height; ++i) {
        Value* v = c.get() + i * kBlock;
        P::pass().squares(v, few.norms.get(), packed.norms[i0 + i], kBlock);
        int64_t count = 0;
        for (int64_t s = 0; s < kBlock; ++s) {
          others[count] = v[s];
          count += sample.id(s) != ids[i0 + i];
        }
        if (count < kBlock / 2) continue;  // most rows are no neighbours of this one
        keep_smallest(others.get(), count, rank + 1, scratch.get());
        best.limits[i0 + i] = others[rank];
      }
    }
  });
}

}  // namespace featgeo
