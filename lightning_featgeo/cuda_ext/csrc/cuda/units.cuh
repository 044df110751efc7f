// hash_priority, unit_stats_ and direction_sums_: one read of the rows, no atomics, the same bits every time.
#pragma once
#include "common.cuh"

namespace featgeo::units {
namespace {

constexpr int kColumns = 32, kLanes = 32;  // a block: 32 columns, 32 rows at a time

__global__ void hash_kernel(const int64_t* index, int64_t n, uint64_t seed, int64_t* out) {
  int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint64_t z = uint64_t(index[i]) * 0x9E3779B97F4A7C15ull + seed;  // SplitMix64, as reference.py has it
  for (int round = 0; round < 2; ++round) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
  }
  out[i] = int64_t(z >> 2);
}

template <class T>
__global__ void activity_kernel(Rows<T> rows, const bool* keep, double* active) {
  __shared__ double counts[kLanes][kColumns];
  int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  double count = 0.0;
  if (column < rows.d)
    for (int64_t i = threadIdx.y; i < rows.n; i += kLanes) count += keep[i] && rows.at(i, column) > 0.0;
  counts[threadIdx.y][threadIdx.x] = count;
  __syncthreads();
  if (threadIdx.y || column >= rows.d) return;
  for (int lane = 1; lane < kLanes; ++lane) count += counts[lane][threadIdx.x];
  active[column] += count;
}

template <class T>
__global__ void activity_and_extremes_kernel(Rows<T> rows, const bool* keep, double* active, double* minimum,
                                             double* maximum) {
  __shared__ double counts[kLanes][kColumns], lows[kLanes][kColumns], highs[kLanes][kColumns];
  int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  double count = 0.0, low = INFINITY, high = -INFINITY;
  if (column < rows.d)
    for (int64_t i = threadIdx.y; i < rows.n; i += kLanes) {
      if (!keep[i]) continue;
      double x = rows.at(i, column);
      count += x > 0.0;
      low = x < low ? x : low;
      high = x > high ? x : high;
    }
  counts[threadIdx.y][threadIdx.x] = count;
  lows[threadIdx.y][threadIdx.x] = low;
  highs[threadIdx.y][threadIdx.x] = high;
  __syncthreads();
  if (threadIdx.y || column >= rows.d) return;
  for (int lane = 1; lane < kLanes; ++lane) {
    count += counts[lane][threadIdx.x];
    low = fmin(low, lows[lane][threadIdx.x]);
    high = fmax(high, highs[lane][threadIdx.x]);
  }
  active[column] += count;
  minimum[column] = fmin(minimum[column], low);
  maximum[column] = fmax(maximum[column], high);
}

template <class T>
__global__ void length_kernel(Rows<T> rows, const bool* keep, double* inverse) {  // a warp to a row
  int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows.n) return;
  double sum = 0.0;
  if (keep[row])
    for (int64_t j = threadIdx.x; j < rows.d; j += 32) {
      double x = rows.at(row, j);
      sum += x * x;
    }
  for (int offset = 16; offset; offset /= 2) sum += __shfl_down_sync(0xFFFFFFFFu, sum, offset);
  if (threadIdx.x == 0) inverse[row] = sum > 0.0 ? 1.0 / sqrt(sum) : 0.0;
}

