// prove: candidates measured by subtraction and put in order, and whether the k nearest are certain, a block to a query.
//
// Candidates come in the order of their scanned values. Once k are measured, those that scan above the k-th distance and
// all that products can be wrong by are no nearer (proof.py, step 3): they are left alone.
#pragma once
#include "common.cuh"
#include "select.h"

namespace featgeo::proving {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kWidest = 2048;

struct Bounds {  // the numbers of proof.py
  const double* norms;
  const double* lost;
  double scale, unit, columns;

  // What a row as near as `square` (scaled) can scan at, at most.
  __device__ double highest(int64_t row, double square) const {
    constexpr double kFloat64 = 1.1102230246251565e-16, kTiny = 1e-30;
    double terms = (columns + 2.0) * unit, rho = *lost;
    double gamma = terms < 0.5 ? terms / (1.0 - terms) : CUDART_INF;  // of so many terms nothing is known
    double eta = gamma * (1.0 + rho) * (1.0 + rho) + 2.0 * rho + rho * rho;
    double length = sqrt(norms[row]), reach = length + sqrt(square);
    double ends = 4.0 * unit + (columns + 4.0) * kFloat64;
    return square + 2.0 * eta * length * reach + ends * (length + reach) * (length + reach) + kTiny;
  }
  // A measured square, scaled, with all that measuring it can have lost.
  __device__ double scaled(double square) const {
    return square * scale * scale * (1.0 + 1e-12 + columns * 2.220446049250313e-16);
  }
};

template <class T>
__device__ double apart(const Rows<T>& q, int64_t i, const Rows<T>& b, int64_t j) {  // by a warp, in lane 0
  double sums[4] = {0.0, 0.0, 0.0, 0.0};
  int64_t c = threadIdx.x % 32;
  for (; c + 96 < q.d; c += 128)
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      double gap = q.at(i, c + 32 * u) - b.at(j, c + 32 * u);
      sums[u] += gap * gap;
    }
  for (; c < q.d; c += 32) {
    double gap = q.at(i, c) - b.at(j, c);
    sums[0] += gap * gap;
  }
  return warp_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T, class Value>
__global__ void __launch_bounds__(kThreads)
    prove_kernel(Rows<T> queries, Rows<T> reference, const Value* values, const int64_t* indices, const Value* limits,
                 Bounds bounds, int width, int room, int k, double* distances, int64_t* found, bool* certain) {
  extern __shared__ double shared[];
  double* square = shared;
  int64_t* index = reinterpret_cast<int64_t*>(shared + room);
  int64_t row = blockIdx.x;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < room; i += kThreads) {
    square[i] = CUDART_INF;
    index[i] = -1;
  }
  __syncthreads();

  auto measure = [&](int from, int to, double highest) {
    for (int c = from + warp; c < to; c += kWarps) {
      int64_t j = indices[row * width + c];
      if (j < 0 || j >= reference.n || double(values[row * width + c]) > highest) break;  // none behind it scans lower
      double s = apart(queries, row, reference, j);
      if (lane == 0) {
        square[c] = s;
        index[c] = j;
      }
    }
    __syncthreads();
  };
  auto sort = [&](int size) {
    for (int run = 2; run <= size; run *= 2)
      for (int step = run / 2; step > 0; step /= 2) {
        for (int i = threadIdx.x; i < size; i += kThreads) exchange(i, step, run, square, index);
        __syncthreads();
      }
  };

  int first = min(width, (k + kWarps - 1) / kWarps * kWarps);
  measure(0, first, CUDART_INF);
  sort(room_for(first, 0));
  if (first < width) {
    measure(first, width, k ? bounds.highest(row, bounds.scaled(square[k - 1])) : 0.0);
    if (k) sort(room);
  }
  for (int i = threadIdx.x; i < k; i += kThreads) {
    double s = i < width ? square[i] : CUDART_INF;
    distances[row * k + i] = sqrt(s);
    found[row * k + i] = s < CUDART_INF ? index[i] : -1;
  }
  if (threadIdx.x) return;
  double limit = double(limits[row]), kth = k && k <= width ? bounds.scaled(square[k - 1]) : 0.0;
  certain[row] = k == 0 || limit == CUDART_INF || limit > bounds.highest(row, kth);
}

