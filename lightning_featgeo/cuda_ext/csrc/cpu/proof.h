// From candidates to neighbours: distances by subtraction in float64, then a proof that nothing else can be nearer.
//
// proof.py derives the bounds step by step; the names here are its symbols:
//   ratio      ρ, the largest share of its length that a row lost by rounding
//   u          the largest relative error of one addition (of fp32 or float64 sums, which round to nearest here)
//   gamma      γ = (d+2)u/(1−(d+2)u), of a sum of d = `columns` products in any order
//   eta        η = γ(1+ρ)² + 2ρ + ρ²: a product of rows q and b is wrong by at most η‖q‖‖b‖
//   ends       4u + (d+4)·2⁻⁵³: what the two lengths and the last additions lose, in units of (‖q‖+‖b‖)²
//   measuring  what a distance that was measured by subtraction may have lost, as a factor of its square
//   between    by how much the scanned value of two rows of such lengths can be wrong
//   near       the same for a row within a distance of the query: it is no longer than the query and that distance
// If everything that was thrown away scanned above D² + near(‖q‖, D²), with D the k-th measured distance, the k nearest
// are certain; and a candidate that scans above that need not be measured.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "candidates.h"
#include "neighbors.h"
#include "tile.h"

namespace featgeo {

constexpr double kTiny = 1e-30;  // above what products lose that underflow, in units of the longest row

inline double distance(const Matrix& a, int64_t i, const Matrix& b, int64_t j) {
  if (a.wide) return instructions().row64.distance(a.row<double>(i), b.row<double>(j), a.columns);
  return instructions().row32.distance(a.row<float>(i), b.row<float>(j), a.columns);
}

struct Bound {
  double eta, ends, measuring;

  template <class P>
  static Bound of(int64_t columns, double ratio) {
    double u = std::is_same<typename P::Value, double>::value ? 0x1p-53 : 0x1p-24;
    double terms = double(columns + 2) * u;
    double gamma = terms < 0.5 ? terms / (1.0 - terms) : INFINITY;  // of so many terms nothing is known
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
                int64_t* indices, std::vector<Measured>& doubtful, Candidate<Value>* scratch) {
  auto *from = best.begin(row), *to = best.end(row), *kth = std::min(from + k, to);
  double error = 2.0 * bound.between(length, longest), limit = double(best.limits[row]);
  double squared_scale = scale * scale, low = 0.0, high = 0.0;
  bool sure = std::isinf(limit);
  if (to - from > k) keep_smallest(from, to - from, k, scratch);
  std::sort(from, kth);
  if (kth - from == k) {
    low = double(kth[-1].value()) - error, high = double(kth[-1].value()) + error;
    sure = sure || limit > high;
  }
  int64_t count = 0;
  auto put = [&](double square, int32_t index) {
    distances[count] = std::sqrt(std::max(square, 0.0));
    indices[count++] = index;
  };
  doubtful.clear();
  for (auto* c = kth; c != to; ++c)
    if (double(c->value()) <= high) doubtful.push_back({0.0, c->index()});
  if (doubtful.empty()) low = std::numeric_limits<double>::infinity();  // no other can be as near
  auto* next = from;
  for (; next != kth && double(next->value()) < low; ++next) put(double(next->value()) / squared_scale, next->index());
  int64_t scanned = count;
  for (; next != kth; ++next) doubtful.push_back({0.0, next->index()});
  for (auto& m : doubtful) m.square = distance(queries, query, reference, m.index);
  std::sort(doubtful.begin(), doubtful.end());
  for (size_t i = 0; count < kth - from; ++i) put(doubtful[i].square, doubtful[i].index);
  for (int64_t i = scanned; i > 0 && i < count && distances[i] < distances[i - 1]; ++i)  // two sorted runs become one
    for (int64_t j = i; j > 0 && distances[j] < distances[j - 1]; --j) {
      std::swap(distances[j], distances[j - 1]);
      std::swap(indices[j], indices[j - 1]);
    }
  return sure;
}

// The table's rows are the queries from number `first` on.
template <class P>
void settle_all(const Best<typename P::Value>& best, const Matrix& queries, int64_t first, int64_t rows,
                const Matrix& reference, const double* lengths, double longest, double ratio, const Frame& frame,
                bool measure, Table& table) {
  Bound bound = Bound::of<P>(queries.columns, ratio);
  parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<Measured> kept;
    Buffer<Candidate<typename P::Value>> scratch(best.room());
    for (int64_t i = begin; i < end; ++i) {
      table.certain[i] = table.k == 0;
      if (table.k == 0) continue;
      double* distances = table.distances + i * table.k;
      int64_t* indices = table.indices + i * table.k;
      std::fill(distances, distances + table.k, std::numeric_limits<double>::infinity());
      std::fill(indices, indices + table.k, int64_t(-1));
      int64_t query = first + i;
      double length = lengths[query];
      table.certain[i] = measure ? settle(best, i, queries, query, reference, length, frame.scale, bound, table.k,
                                          distances, indices, kept)
                                 : settle_set(best, i, queries, query, reference, length, longest, frame.scale, bound,
                                              table.k, distances, indices, kept, scratch.get());
    }
  });
}

}  // namespace featgeo
