// Exact nearest neighbours on the CPU: scans over tiles of products, in low precision, that keep the best candidates of
// every row (candidates.h) and prove which of them are the nearest (proof.h).
#include "neighbors.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "candidates.h"
#include "packing.h"
#include "proof.h"
#include "sample.h"
#include "tile.h"

namespace featgeo {
namespace {

constexpr int64_t kStream = 8 << 20;  // bytes of reference rows packed at a time

struct Sums {
  double* sums;  // null: no kernel
  double* squares;
  double scale;
};

int64_t width_of(int64_t k, bool pairs, int64_t available) {
  k = std::min(k, available);  // before anything is added to it
  int64_t spare = pairs ? k + 32 : 16;
  return std::max<int64_t>(1, std::min(k + spare, available));
}

template <class P>
using Value_of = typename P::Value;

template <class P>
Value_of<P> inner_scale(const Sums& kernel, const Frame& frame) {
  return Value_of<P>(kernel.scale / (frame.scale * frame.scale));
}

template <class P>
void search(const Matrix& queries, const Matrix& reference, const int32_t* query_ids, const int32_t* reference_ids,
            const Frame& frame, bool measure, const Sums& kernel, Table& table) {
  using Value = typename P::Value;
  const auto& pass = P::pass();
  int64_t n = queries.rows, m = reference.rows, d = queries.columns;
  PackedRows<P> own(n, d);
  own.pack(queries, 0, n, frame);
  Best<Value> best(n, width_of(table.k, P::kPairs, m));
  // as many query blocks as there are threads, if need be smaller ones
  int64_t panel = P::tile().panel;
  int64_t block = std::min(kBlock, std::max(panel, ceil_div(ceil_div(n, threads()), panel) * panel));
  int64_t at_once = std::max(kBlock, kStream / std::max<int64_t>(1, d * int64_t(sizeof(Value))) / kBlock * kBlock);
  at_once = std::min(at_once, ceil_div(m, kBlock) * kBlock);
  PackedRows<P> some(at_once, d);
  Value kernel_scale = inner_scale<P>(kernel, frame);
  double longest = 0.0;
  for (int64_t first = 0; first < m; first += at_once) {
    int64_t count = std::min(at_once, m - first), blocks = ceil_div(count, kBlock);
    some.pack(reference, first, count, frame);
    for (int64_t j = 0; j < count; ++j) longest = std::max(longest, some.lengths[j]);
    parallel_for(0, ceil_div(n, block), 1, [&](int64_t begin, int64_t end) {
      Buffer<Value> c(block * kBlock);
      Buffer<Value> columns(3 * kBlock);  // of no use here, but the pass fills them
      Buffer<Candidate<Value>> scratch(best.room());
      for (int64_t q = begin; q < end; ++q) {
        int64_t i0 = q * block, rows = std::min(block, n - i0);
        for (int64_t b = 0; b < blocks; ++b) {
          int64_t j0 = b * kBlock, width = std::min(kBlock, count - j0);
          multiply(own, i0, ceil_div(rows, P::tile().rows) * P::tile().rows, some, j0, c.get());
          for (int64_t i = 0; i < rows; ++i) {
            Value* v = c.get() + i * kBlock;
            pass.squares(v, some.norms.get() + j0, own.norms[i0 + i], kBlock);
            const int32_t* right = reference_ids + first + j0;
            for (int64_t j = 0; j < width; j += 64) {
              uint64_t bits = pass.below(v + j, best.limits[i0 + i], std::min<int64_t>(64, width - j));
              if (bits) offer(best, i0 + i, query_ids[i0 + i], v + j, right + j, first + j0 + j, bits, scratch.get());
            }
            if (!kernel.sums) continue;
            columns.fill(Value(0));
            double row[3] = {0.0, 0.0, 0.0};
            pass.kernel(v, right, query_ids[i0 + i], kernel_scale, width, row, columns.get(), kBlock);
            kernel.sums[i0 + i] += row[2] + row[0];
            kernel.squares[i0 + i] += row[2] + row[1];
          }
        }
      }
    });
  }
  settle_all<P>(best, queries, 0, n, reference, own.lengths.get(), longest, std::max(own.ratio, some.ratio), frame,
                measure, table);
}

// Rows among each other: every block of products serves its rows and its columns. In each round no block of rows is
// used twice, so that threads never write to the same row, and every row sees the others in the same order. Of `parts`
// parts, each takes rounds of its own: together they look at every pair of rows once.
template <class P>
void search_self(const PackedRows<P>& packed, int64_t n, const int32_t* ids, const Share& share, const Sums& kernel,
                 Value_of<P> kernel_scale, Best<Value_of<P>>& best) {
  using Value = Value_of<P>;
  const auto& pass = P::pass();
  int64_t blocks = ceil_div(n, kBlock), seats = blocks + blocks % 2;
  std::vector<int32_t> all(static_cast<size_t>(packed.padded), std::numeric_limits<int32_t>::min());
  std::copy(ids, ids + n, all.begin());

  auto serve = [&](int64_t I, int64_t J, Value* c, Value* columns, Candidate<Value>* scratch) {
    int64_t i0 = I * kBlock, j0 = J * kBlock;
    int64_t height = std::min(kBlock, n - i0), width = std::min(kBlock, n - j0);
    multiply(packed, i0, kBlock, packed, j0, c);
    if (kernel.sums) std::fill(columns, columns + 3 * kBlock, Value(0));
    auto flush = [&] {
      if (!kernel.sums || I == J) return;
      for (int64_t j = 0; j < width; ++j) {
        double count = double(columns[2 * kBlock + j]);
        kernel.sums[j0 + j] += count + double(columns[j]);
        kernel.squares[j0 + j] += count + double(columns[kBlock + j]);
      }
      std::fill(columns, columns + 3 * kBlock, Value(0));
    };
    for (int64_t i = 0; i < height; ++i) {
      int64_t row = i0 + i;
      Value* v = c + i * kBlock;
      pass.squares(v, packed.norms.get() + j0, packed.norms[row], kBlock);
      for (int64_t j = 0; j < width; j += 64) {
        int64_t some = std::min<int64_t>(64, width - j);
        uint64_t bits = pass.below(v + j, best.limits[row], some);
        if (bits) offer(best, row, all[size_t(row)], v + j, all.data() + j0 + j, j0 + j, bits, scratch);
        if (I == J) continue;
        for (bits = pass.below_each(v + j, best.limits.get() + j0 + j, some); bits; bits &= bits - 1) {
          int64_t column = j0 + j + __builtin_ctzll(bits);
          if (all[size_t(column)] != all[size_t(row)]) best.add(column, v[column - j0], int32_t(row), scratch);
        }
      }
      if (kernel.sums) {
        double sums[3] = {0.0, 0.0, 0.0};
        pass.kernel(v, all.data() + j0, all[size_t(row)], kernel_scale, width, sums, columns, kBlock);
        kernel.sums[row] += sums[2] + sums[0];
        kernel.squares[row] += sums[2] + sums[1];
        if (i % 16 == 15) flush();  // so many terms are summed in the scan's precision
      }
    }
    flush();
  };

  auto round = [&](int64_t games, auto&& pair) {
    parallel_for(0, games, 1, [&](int64_t begin, int64_t end) {
      Buffer<Value> c(kBlock * kBlock), columns(3 * kBlock);
      Buffer<Candidate<Value>> scratch(best.room());
      for (int64_t g = begin; g < end; ++g) {
        auto [I, J] = pair(g);
        if (I < blocks && J < blocks) serve(std::min(I, J), std::max(I, J), c.get(), columns.get(), scratch.get());
      }
    });
  };
  int64_t alone = ceil_div(blocks - share.part, share.parts);  // blocks with themselves: every parts-th one
  round(alone, [&](int64_t g) { return std::pair<int64_t, int64_t>(g * share.parts + share.part, g * share.parts + share.part); });
  for (int64_t r = share.part; r + 1 < seats; r += share.parts)  // the circle method of round-robin tournaments
    round(seats / 2, [&](int64_t g) {
      int64_t others = seats - 1;
      if (g == 0) return std::pair<int64_t, int64_t>(others, r);
      return std::pair<int64_t, int64_t>((r + g) % others, (r + others - g) % others);
    });
}

double longest_of(const double* lengths, int64_t n) { return n ? *std::max_element(lengths, lengths + n) : 0.0; }

template <class P>
void nearest_to_self(const Problem& p, const Sums& kernel, Table& table) {
  int64_t n = p.queries.rows;
  PackedRows<P> packed(n, p.queries.columns);
  packed.pack(p.queries, 0, n, p.frame);
  Best<Value_of<P>> best(n, width_of(table.k, P::kPairs, n - 1));
  begin_below(packed, p.queries, p.query_ids, p.frame, table.k, best);
  search_self<P>(packed, n, p.query_ids, {0, 1}, kernel, inner_scale<P>(kernel, p.frame), best);
  settle_all<P>(best, p.queries, 0, n, p.queries, packed.lengths.get(), longest_of(packed.lengths.get(), n), packed.ratio, p.frame,
                p.measure, table);
}

template <class P>
void gather_in(const Problem& p, const Share& share, Found& found) {
  using Value = Value_of<P>;
  int64_t n = p.queries.rows;
  PackedRows<P> packed(n, p.queries.columns);
  packed.pack(p.queries, 0, n, p.frame);
  Best<Value> best(n, found.width);
  Sums kernel{found.sums, found.squares, p.kernel_scale};
  search_self<P>(packed, n, p.query_ids, share, kernel, inner_scale<P>(kernel, p.frame), best);
  auto *values = static_cast<Value*>(found.values), *limits = static_cast<Value*>(found.limits);
  std::copy(packed.lengths.get(), packed.lengths.get() + n, found.lengths);
  found.lengths[n] = packed.ratio;
  parallel_for(0, n, 64, [&](int64_t begin, int64_t end) {
    Buffer<Candidate<Value>> scratch(best.room());
    for (int64_t i = begin; i < end; ++i) {
      int64_t count = best.trim(i, scratch.get()), at = i * found.width;
      for (int64_t c = 0; c < found.width; ++c) {
        values[at + c] = c < count ? best.begin(i)[c].value() : std::numeric_limits<Value>::infinity();
        found.indices[at + c] = c < count ? best.begin(i)[c].index() : -1;
      }
      limits[i] = best.limits[i];
    }
  });
}

template <class P>
void settle_in(const Problem& p, int64_t first, int64_t rows, const Found& found, Table& table) {
  using Value = Value_of<P>;
  int64_t n = p.queries.rows;
  Best<Value> best(rows, found.width);
  auto *values = static_cast<const Value*>(found.values), *limits = static_cast<const Value*>(found.limits);
  for (int64_t i = 0; i < rows; ++i)
    best.set(i, values + i * found.width, found.indices + i * found.width, found.width, limits[i]);
  settle_all<P>(best, p.queries, first, rows, p.queries, found.lengths, longest_of(found.lengths, n), found.lengths[n],
                p.frame, p.measure, table);
}

template <class P>
void nearest_in(const Problem& p, Table& table) {
  Sums kernel{table.sums, table.squares, p.kernel_scale};
  if (p.self)
    nearest_to_self<P>(p, kernel, table);
  else
    search<P>(p.queries, p.reference, p.query_ids, p.reference_ids, p.frame, p.measure, kernel, table);
}

}  // namespace

bool has_bf16() { return instructions().bf16.multiply != nullptr; }
const char* instruction_set() { return instructions().name; }

template <class F>
void in_precision(Precision precision, F&& run) {
  if (precision == Precision::kBf16 && has_bf16())
    run(BF16{});
  else if (precision == Precision::kF64)
    run(F64{});
  else
    run(F32{});
}

void nearest(const Problem& problem, Precision precision, Table& table) {
  in_precision(precision, [&](auto p) { nearest_in<decltype(p)>(problem, table); });
}

void gather(const Problem& problem, Precision precision, const Share& share, Found& found) {
  in_precision(precision, [&](auto p) { gather_in<decltype(p)>(problem, share, found); });
}

void settle(const Problem& problem, Precision precision, int64_t first, int64_t rows, const Found& found,
            Table& table) {
  in_precision(precision, [&](auto p) { settle_in<decltype(p)>(problem, first, rows, found, table); });
}

}  // namespace featgeo
