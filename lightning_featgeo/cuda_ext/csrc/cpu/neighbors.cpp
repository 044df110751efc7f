// Exact nearest neighbours on the CPU: a scan in low precision that keeps the best candidates of every row, then
// distances by subtraction in float64, then a proof that nothing outside the candidates can be nearer.
//
// The proof. Rows are centred and scaled so that the longest is 1 (the centre and the scale need not be exact: they
// only make numbers small). With x̃ the rounded row and r its rounding error, ‖r‖ ≤ ρ‖x‖, a product over d columns in
// any order of summation differs from the true one by at most η‖q‖‖b‖, η = γ(1+ρ)² + 2ρ + ρ², γ = (d+2)u/(1−(d+2)u).
// Centring and lengths are in float64, whose round-off is w. Then |scan(q,b) − ‖q−b‖²| ≤ 2η‖q‖‖b‖ +
// (4u + (d+4)w)(‖q‖+‖b‖)². A row that is truly within distance D of q is no longer than ‖q‖ + D, so its scanned value is
// at most D² + E(q, D): all others can be left unmeasured, and if everything that was thrown away scanned above D² + E
// with D the k-th measured distance, the k nearest are known for certain.
#include "neighbors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "tile.h"

namespace featgeo {
namespace {

constexpr int64_t kBlock = 192;  // rows of a block: whole panels of every instruction set
constexpr int64_t kDepth = 256;  // columns multiplied at a time, so that the operands stay in the second-level cache
constexpr int64_t kStream = 8 << 20;  // bytes of reference rows packed at a time
constexpr double kTiny = 1e-30;  // above what products lose that underflow, in units of the longest row

// --- what differs between the precisions of the scan -----------------------------------------------------------------

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

// --- rows, centred, scaled and packed --------------------------------------------------------------------------------

double distance(const Matrix& a, int64_t i, const Matrix& b, int64_t j) {
  if (a.wide) return instructions().row64.distance(a.row<double>(i), b.row<double>(j), a.columns);
  return instructions().row32.distance(a.row<float>(i), b.row<float>(j), a.columns);
}

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

// --- the best candidates of every row --------------------------------------------------------------------------------

template <class Value>
struct Candidate {
  Value value_;
  int32_t index_;

  static Candidate of(Value value, int32_t index) { return {value, index}; }
  Value value() const { return value_; }
  int32_t index() const { return index_; }
  bool operator<(const Candidate& other) const {
    return value_ < other.value_ || (value_ == other.value_ && index_ < other.index_);
  }
};

template <>
struct Candidate<float> {  // one whole number that sorts by value, then by index
  uint64_t key;

  static Candidate of(float value, int32_t index) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return {uint64_t(bits) << 32 | uint32_t(index)};
  }
  float value() const {
    uint32_t bits = uint32_t(key >> 32);
    bits ^= bits >> 31 ? 0x80000000u : 0xFFFFFFFFu;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
  }
  int32_t index() const { return int32_t(uint32_t(key)); }
  bool operator<(const Candidate& other) const { return key < other.key; }
};

// Move the `width` smallest of n different things to the front, the largest of them last. A quickselect whose partition
// does not branch on the data: a comparison of distances is as good as a coin toss, and a wrong guess costs more than
// the copies.
template <class T>
void keep_smallest(T* a, int64_t n, int64_t width, T* scratch) {
  int64_t low = 0, high = n, target = width - 1;
  while (high - low > 12) {
    T x = a[low], y = a[low + (high - low) / 2], z = a[high - 1];
    T pivot = std::max(std::min(x, y), std::min(std::max(x, y), z));
    int64_t less = low, rest = 0;
    for (int64_t i = low; i < high; ++i) {
      T each = a[i];
      bool smaller = each < pivot;
      a[less] = each;
      scratch[rest] = each;
      less += smaller;
      rest += !smaller;
    }
    std::copy(scratch, scratch + rest, a + less);
    if (target < less) {
      high = less;
    } else if (less > low) {
      low = less;
    } else {  // the pivot is the smallest: it alone has found its place
      std::iter_swap(a + low, std::find_if(a + low, a + high, [&](const T& each) { return !(pivot < each); }));
      if (target == low) return;
      ++low;
    }
  }
  std::sort(a + low, a + high);
}

template <class Value>
class Best {
 public:
  Best(int64_t rows, int64_t width)
      : limits(ceil_div(rows, kBlock) * kBlock), width_(width), room_(2 * width), counts_(rows), store_(rows * room_) {
    limits.fill(std::numeric_limits<Value>::infinity());
    counts_.fill(0);
  }

