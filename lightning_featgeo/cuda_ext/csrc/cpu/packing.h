// Rows as the products want them: centred, scaled, rounded to the precision of a scan, and packed in panels.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "candidates.h"
#include "neighbors.h"
#include "tile.h"

namespace featgeo {

constexpr int64_t kDepth = 256;  // columns multiplied at a time, so that the operands stay in the second-level cache

struct F32 {
  using Packed = float;
  using Value = float;
  static constexpr bool kPairs = false;
  static const TileOps<float, float>& tile() { return instructions().f32; }
  static const PassOps<float>& pass() { return instructions().pass32; }
};
struct BF16 {
  using Packed = uint32_t;
  using Value = float;
  static constexpr bool kPairs = true;
  static const TileOps<uint32_t, float>& tile() { return instructions().bf16; }
  static const PassOps<float>& pass() { return instructions().pass32; }
};
struct F64 {
  using Packed = double;
  using Value = double;
  static constexpr bool kPairs = false;
  static const TileOps<double, double>& tile() { return instructions().f64; }
  static const PassOps<double>& pass() { return instructions().pass64; }
};

template <class P>
class PackedRows {
 public:
  using Packed = typename P::Packed;
  using Value = typename P::Value;

  PackedRows(int64_t capacity, int64_t columns)
      : depth(P::kPairs ? ceil_div(columns, 2) : columns),
        padded(ceil_div(capacity, kBlock) * kBlock),
        norms(padded),
        lengths(padded),
        columns_(columns),
        data_(padded * depth) {}

  // Pack rows [first, first + n); the rest of the last block is infinitely far away.
  void pack(const Matrix& rows, int64_t first, int64_t n, const Frame& frame) {
    count = n;
    int64_t panel = P::tile().panel, panels = ceil_div(n, kBlock) * kBlock / panel;
    std::vector<double> worst(size_t(panels), 0.0);
    parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
      int64_t stride = columns_ + 17;  // odd lines: columns of the scratch do not share a cache set
      Buffer<Value> scratch(panel * stride);
      for (int64_t p = begin; p < end; ++p) worst[size_t(p)] = pack_panel(rows, first, p, frame, scratch.get(), stride);
    });
    for (double w : worst) ratio = std::max(ratio, w);
  }

  const Packed* at(int64_t row, int64_t k) const {
    int64_t panel = P::tile().panel;
    return data_.get() + (row / panel) * depth * panel + k * panel + row % panel;
  }

  int64_t depth, padded, count = 0;
  Buffer<Value> norms;      // squared lengths
  Buffer<double> lengths;
  double ratio = 0.0;       // ρ: the largest share of a row that rounding took

 private:
  double pack_panel(const Matrix& rows, int64_t first, int64_t p, const Frame& frame, Value* scratch, int64_t stride) {
    int64_t panel = P::tile().panel;
    double worst = 0.0;
    for (int64_t r = 0; r < panel; ++r) {
      int64_t i = p * panel + r;
      Value* to = scratch + r * stride;
      to[columns_] = 0;  // the second of the last pair
      if (i >= count) {
        std::fill(to, to + columns_, Value(0));
        norms[i] = std::numeric_limits<Value>::infinity();
        lengths[i] = 0.0;
        continue;
      }
      double length = 0.0, rest = 0.0;
      centre(rows, first + i, frame, to, &length, &rest);
      norms[i] = Value(length);
      lengths[i] = std::sqrt(length);
      if (length > 0.0) worst = std::max(worst, std::sqrt(rest / length));
    }
    Packed* out = data_.get() + p * depth * panel;
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = 0; r < panel; ++r) out[k * panel + r] = packed(scratch + r * stride, k);
    return worst;
  }

  static void centre(const Matrix& rows, int64_t i, const Frame& f, float* to, double* length, double* rest) {
    const auto& set = instructions();
    if (rows.wide)
      set.row64.centre32(rows.row<double>(i), f.centre, f.scale, rows.columns, P::kPairs, to, length, rest);
    else
      set.row32.centre32(rows.row<float>(i), f.centre, f.scale, rows.columns, P::kPairs, to, length, rest);
  }
  static void centre(const Matrix& rows, int64_t i, const Frame& f, double* to, double* length, double* rest) {
    const auto& set = instructions();
    if (rows.wide)
      set.row64.centre64(rows.row<double>(i), f.centre, f.scale, rows.columns, false, to, length, rest);
    else
      set.row32.centre64(rows.row<float>(i), f.centre, f.scale, rows.columns, false, to, length, rest);
  }

  static Packed packed(const Value* row, int64_t k) {
    if constexpr (P::kPairs) {
      uint32_t low, high;
      __builtin_memcpy(&low, row + 2 * k, 4);
      __builtin_memcpy(&high, row + 2 * k + 1, 4);
      return (low >> 16) | (high & 0xFFFF0000u);
    } else {
      return row[k];
    }
  }

  int64_t columns_;
  Buffer<Packed> data_;
};

// c (kBlock wide) = products of `n` rows of a with kBlock rows of b.
template <class P>
void multiply(const PackedRows<P>& a, int64_t i0, int64_t n, const PackedRows<P>& b, int64_t j0, typename P::Value* c) {
  const auto& tile = P::tile();
  for (int64_t k = 0; k < a.depth; k += kDepth) {
    int64_t depth = std::min(kDepth, a.depth - k);
    for (int64_t j = 0; j < kBlock; j += tile.panel)
      for (int64_t i = 0; i < n; i += tile.rows)
        tile.multiply(a.at(i0 + i, k), b.at(j0 + j, k), depth, c + i * kBlock + j, kBlock, k > 0);
  }
}

}  // namespace featgeo