template <class T>
__global__ void direction_kernel(Rows<T> rows, const bool* keep, const double* inverse, double* count, double* sums,
                                 double* squares) {
  __shared__ double first[kLanes][kColumns], second[kLanes][kColumns];
  int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  double sum = 0.0, square = 0.0;
  if (column < rows.d)
    for (int64_t i = threadIdx.y; i < rows.n; i += kLanes) {
      double scale = inverse[i];
      if (scale == 0.0) continue;
      double x = rows.at(i, column) * scale;
      sum += x;
      square += x * x;
    }
  first[threadIdx.y][threadIdx.x] = sum;
  second[threadIdx.y][threadIdx.x] = square;
  __syncthreads();
  if (threadIdx.y == 0 && column < rows.d) {
    for (int lane = 1; lane < kLanes; ++lane) {
      sum += first[lane][threadIdx.x];
      square += second[lane][threadIdx.x];
    }
    sums[column] += sum;
    squares[column] += square;
  }
  if (blockIdx.x || threadIdx.y) return;  // the first warp of the first block also counts
  double kept = 0.0, directed = 0.0;
  for (int64_t i = threadIdx.x; i < rows.n; i += 32) {
    kept += keep[i];
    directed += inverse[i] > 0.0;
  }
  for (int offset = 16; offset; offset /= 2) {
    kept += __shfl_down_sync(0xFFFFFFFFu, kept, offset);
    directed += __shfl_down_sync(0xFFFFFFFFu, directed, offset);
  }
  if (threadIdx.x == 0) {
    count[0] += kept;
    count[1] += directed;
  }
}

Tensor hash_priority(const Tensor& index, int64_t seed) {
  OnDevice device(index);
  Tensor in = packed(index), out = torch::stable::empty_like(in);
  int64_t n = in.numel();
  if (n == 0) return out;
  hash_kernel<<<blocks(n, 256), 256, 0, device.stream()>>>(memory<int64_t>(in, ScalarType::Long, n, "index"), n,
                                                           uint64_t(seed), static_cast<int64_t*>(out.data_ptr()));
  check_launch("hash_priority");
  return out;
}

void unit_stats_(const Tensor& rows, const Tensor& keep, Tensor active, std::optional<Tensor> minimum,
                 std::optional<Tensor> maximum) {
  STD_TORCH_CHECK(minimum.has_value() == maximum.has_value(), "unit_stats_: give both minimum and maximum, or neither");
  int64_t n = rows.size(0), d = rows.size(1);
  if (n == 0 || d == 0) return;
  OnDevice device(rows);
  Tensor k = packed(keep);
  const bool* kept = memory<bool>(k, ScalarType::Bool, n, "keep");
  double* a = memory<double>(active, ScalarType::Double, d, "active");
  double* low = minimum ? memory<double>(*minimum, ScalarType::Double, d, "minimum") : nullptr;
  double* high = maximum ? memory<double>(*maximum, ScalarType::Double, d, "maximum") : nullptr;
  dim3 threads(kColumns, kLanes);
  with_rows(rows, [&](auto x) {
    if (low)
      activity_and_extremes_kernel<<<blocks(d, kColumns), threads, 0, device.stream()>>>(x, kept, a, low, high);
    else
      activity_kernel<<<blocks(d, kColumns), threads, 0, device.stream()>>>(x, kept, a);
  });
  check_launch("unit_stats_");
}

void direction_sums_(const Tensor& rows, const Tensor& keep, Tensor count, Tensor sums, Tensor squares) {
  int64_t n = rows.size(0), d = rows.size(1);
  if (n == 0 || d == 0) return;
  OnDevice device(rows);
  Tensor k = packed(keep), inverse = torch::stable::new_empty(sums, {n});
  const bool* kept = memory<bool>(k, ScalarType::Bool, n, "keep");
  double* c = memory<double>(count, ScalarType::Double, 2, "count");
  double* first = memory<double>(sums, ScalarType::Double, d, "sums");
  double* second = memory<double>(squares, ScalarType::Double, d, "squares");
  double* scale = static_cast<double*>(inverse.data_ptr());
  with_rows(rows, [&](auto x) {
    length_kernel<<<blocks(n, 8), dim3(32, 8), 0, device.stream()>>>(x, kept, scale);
    direction_kernel<<<blocks(d, kColumns), dim3(kColumns, kLanes), 0, device.stream()>>>(x, kept, scale, c, first,
                                                                                         second);
  });
  check_launch("direction_sums_");
}

}  // namespace
}  // namespace featgeo::units