  // `scratch` has space for 2·width candidates.
  void add(int64_t row, Value value, int32_t index, Candidate<Value>* scratch) {
    Candidate<Value>* own = begin(row);
    own[counts_[row]++] = Candidate<Value>::of(value, index);
    if (counts_[row] < room_) return;
    keep_smallest(own, room_, width_, scratch);
    counts_[row] = int32_t(width_);
    limits[row] = own[width_ - 1].value();  // everything thrown away from now on scans at or above this
  }

  int64_t room() const { return room_; }

  Candidate<Value>* begin(int64_t row) const { return store_.get() + row * room_; }
  Candidate<Value>* end(int64_t row) const { return begin(row) + counts_[row]; }

  Buffer<Value> limits;

 private:
  int64_t width_, room_;
  Buffer<int32_t> counts_;
  Buffer<Candidate<Value>> store_;
};

// Offer the columns of one row of a block whose bits are set.
template <class Value>
void offer(Best<Value>& best, int64_t row, int32_t id, const Value* v, const int32_t* ids, int64_t first, uint64_t bits,
           Candidate<Value>* scratch) {
  for (; bits; bits &= bits - 1) {
    int64_t j = __builtin_ctzll(bits);
    if (v[j] < best.limits[row] && ids[j] != id) best.add(row, v[j], int32_t(first + j), scratch);
  }
}

// --- from candidates to neighbours -----------------------------------------------------------------------------------

struct Bound {
  double eta, ends, measuring;

