// Streaming moments on the CPU: rows minus a fixed shift per group, packed as they are read, then only the upper
// triangle of their scatter by tiles of float64 products; per-group sums come out of the same pass over the rows.
#include "moments.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tile.h"

namespace featgeo {
namespace {

constexpr int64_t kSide = 96;     // of a block of the scatter: whole panels of every instruction set
constexpr int64_t kDepth = 256;   // rows multiplied at a time
constexpr int64_t kPacked = 16 << 20;  // bytes of packed rows at a time, at most
constexpr int64_t kNear = 512 << 10;   // what is packed stays in the second-level cache, where the scatter is small
constexpr int64_t kColumns = 96;  // of a thread's share where sums are all there is to do

template <class S>
const RowOps<S>& row_ops();
template <>
const RowOps<float>& row_ops<float>() { return instructions().row32; }
template <>
const RowOps<double>& row_ops<double>() { return instructions().row64; }

// Groups that are seen for the first time: the mean of their rows in this batch, rounded, is their shift for good.
template <class S>
void begin_groups(const Matrix& rows, const int64_t* groups, const std::vector<int64_t>& added, const Moments& m) {
  int64_t d = rows.columns;
  std::vector<int64_t> slot(size_t(m.groups), -1);
  int64_t fresh = 0;
  for (int64_t g = 0; g < m.groups; ++g)
    if (m.counts[g] == 0 && added[size_t(g)]) slot[size_t(g)] = fresh++;
  if (!fresh) return;
  Buffer<double> sums(fresh * d);
  sums.fill(0.0);
  parallel_for(0, ceil_div(d, kColumns), 1, [&](int64_t begin, int64_t end) {
    int64_t from = begin * kColumns, to = std::min(d, end * kColumns);
    for (int64_t i = 0; i < rows.rows; ++i) {
      if (groups[i] < 0 || slot[size_t(groups[i])] < 0) continue;
      double* sum = sums.get() + slot[size_t(groups[i])] * d;
      const S* x = rows.row<S>(i);
      for (int64_t j = from; j < to; ++j) sum[j] += double(x[j]);
    }
  });
  for (int64_t g = 0; g < m.groups; ++g) {
    if (slot[size_t(g)] < 0) continue;
    const double* sum = sums.get() + slot[size_t(g)] * d;
    for (int64_t j = 0; j < d; ++j) m.shift[g * d + j] = float(sum[j] / double(added[size_t(g)]));
  }
}

// Rows order[first … first + n), shifted: to panels of columns, and into the groups' sums and squares.
template <class S>
void pack(const Matrix& rows, const int64_t* groups, const int64_t* order, int64_t n, const Moments& m, double* out) {
  const auto& ops = row_ops<S>();
  int64_t d = rows.columns, panel = instructions().f64.panel, sides = ceil_div(d, kSide);
  Buffer<double> squares(sides * n);  // added up in one order, however many threads there are
  parallel_for(0, sides, 1, [&](int64_t begin, int64_t end) {
    double shifted[kSide];
    for (int64_t s = begin; s < end; ++s) {
      int64_t from = s * kSide, width = std::min(kSide, d - from), padded = ceil_div(width, panel) * panel;
      for (int64_t j = width; j < padded; ++j) shifted[j] = 0.0;
      for (int64_t r = 0; r < n; ++r) {
        int64_t i = order[r], g = groups[i];
        squares[s * n + r] =
            ops.shift(rows.row<S>(i) + from, m.shift + g * d + from, width, shifted, m.sums + g * d + from);
        for (int64_t j = 0; m.scatter && j < padded; j += panel) {
          double* to = out + ((from + j) / panel * n + r) * panel;
          for (int64_t c = 0; c < panel; ++c) to[c] = shifted[j + c];
        }
      }
    }
  });
  for (int64_t s = 0; s < sides; ++s)
    for (int64_t r = 0; r < n; ++r) m.squares[groups[order[r]]] += squares[s * n + r];
}

// scatter += packedᵀ packed, on and above the diagonal.
void multiply(const double* packed, int64_t n, int64_t d, double* scatter) {
  const auto& tile = instructions().f64;
  int64_t side = ceil_div(d, kSide), blocks = side * (side + 1) / 2;
  parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer<double> c(kSide * kSide);
    for (int64_t b = begin; b < end; ++b) {
      int64_t I = 0, rest = b;
      for (; rest >= side - I; ++I) rest -= side - I;
      int64_t J = I + rest, i0 = I * kSide, j0 = J * kSide;
      int64_t height = std::min(kSide, d - i0), width = std::min(kSide, d - j0);
      for (int64_t k = 0; k < n; k += kDepth) {
        int64_t depth = std::min(kDepth, n - k);
        for (int64_t j = 0; j < width; j += tile.panel)
          for (int64_t i = 0; i < height; i += tile.rows) {
            if (I == J && j + tile.panel <= i) continue;
            const double* left = packed + ((i0 + i) / tile.panel * n + k) * tile.panel + (i0 + i) % tile.panel;
            const double* right = packed + ((j0 + j) / tile.panel * n + k) * tile.panel;
            tile.multiply(left, right, depth, c.get() + i * kSide + j, kSide, k > 0);
          }
      }
      for (int64_t i = 0; i < height; ++i) {
        double* to = scatter + (i0 + i) * d + j0;
        for (int64_t j = I == J ? i : 0; j < width; ++j) to[j] += c[i * kSide + j];
      }
    }
  });
}

