// The CPU ops without torch, over random shapes, under the address and undefined-behaviour sanitizers, against loops.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "moments.h"
#include "neighbors.h"

namespace featgeo {
int64_t threads() { return 3; }
void parallel_for(int64_t begin, int64_t end, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (begin >= end) return;
  int64_t each = std::max(grain, ceil_div(end - begin, threads()));
  std::vector<std::thread> pool;
  for (int64_t from = begin; from < end; from += each)
    pool.emplace_back([&, from] { body(from, std::min(end, from + each)); });
  for (auto& thread : pool) thread.join();
}
}  // namespace featgeo

using namespace featgeo;
std::mt19937 random_bits(0);
int below(int n) { return int(random_bits() % unsigned(n)); }

template <class S>
std::vector<S> normal(int64_t n) {
  std::normal_distribution<double> draw;
  std::vector<S> x(static_cast<size_t>(n));
  for (auto& v : x) v = S(draw(random_bits));
  return x;
}

template <class S>
int neighbors(bool self) {
  int64_t n = below(450), m = self ? n : 1 + below(900), d = 1 + below(60), k = below(40);
  if (self && n == 0) n = m = 1;
  auto q = normal<S>(n * d), b = self ? q : normal<S>(m * d);
  std::vector<int32_t> qi(static_cast<size_t>(n)), bi(static_cast<size_t>(m));
  for (auto& id : bi) id = below(30);
  for (auto& id : qi) id = below(30);
  if (self) bi = qi;
  std::vector<double> centre(static_cast<size_t>(d), 0.1), distances(static_cast<size_t>(n * k)), sums(static_cast<size_t>(n), 0.0), squares = sums;
  std::vector<int64_t> indices(static_cast<size_t>(n * k));
  std::unique_ptr<bool[]> certain(new bool[static_cast<size_t>(n) + 1]);
  Matrix queries{q.data(), n, d, sizeof(S) == 8}, reference{b.data(), m, d, sizeof(S) == 8};
  Precision precision = Precision(below(3));
  bool kernel = below(2);
  Table table{k, distances.data(), indices.data(), certain.get(), kernel ? sums.data() : nullptr, squares.data()};
  nearest({queries, reference, self, qi.data(), bi.data(), {centre.data(), 1.0 / 64}, true, 0.5}, precision, table);
  int wrong = 0;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<double> all;
    double sum = 0.0;
    for (int64_t j = 0; j < m; ++j) {
      if (qi[size_t(i)] == bi[size_t(j)]) continue;
      double square = 0.0;
      for (int64_t c = 0; c < d; ++c) square += std::pow(double(q[size_t(i * d + c)]) - double(b[size_t(j * d + c)]), 2);
      all.push_back(std::sqrt(square));
      sum += std::exp(-0.5 * square);
    }
    std::sort(all.begin(), all.end());
    if (certain[size_t(i)])
      for (int64_t c = 0; c < k; ++c) {
        double truth = c < int64_t(all.size()) ? all[size_t(c)] : std::numeric_limits<double>::infinity();
        double found = distances[size_t(i * k + c)];
        wrong += !(found == truth || std::abs(found - truth) < 1e-9);
      }
    double tolerance = precision == Precision::kBf16 ? 1e9 : precision == Precision::kF32 ? 1e-3 : 1e-9;
    if (kernel) wrong += std::abs(sums[size_t(i)] - sum) > tolerance * (1.0 + sum);
  }
  if (wrong) std::printf("neighbors: %d wrong at n %ld m %ld d %ld k %ld precision %ld self %d\n", wrong, long(n), long(m), long(d), long(k), long(precision), self);
  return wrong;
}

template <class S>
int moments() {
  int64_t n = below(700), d = 1 + below(260), groups = 1 + below(9), labelled = below(int(groups) + 1), buckets = below(3);
  auto x = normal<S>(n * d);
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (auto& id : ids) id = below(int(groups) + 1) - 1;
  std::vector<float> shift(static_cast<size_t>(groups * d));
  std::vector<double> counts(static_cast<size_t>(groups)), sums(static_cast<size_t>(groups * d)), squares(static_cast<size_t>(groups)), scatter(static_cast<size_t>(buckets * d * d));
  add_scatter({x.data(), n, d, sizeof(S) == 8}, ids.data(),
              {groups, labelled, buckets, shift.data(), counts.data(), sums.data(), squares.data(), buckets ? scatter.data() : nullptr});
  int wrong = 0;
  for (int probe = 0; probe < 20 && buckets; ++probe) {
    int64_t i = below(int(d)), j = below(int(d)), bucket = below(int(buckets));
    double truth = 0.0;
    for (int64_t r = 0; r < n; ++r) {
      int64_t g = ids[size_t(r)];
      if (g < 0 || (buckets == 2 && (g >= labelled) != (bucket == 1))) continue;
      truth += (double(x[size_t(r * d + i)]) - double(shift[size_t(g * d + i)])) * (double(x[size_t(r * d + j)]) - double(shift[size_t(g * d + j)]));
    }
    wrong += !(std::abs(scatter[size_t((bucket * d + i) * d + j)] - truth) < 1e-9);
  }
  std::unique_ptr<bool[]> keep(new bool[static_cast<size_t>(n) + 1]);
  for (int64_t i = 0; i < n; ++i) keep[size_t(i)] = below(3);
  std::vector<double> a(static_cast<size_t>(d)), low(static_cast<size_t>(d)), high(static_cast<size_t>(d)), two(2);
  add_activity({x.data(), n, d, sizeof(S) == 8}, keep.get(), a.data(), below(2) ? low.data() : nullptr, high.data());
  add_directions({x.data(), n, d, sizeof(S) == 8}, keep.get(), two.data(), a.data(), low.data());
  if (wrong) std::printf("moments: %d wrong at n %ld d %ld\n", wrong, long(n), long(d));
  return wrong;
}

int main(int count, char** given) {
  int wrong = 0;
  const int rounds = count > 1 ? std::atoi(given[1]) : 40;
  for (int round = 0; round < rounds; ++round) {
    wrong += neighbors<float>(round % 2) + neighbors<double>(round % 2);
    wrong += moments<float>() + moments<double>();
  }
  std::printf("%s: %d wrong\n", instruction_set(), wrong);
  return wrong != 0;
}