  template <class P>
  static Bound of(int64_t columns, double ratio) {
    double u = std::is_same<typename P::Value, double>::value ? 0x1p-53 : 0x1p-24;
    double terms = double(columns + 2) * u, gamma = terms / (1.0 - terms);
    double eta = gamma * (1.0 + ratio) * (1.0 + ratio) + 2.0 * ratio + ratio * ratio;
    return {eta, 4.0 * u + double(columns + 4) * 0x1p-53, 1.0 + 1e-12 + double(columns) * 0x1p-52};
  }
  double between(double a, double b) const { return 2.0 * eta * a * b + ends * (a + b) * (a + b) + kTiny; }
  double near(double length, double square) const { return between(length, length + std::sqrt(square)); }
};

struct Measured {
  double square;
  int32_t index;
  bool operator<(const Measured& other) const {
    return square < other.square || (square == other.square && index < other.index);
  }
};

// All k distances measured. Returns whether they are certain.
template <class Value>
bool settle(const Best<Value>& best, int64_t row, const Matrix& queries, int64_t query, const Matrix& reference,
            double length, double scale, const Bound& bound, int64_t k, double* distances, int64_t* indices,
            std::vector<Measured>& kept) {
  auto *from = best.begin(row), *to = best.end(row);
  std::sort(from, to);
  kept.clear();
  double squared_scale = scale * scale, kth = std::numeric_limits<double>::infinity();
  auto worst = [&] { return kept.front().square * squared_scale * bound.measuring; };
  auto* next = from;
  for (; next != to; ++next) {
    if (int64_t(kept.size()) == k && double(next->value()) > kth + bound.near(length, kth)) break;
    Measured found{distance(queries, query, reference, next->index()), next->index()};
    if (int64_t(kept.size()) < k) {
      kept.push_back(found);
      std::push_heap(kept.begin(), kept.end());
    } else if (found < kept.front()) {
      std::pop_heap(kept.begin(), kept.end());
      kept.back() = found;
      std::push_heap(kept.begin(), kept.end());
    }
    if (int64_t(kept.size()) == k) kth = worst();
  }
  double limit = double(best.limits[row]);
  bool sure = std::isinf(limit) || (int64_t(kept.size()) == k && limit > kth + bound.near(length, kth));
  std::sort_heap(kept.begin(), kept.end());
  for (size_t i = 0; i < kept.size(); ++i) {
    distances[i] = std::sqrt(kept[i].square);
    indices[i] = kept[i].index;
  }
  return sure;
}

// The right k, but only those measured of which it was in doubt whether they belong: distances as the scan has them.
template <class Value>
bool settle_set(const Best<Value>& best, int64_t row, const Matrix& queries, int64_t query, const Matrix& reference,
                double length, double longest, double scale, const Bound& bound, int64_t k, double* distances,
                int64_t* indices, std::vector<Measured>& kept) {
  auto *from = best.begin(row), *to = best.end(row);
  double error = 2.0 * bound.between(length, longest), limit = double(best.limits[row]);
  double squared_scale = scale * scale;
  kept.clear();
  bool sure = true;
  if (to - from <= k) {
    sure = std::isinf(limit);
    for (auto* c = from; c != to; ++c) kept.push_back({double(c->value()) / squared_scale, c->index()});
  } else {
    std::vector<Candidate<Value>> scratch(size_t(to - from));
    keep_smallest(from, to - from, k, scratch.data());
    double kth = double(from[k - 1].value());
    sure = limit > kth + error;
    std::vector<Measured> doubtful;
    for (auto* c = from; c != to; ++c) {
      double value = double(c->value());
      if (value < kth - error)
        kept.push_back({value / squared_scale, c->index()});
      else if (value <= kth + error)
        doubtful.push_back({0.0, c->index()});
    }
    size_t wanted = size_t(k) - kept.size();
    if (doubtful.size() > wanted) {
      for (auto& m : doubtful) m.square = distance(queries, query, reference, m.index);
      std::sort(doubtful.begin(), doubtful.end());
      doubtful.resize(wanted);
      kept.insert(kept.end(), doubtful.begin(), doubtful.end());
    } else {
      for (auto* c = from; c != to; ++c)
        if (double(c->value()) >= kth - error && double(c->value()) <= kth + error)
          kept.push_back({double(c->value()) / squared_scale, c->index()});
    }
  }
  std::sort(kept.begin(), kept.end());
  for (size_t i = 0; i < kept.size(); ++i) {
    distances[i] = std::sqrt(std::max(kept[i].square, 0.0));
    indices[i] = kept[i].index;
  }
  return sure;
}

template <class P>
void settle_all(const Best<typename P::Value>& best, const Matrix& queries, const Matrix& reference,
                const double* lengths, double longest, double ratio, const Frame& frame, bool measure, Table& table) {
  Bound bound = Bound::of<P>(queries.columns, ratio);
  parallel_for(0, queries.rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<Measured> kept;
    for (int64_t i = begin; i < end; ++i) {
      table.certain[i] = table.k == 0;
      if (table.k == 0) continue;
      double* distances = table.distances + i * table.k;
      int64_t* indices = table.indices + i * table.k;
      std::fill(distances, distances + table.k, std::numeric_limits<double>::infinity());
      std::fill(indices, indices + table.k, int64_t(-1));
      table.certain[i] =
          measure ? settle(best, i, queries, i, reference, lengths[i], frame.scale, bound, table.k, distances, indices, kept)
                  : settle_set(best, i, queries, i, reference, lengths[i], longest, frame.scale, bound, table.k, distances,
                               indices, kept);
    }
  });
}