// Below the diagonal what is above it, in squares that stay in the first-level cache.
void mirror(int64_t d, double* scatter) {
  constexpr int64_t kSquare = 32;
  parallel_for(0, ceil_div(d, kSquare), 1, [&](int64_t begin, int64_t end) {
    for (int64_t j0 = begin * kSquare; j0 < std::min(d, end * kSquare); j0 += kSquare)
      for (int64_t i0 = 0; i0 <= j0; i0 += kSquare)
        for (int64_t j = j0; j < std::min(d, j0 + kSquare); ++j)
          for (int64_t i = i0; i < std::min(j, i0 + kSquare); ++i) scatter[j * d + i] = scatter[i * d + j];
  });
}

template <class S>
void add(const Matrix& rows, const int64_t* groups, const std::vector<int64_t>& order, int64_t split, const Moments& m) {
  int64_t d = rows.columns, panel = instructions().f64.panel, width = m.scatter ? ceil_div(d, panel) * panel : 0;
  int64_t line = std::max<int64_t>(1, width) * int64_t(sizeof(double));
  int64_t at_once = std::max({kDepth, kNear / line, std::min(d, kPacked / line)});
  int64_t total = int64_t(order.size());
  Buffer<double> packed(std::min(at_once, total) * width);
  for (int64_t bucket = 0; bucket < 2; ++bucket) {
    int64_t first = bucket ? split : 0, last = bucket ? total : split;
    for (; first < last; first += at_once) {
      int64_t n = std::min(at_once, last - first);
      pack<S>(rows, groups, order.data() + first, n, m, packed.get());
      if (m.scatter) multiply(packed.get(), n, d, m.scatter + (m.buckets > 1 ? bucket : 0) * d * d);
    }
    bool any = bucket ? split < total : split > 0;
    if (m.scatter && any) mirror(d, m.scatter + (m.buckets > 1 ? bucket : 0) * d * d);
  }
}

template <class S>
void add_scatter_of(const Matrix& rows, const int64_t* groups, const Moments& m) {
  std::vector<int64_t> added(size_t(m.groups), 0), order;
  order.reserve(size_t(rows.rows));
  for (int bucket = 0; bucket < 2; ++bucket)  // labelled rows first: each bucket's rows lie together
    for (int64_t i = 0; i < rows.rows; ++i)
      if (groups[i] >= 0 && (groups[i] >= m.labelled_groups) == (bucket == 1)) order.push_back(i);
  int64_t split = 0;
  for (int64_t i : order) {
    ++added[size_t(groups[i])];
    split += groups[i] < m.labelled_groups;
  }
  if (order.empty()) return;
  begin_groups<S>(rows, groups, added, m);
  add<S>(rows, groups, order, split, m);
  for (int64_t g = 0; g < m.groups; ++g) m.counts[g] += double(added[size_t(g)]);
}

template <class S>
void add_directions_of(const Matrix& rows, const bool* keep, double* count, double* sums, double* squares) {
  const auto& ops = row_ops<S>();
  int64_t n = rows.rows, d = rows.columns;
  Buffer<double> inverse(n);
  std::vector<S> origin(size_t(d), S(0));
  parallel_for(0, n, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double square = keep[i] ? ops.distance(rows.row<S>(i), origin.data(), d) : 0.0;
      inverse[i] = square > 0.0 ? 1.0 / std::sqrt(square) : 0.0;
    }
  });
  for (int64_t i = 0; i < n; ++i) {
    count[0] += keep[i];
    count[1] += inverse[i] > 0.0;
  }
  parallel_for(0, ceil_div(d, kColumns), 1, [&](int64_t begin, int64_t end) {
    int64_t from = begin * kColumns, width = std::min(d, end * kColumns) - from;
    for (int64_t i = 0; i < n; ++i)
      if (inverse[i] > 0.0) ops.scaled_sums(rows.row<S>(i) + from, inverse[i], width, sums + from, squares + from);
  });
}

template <class S>
void add_activity_of(const Matrix& rows, const bool* keep, double* active, double* minimum, double* maximum) {
  const auto& ops = row_ops<S>();
  int64_t d = rows.columns;
  parallel_for(0, ceil_div(d, kColumns), 1, [&](int64_t begin, int64_t end) {
    int64_t from = begin * kColumns, width = std::min(d, end * kColumns) - from;
    for (int64_t i = 0; i < rows.rows; ++i)
      if (keep[i]) {
        ops.activity(rows.row<S>(i) + from, width, active + from);
        if (minimum) ops.extremes(rows.row<S>(i) + from, width, minimum + from, maximum + from);
      }
  });
}

}  // namespace

void add_scatter(const Matrix& rows, const int64_t* groups, const Moments& m) {
  rows.wide ? add_scatter_of<double>(rows, groups, m) : add_scatter_of<float>(rows, groups, m);
}

void add_directions(const Matrix& rows, const bool* keep, double* count, double* sums, double* squares) {
  rows.wide ? add_directions_of<double>(rows, keep, count, sums, squares)
            : add_directions_of<float>(rows, keep, count, sums, squares);
}

void add_activity(const Matrix& rows, const bool* keep, double* active, double* minimum, double* maximum) {
  rows.wide ? add_activity_of<double>(rows, keep, active, minimum, maximum)
            : add_activity_of<float>(rows, keep, active, minimum, maximum);
}

}  // namespace featgeo