template <class T, class Value>
void launch(const Rows<T>& queries, const Rows<T>& reference, const Tensor& values, const Tensor& indices,
            const Tensor& limits, const Bounds& bounds, int width, int k, double* distances, int64_t* found,
            bool* certain, cudaStream_t stream) {
  int room = room_for(width, 0);
  prove_kernel<T, Value><<<unsigned(queries.n), kThreads, size_t(room) * 16, stream>>>(
      queries, reference, static_cast<const Value*>(values.data_ptr()), static_cast<const int64_t*>(indices.data_ptr()),
      static_cast<const Value*>(limits.data_ptr()), bounds, width, room, k, distances, found, certain);
  check_launch("prove");
}

std::tuple<Tensor, Tensor, Tensor> prove(const Tensor& queries, const Tensor& reference, const Tensor& values,
                                         const Tensor& indices, const Tensor& limits, const Tensor& norms,
                                         const Tensor& lost, double scale, int64_t k, int64_t precision) {
  OnDevice device(queries);
  STD_TORCH_CHECK(queries.dim() == 2 && reference.dim() == 2 && queries.size(1) == reference.size(1) && values.dim() == 2,
                  "prove: expected rows of one width, and values of shape (n, candidates)");
  int64_t n = queries.size(0), width = values.size(1);
  STD_TORCH_CHECK(width <= kWidest, "prove: at most ", kWidest, " candidates a row, got ", width);
  STD_TORCH_CHECK(queries.scalar_type() == reference.scalar_type(), "prove: rows of two types");
  STD_TORCH_CHECK(queries.scalar_type() == ScalarType::Double || queries.scalar_type() == ScalarType::Float,
                  "prove: expected fp32 or float64 rows");
  STD_TORCH_CHECK(precision >= 0 && precision <= 2, "precision: 0 (bf16), 1 (fp32) or 2 (float64), got ", precision);
  ScalarType type = values.scalar_type();
  bool wide = type == ScalarType::Double;
  Tensor v = packed(values), x = packed(indices), l = packed(limits), lengths = packed(norms);
  memory<int64_t>(x, ScalarType::Long, n * width, "indices");
  if (wide)
    memory<double>(v, type, n * width, "values"), memory<double>(l, type, n, "limits");
  else
    memory<float>(v, ScalarType::Float, n * width, "values"), memory<float>(l, ScalarType::Float, n, "limits");
  Tensor distances = torch::stable::new_empty(norms, {n, k}), found = torch::stable::new_empty(x, {n, k});
  Tensor certain = torch::stable::new_empty(x, {n}, ScalarType::Bool);
  if (n == 0) return {distances, found, certain};
  // sums of fp32 round to nearest, but those of tensor cores do not: proof.unit_roundoff
  double unit = precision == 2 ? 0x1p-53 : precision == 0 ? 0x1p-22 : 0x1p-24;
  Bounds bounds{memory<double>(lengths, ScalarType::Double, n, "norms"), memory<double>(lost, ScalarType::Double, 1, "lost"),
                scale, unit, double(queries.size(1))};
  auto* out = static_cast<double*>(distances.data_ptr());
  auto* which = static_cast<int64_t*>(found.data_ptr());
  auto* sure = static_cast<bool*>(certain.data_ptr());
  auto run = [&](auto q, auto b) {
    using T = typename decltype(q)::Element;
    if (wide)
      launch<T, double>(q, b, v, x, l, bounds, int(width), int(k), out, which, sure, device.stream());
    else
      launch<T, float>(q, b, v, x, l, bounds, int(width), int(k), out, which, sure, device.stream());
  };
  if (queries.scalar_type() == ScalarType::Double)
    run(rows_of<double>(queries), rows_of<double>(reference));
  else
    run(rows_of<float>(queries), rows_of<float>(reference));
  return {distances, found, certain};
}

}  // namespace
}  // namespace featgeo::proving