// --- the scans -------------------------------------------------------------------------------------------------------

struct Sums {
  double* sums;  // null: no kernel
  double* squares;
  double scale;
};

int64_t width_of(const Table& table, bool pairs, int64_t available) {
  int64_t spare = pairs ? table.k + 32 : 16;
  return std::max<int64_t>(1, std::min(table.k + spare, available));
}

template <class P>
void search(const Matrix& queries, const Matrix& reference, const int32_t* query_ids, const int32_t* reference_ids,
            const Frame& frame, bool measure, const Sums& kernel, Table& table) {
  using Value = typename P::Value;
  const auto& pass = P::pass();
  int64_t n = queries.rows, m = reference.rows, d = queries.columns;
  PackedRows<P> own(n, d);
  own.pack(queries, 0, n, frame);
  Best<Value> best(n, width_of(table, P::kPairs, m));
  // as many query blocks as there are threads, if need be smaller ones
  int64_t panel = P::tile().panel;
  int64_t block = std::min(kBlock, std::max(panel, ceil_div(ceil_div(n, threads()), panel) * panel));
  int64_t at_once = std::max(kBlock, kStream / std::max<int64_t>(1, d * int64_t(sizeof(Value))) / kBlock * kBlock);
  at_once = std::min(at_once, ceil_div(m, kBlock) * kBlock);
  PackedRows<P> some(at_once, d);
  Value kernel_scale = Value(kernel.scale / (frame.scale * frame.scale));
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
  settle_all<P>(best, queries, reference, own.lengths.get(), longest, std::max(own.ratio, some.ratio), frame, measure,
                table);
}

// Rows among each other: every block of products serves its rows and its columns. In each round no block of rows is
// used twice, so that threads never write to the same row, and every row sees the others in the same order.
template <class P>
void search_self(const Matrix& rows, const int32_t* ids, const Frame& frame, bool measure, const Sums& kernel,
                 Table& table) {
  using Value = typename P::Value;
  const auto& pass = P::pass();
  int64_t n = rows.rows;
  PackedRows<P> packed(n, rows.columns);
  packed.pack(rows, 0, n, frame);
  Best<Value> best(n, width_of(table, P::kPairs, n - 1));
  Value kernel_scale = Value(kernel.scale / (frame.scale * frame.scale));
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
  round(blocks, [](int64_t g) { return std::pair<int64_t, int64_t>(g, g); });
  for (int64_t r = 0; r + 1 < seats; ++r)  // the circle method of round-robin tournaments
    round(seats / 2, [&](int64_t g) {
      int64_t others = seats - 1;
      if (g == 0) return std::pair<int64_t, int64_t>(others, r);
      return std::pair<int64_t, int64_t>((r + g) % others, (r + others - g) % others);
    });
  double longest = 0.0;
  for (int64_t i = 0; i < n; ++i) longest = std::max(longest, packed.lengths[i]);
  settle_all<P>(best, rows, rows, packed.lengths.get(), longest, packed.ratio, frame, measure, table);
}

template <class P>
void nearest_in(const Problem& p, Table& table) {
  Sums kernel{table.sums, table.squares, p.kernel_scale};
  if (p.self)
    search_self<P>(p.queries, p.query_ids, p.frame, p.measure, kernel, table);
  else
    search<P>(p.queries, p.reference, p.query_ids, p.reference_ids, p.frame, p.measure, kernel, table);
}

}  // namespace

bool has_bf16() { return instructions().bf16.multiply != nullptr; }
const char* instruction_set() { return instructions().name; }

void nearest(const Problem& problem, Precision precision, Table& table) {
  if (precision == Precision::kBf16 && has_bf16())
    nearest_in<BF16>(problem, table);
  else if (precision == Precision::kF64)
    nearest_in<F64>(problem, table);
  else
    nearest_in<F32>(problem, table);
}

}  // namespace featgeo
