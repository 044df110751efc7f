// group_sums_: what scatter_ adds per group, and the rows about their groups' shifts, for one matrix product.
//
// Three launches and no wait for the host. The first counts each group's rows and lists the groups that have any. The
// second gives new groups their shift and adds up each listed group's rows: a block owns some columns of one group, so
// that nothing is added by two blocks and always in the same order. The third writes the centred rows and ends with the
// counts, which until then say which groups are new. A fourth forms the scatter of the rows of the second bucket, where
// there are any: usually there are none, and it ends at once.
#pragma once
#include <mma.h>

#include "common.cuh"

namespace featgeo::moments {
namespace {

using namespace nvcuda;

struct State {
  int64_t groups, labelled, buckets;
  float* shift;
  double *counts, *sums, *squares, *scatter;
};

struct Listed {  // from one launch to the next
  int32_t* ids;      // (n) of each row; -1: it counts nowhere
  int32_t* added;    // (groups) rows of each
  int32_t* groups;   // those that have rows
  int32_t* how_many; // of them; and behind it, whether there are rows of the second bucket
  double* squares;   // (column blocks, places in the list)
  int64_t places;
};

// --- sums a group ----------------------------------------------------------------------------------------------------

__global__ void count_kernel(const int64_t* groups, int64_t n, State s, Listed listed) {
  int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t given = i < n ? groups[i] : -1;
  int g = given >= 0 && given < s.groups ? int(given) : -1;
  if (i < n) listed.ids[i] = g;
  // rows beside each other are often of one group: those like the warp's first are counted together
  unsigned inside = __ballot_sync(0xFFFFFFFFu, g >= 0);
  if (!inside) return;
  int leader = __ffs(int(inside)) - 1, lane = int(threadIdx.x % 32);
  int common = __shfl_sync(0xFFFFFFFFu, g, leader);
  unsigned alike = __ballot_sync(0xFFFFFFFFu, g == common);
  if (g < 0 || (g == common && lane != leader)) return;
  if (atomicAdd(&listed.added[g], g == common ? __popc(alike) : 1) == 0)
    listed.groups[atomicAdd(&listed.how_many[0], 1)] = g;
  if (g >= s.labelled) atomicAdd(&listed.how_many[1], 1);
}

// The rows of one group that are this warp's, a few at a time, so that their loads are under way together.
template <int kWarps, int kPer, class T, class Body>
__device__ void my_rows(const Rows<T>& rows, const int32_t* ids, int g, int64_t column, const Body& body) {
  constexpr int kBatch = kPer < 4 ? 4 : 1;
  int lane = threadIdx.x;
  for (int64_t start = threadIdx.y * 32; start < rows.n; start += kWarps * 32) {
    int64_t i = start + lane;
    unsigned left = __ballot_sync(0xFFFFFFFFu, i < rows.n && ids[i] == g);
    while (left) {
      int64_t row[kBatch];
      double x[kBatch][kPer];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        row[b] = left ? start + __ffs(int(left)) - 1 : -1;
        left &= left - 1;
#pragma unroll
        for (int u = 0; u < kPer; ++u) {
          int64_t c = column + 32 * u;
          x[b][u] = row[b] >= 0 && c < rows.d ? rows.at(row[b], c) : 0.0;
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
        if (row[b] >= 0) body(x[b]);
    }
  }
}

template <class T, int kWarps, int kPer>
__global__ void __launch_bounds__(32 * kWarps) group_kernel(Rows<T> rows, State s, Listed listed) {
  __shared__ double table[kWarps][kPer * 32];
  __shared__ double square_of[kWarps];
  __shared__ float shifts[kPer * 32];
  int lane = threadIdx.x, warp = threadIdx.y;
  if (int(blockIdx.x) >= listed.how_many[0]) return;
  int g = listed.groups[blockIdx.x];
  int64_t column = int64_t(blockIdx.y) * kPer * 32 + lane;
  float* shift = s.shift + g * rows.d;

  auto add_up = [&](const double* own, auto body) {  // of all warps, in their order; body(place, total)
#pragma unroll
    for (int u = 0; u < kPer; ++u) table[warp][u * 32 + lane] = own[u];
    __syncthreads();
    for (int u = warp; u < kPer; u += kWarps) {
      double total = 0.0;
      for (int w = 0; w < kWarps; ++w) total += table[w][u * 32 + lane];
      if (column + 32 * u < rows.d) body(u, total);
    }
    __syncthreads();
  };

  double sums[kPer];
#pragma unroll
  for (int u = 0; u < kPer; ++u) sums[u] = 0.0;
  if (s.counts[g] == 0.0) {
    my_rows<kWarps, kPer>(rows, listed.ids, g, column, [&](const double* x) {
#pragma unroll
      for (int u = 0; u < kPer; ++u) sums[u] += x[u];
    });
    add_up(sums, [&](int u, double total) {
      shifts[u * 32 + lane] = shift[column + 32 * u] = float(total / double(listed.added[g]));
    });
  } else {
    for (int u = warp; u < kPer; u += kWarps)
      if (column + 32 * u < rows.d) shifts[u * 32 + lane] = shift[column + 32 * u];
    __syncthreads();
  }
  double centre[kPer], square = 0.0;
#pragma unroll
  for (int u = 0; u < kPer; ++u) {
    centre[u] = column + 32 * u < rows.d ? double(shifts[u * 32 + lane]) : 0.0;
    sums[u] = 0.0;
  }
  my_rows<kWarps, kPer>(rows, listed.ids, g, column, [&](const double* x) {
#pragma unroll
    for (int u = 0; u < kPer; ++u) {
      double gap = x[u] - centre[u];
      sums[u] += gap;
      square += gap * gap;
    }
  });
  add_up(sums, [&](int u, double total) { s.sums[g * rows.d + column + 32 * u] += total; });
  square = warp_sum(square);
  if (lane == 0) square_of[warp] = square;
  __syncthreads();
  if (lane || warp) return;
  double total = 0.0;
  for (int w = 0; w < kWarps; ++w) total += square_of[w];
  listed.squares[blockIdx.y * listed.places + blockIdx.x] = total;
}

// Counts come last: until then they say which groups are new.
__device__ void finish(const State& s, const Listed& listed, int64_t column_blocks, int64_t thread, int64_t threads) {
  for (int64_t y = thread; y < listed.how_many[0]; y += threads) {
    int g = listed.groups[y];
    double square = 0.0;
    for (int64_t b = 0; b < column_blocks; ++b) square += listed.squares[b * listed.places + y];
    s.squares[g] += square;
    s.counts[g] += double(listed.added[g]);
  }
}

__global__ void finish_kernel(State s, Listed listed, int64_t column_blocks) {
  finish(s, listed, column_blocks, int64_t(blockIdx.x) * blockDim.x + threadIdx.x, int64_t(gridDim.x) * blockDim.x);
}

template <class T>
__global__ void centre_kernel(Rows<T> rows, State s, Listed listed, int64_t column_blocks, double* centred) {
  int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;  // a warp to a row
  if (i < rows.n) {
    int g = listed.ids[i];
    bool in = g >= 0 && (s.buckets == 1 || g < s.labelled);
    const float* shift = s.shift + (in ? g * rows.d : 0);
    for (int64_t j = threadIdx.x; j < rows.d; j += 32)
      centred[i * rows.d + j] = in ? rows.at(i, j) - double(shift[j]) : 0.0;
  }
  int64_t threads = int64_t(gridDim.x) * blockDim.x * blockDim.y;
  finish(s, listed, column_blocks, (int64_t(blockIdx.x) * blockDim.y + threadIdx.y) * 32 + threadIdx.x, threads);
}

// --- the scatter of the second bucket --------------------------------------------------------------------------------

constexpr int kSide = 64, kChunk = 32, kThreads = 256, kStride = kSide + 4;

struct Tile {  // float64 tensor cores: m8n8k4; a warp makes 8 rows of the tile
  wmma::fragment<wmma::accumulator, 8, 8, 4, double> sum[8];

  __device__ void clear() {
    for (auto& c : sum) wmma::fill_fragment(c, 0.0);
  }
  __device__ void add(const double* left, const double* right, int warp) {
    for (int k = 0; k < kChunk; k += 4) {
      wmma::fragment<wmma::matrix_a, 8, 8, 4, double, wmma::col_major> a;
      wmma::load_matrix_sync(a, left + k * kStride + warp * 8, kStride);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        wmma::fragment<wmma::matrix_b, 8, 8, 4, double, wmma::row_major> b;
        wmma::load_matrix_sync(b, right + k * kStride + j * 8, kStride);
        wmma::mma_sync(sum[j], a, b, sum[j]);
      }
    }
  }
  __device__ void store(double* tile, int warp) {
    for (int j = 0; j < 8; ++j)
      wmma::store_matrix_sync(tile + warp * 8 * kStride + j * 8, sum[j], kStride, wmma::mem_row_major);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) scatter_kernel(Rows<T> rows, State s, Listed listed, int64_t side) {
  __shared__ alignas(32) double space[2 * kChunk * kStride];  // two chunks of columns, then the finished tile
  double *left = space, *right = space + kChunk * kStride, *tile = space;
  static_assert(2 * kChunk >= kSide, "the tile must fit where the chunks were");
  if (listed.how_many[1] == 0) return;
  int warp = threadIdx.x / 32;
  int64_t I = 0, rest = blockIdx.x;
  for (; rest >= side - I; ++I) rest -= side - I;
  int64_t i0 = I * kSide, j0 = (I + rest) * kSide;
  constexpr int kOwn = kSide * kSide / kThreads;
  auto wanted = [&](int64_t row) { return row < rows.n && listed.ids[row] >= s.labelled; };

  Tile product;
  product.clear();
  for (int64_t start = 0; start < rows.n; start += kChunk) {
    if (!__syncthreads_or(wanted(start + threadIdx.x % kChunk))) continue;
    for (int e = threadIdx.x; e < kChunk * kSide; e += kThreads) {
      int k = e / kSide, c = e % kSide;
      int64_t row = start + k;
      bool in = wanted(row);
      const float* shift = s.shift + (in ? listed.ids[row] * rows.d : 0);
      left[k * kStride + c] = in && i0 + c < rows.d ? rows.at(row, i0 + c) - double(shift[i0 + c]) : 0.0;
      right[k * kStride + c] = in && j0 + c < rows.d ? rows.at(row, j0 + c) - double(shift[j0 + c]) : 0.0;
    }
    __syncthreads();
    product.add(left, right, warp);
    __syncthreads();
  }
  product.store(tile, warp);  // where the chunks were, which all have read
  __syncthreads();
  double* out = s.scatter + rows.d * rows.d;
  for (int e = 0; e < kOwn; ++e) {
    int place = threadIdx.x + e * kThreads;
    int64_t i = i0 + place / kSide, j = j0 + place % kSide;
    if (i >= rows.d || j >= rows.d || j < i) continue;
    double value = out[i * rows.d + j] + tile[place / kSide * kStride + place % kSide];
    out[i * rows.d + j] = value;
    out[j * rows.d + i] = value;
  }
}

// --- launches --------------------------------------------------------------------------------------------------------

template <class T, int kWarps, int kPer>
void launch_sums(const Rows<T>& rows, const State& s, const Listed& listed, cudaStream_t stream) {
  dim3 grid(unsigned(listed.places), blocks(rows.d, 32 * kPer)), threads(32, kWarps);
  group_kernel<T, kWarps, kPer><<<grid, threads, 0, stream>>>(rows, s, listed);
  check_launch("group_sums_ (sums)");
}

template <class T>
void launch(const Rows<T>& rows, const int64_t* groups, const State& s, const Listed& listed, bool few,
            int64_t column_blocks, double* centred, cudaStream_t stream) {
  count_kernel<<<blocks(rows.n, 256), 256, 0, stream>>>(groups, rows.n, s, listed);
  check_launch("group_sums_ (counts)");
  if (few)
    launch_sums<T, 32, 1>(rows, s, listed, stream);
  else
    launch_sums<T, 8, 8>(rows, s, listed, stream);
  if (!centred) {
    finish_kernel<<<blocks(listed.places, 128), 128, 0, stream>>>(s, listed, column_blocks);
    return check_launch("group_sums_ (end)");
  }
  centre_kernel<T><<<blocks(rows.n, 8), dim3(32, 8), 0, stream>>>(rows, s, listed, column_blocks, centred);
  check_launch("group_sums_ (rows)");
  if (s.buckets < 2) return;
  int64_t side = blocks(rows.d, kSide);
  scatter_kernel<T><<<unsigned(side * (side + 1) / 2), kThreads, 0, stream>>>(rows, s, listed, side);
  check_launch("group_sums_ (products)");
}

Tensor group_sums_(const Tensor& rows, const Tensor& groups, Tensor shift, Tensor counts, Tensor sums, Tensor squares,
                   std::optional<Tensor> scatter, int64_t labelled_groups) {
  int64_t n = rows.size(0), d = rows.size(1), n_groups = counts.numel();
  OnDevice device(rows);
  bool nothing = n == 0 || d == 0 || n_groups == 0;
  Tensor centred = torch::stable::new_empty(counts, {scatter && !nothing ? n : 0, d});
  if (nothing) return centred;
  STD_TORCH_CHECK(n < INT32_MAX && n_groups < INT32_MAX, "group_sums_: too many rows or groups");
  Tensor g = packed(groups);
  int64_t places = n < n_groups ? n : n_groups;
  bool few = places * int64_t(blocks(d, 256)) < 264;  // blocks for two on each multiprocessor, or narrower ones
  int64_t column_blocks = few ? blocks(d, 32) : blocks(d, 256);
  Tensor zeros = torch::stable::new_zeros(counts, {n_groups + 2}, ScalarType::Int);
  Tensor lists = torch::stable::new_empty(counts, {n + places}, ScalarType::Int);
  Tensor partial = torch::stable::new_empty(counts, {column_blocks, places});
  int64_t buckets = scatter ? scatter->size(0) : 0;
  State s{n_groups,
          labelled_groups,
          buckets,
          memory<float>(shift, ScalarType::Float, n_groups * d, "shift"),
          memory<double>(counts, ScalarType::Double, n_groups, "counts"),
          memory<double>(sums, ScalarType::Double, n_groups * d, "sums"),
          memory<double>(squares, ScalarType::Double, n_groups, "squares"),
          scatter ? memory<double>(*scatter, ScalarType::Double, buckets * d * d, "scatter") : nullptr};
  auto* counters = static_cast<int32_t*>(zeros.data_ptr());
  auto* numbers = static_cast<int32_t*>(lists.data_ptr());
  Listed listed{numbers, counters + 2, numbers + n, counters, static_cast<double*>(partial.data_ptr()), places};
  const int64_t* ids = memory<int64_t>(g, ScalarType::Long, n, "groups");
  double* out = scatter ? static_cast<double*>(centred.data_ptr()) : nullptr;
  with_rows(rows, [&](auto x) { launch(x, ids, s, listed, few, column_blocks, out, device.stream()); });
  return centred;
}

}  // namespace
}  // namespace featgeo::moments
