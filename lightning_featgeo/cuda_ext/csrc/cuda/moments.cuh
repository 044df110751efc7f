// scatter_: two launches and no wait for the host.
//
// The first gives new groups their shift and adds up every group's rows; a block owns 32 columns of up to 64 groups, so
// that nothing is added by two blocks. The second forms the upper triangle of the shifted rows' scatter from tiles of
// float64 tensor-core products, and writes both triangles.
#pragma once
#include <mma.h>

#include "common.cuh"

namespace featgeo::moments {
namespace {

using namespace nvcuda;

constexpr int kColumns = 32, kWarps = 8, kGroups = 64;

struct State {
  int64_t groups, labelled, buckets;
  float* shift;
  double *counts, *sums, *squares, *scatter;
  double *added, *partial;  // (groups), (column blocks, groups): from the first launch to the second
};

// --- sums a group ----------------------------------------------------------------------------------------------------

// For each row of this block's groups that is this warp's, in order: body(row, local group).
template <bool BySplit, class Body>
__device__ void my_rows(const int64_t* ids, int64_t n, int64_t from, int64_t count, const Body& body) {
  int lane = threadIdx.x, warp = threadIdx.y;
  for (int64_t start = BySplit ? warp * 32 : 0; start < n; start += BySplit ? kWarps * 32 : 32) {
    int64_t i = start + lane;
    int64_t g = i < n ? ids[i] - from : -1;
    bool mine = g >= 0 && g < count && (BySplit || g % kWarps == warp);
    for (unsigned left = __ballot_sync(0xFFFFFFFFu, mine); left; left &= left - 1) {
      int source = __ffs(int(left)) - 1;
      body(start + source, __shfl_sync(0xFFFFFFFFu, g, source));
    }
  }
}

// Few groups: the warps share out the rows, and add up at the end. Many: they share out the groups.
template <class T, bool BySplit>
__global__ void __launch_bounds__(kColumns* kWarps) group_kernel(Rows<T> rows, const int64_t* ids, State s) {
  constexpr int kSlots = BySplit ? kWarps : kGroups;  // of accumulators: (warp, group) or (group)
  __shared__ double sums[kSlots][kColumns];
  __shared__ double squares[kSlots][kColumns];
  __shared__ double members[kSlots];
  __shared__ float shifts[kGroups][kColumns];
  int lane = threadIdx.x, warp = threadIdx.y;
  int64_t from = int64_t(blockIdx.y) * (BySplit ? 1 : kGroups);
  int64_t count = BySplit ? 1 : min(int64_t(kGroups), s.groups - from);
  int64_t column = int64_t(blockIdx.x) * kColumns + lane;
  bool there = column < rows.d;

  auto clear = [&] {
    for (int slot = warp; slot < kSlots; slot += kWarps) {
      sums[slot][lane] = squares[slot][lane] = 0.0;
      if (lane == 0) members[slot] = 0.0;
    }
    __syncthreads();
  };
  auto total = [&](double(*table)[kColumns], int64_t g) {
    if (!BySplit) return table[g][lane];
    double sum = 0.0;
    for (int w = 0; w < kWarps; ++w) sum += table[w][lane];
    return sum;
  };
  auto how_many = [&](int64_t g) {
    if (!BySplit) return members[g];
    double sum = 0.0;
    for (int w = 0; w < kWarps; ++w) sum += members[w];
    return sum;
  };

  clear();
  my_rows<BySplit>(ids, rows.n, from, count, [&](int64_t row, int64_t g) {
    int64_t slot = BySplit ? warp : g;
    bool fresh = s.counts[from + g] == 0.0;
    if (fresh && there) sums[slot][lane] += rows.at(row, column);
    if (lane == 0) members[slot] += 1.0;
  });
  __syncthreads();
  for (int64_t g = warp; g < count; g += kWarps) {
    double n = how_many(g);
    bool fresh = s.counts[from + g] == 0.0 && n > 0.0;
    float shift = 0.0f;
    if (there) shift = fresh ? float(total(sums, g) / n) : s.shift[(from + g) * rows.d + column];
    shifts[g][lane] = shift;
    if (fresh && there) s.shift[(from + g) * rows.d + column] = shift;
    if (blockIdx.x == 0 && lane == 0) s.added[from + g] = n;
  }
  __syncthreads();
  clear();
  my_rows<BySplit>(ids, rows.n, from, count, [&](int64_t row, int64_t g) {
    int64_t slot = BySplit ? warp : g;
    double x = there ? rows.at(row, column) - double(shifts[g][lane]) : 0.0;
    sums[slot][lane] += x;
    squares[slot][lane] += x * x;
  });
  __syncthreads();
  for (int64_t g = warp; g < count; g += kWarps) {
    if (there) s.sums[(from + g) * rows.d + column] += total(sums, g);
    double square = total(squares, g);
    for (int offset = 16; offset; offset /= 2) square += __shfl_down_sync(0xFFFFFFFFu, square, offset);
    if (lane == 0) s.partial[int64_t(blockIdx.x) * s.groups + from + g] = square;
  }
}

// Counts come last: until then they say which groups are new.
__device__ void finish(const State& s, int64_t column_blocks) {
  for (int64_t g = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; g < s.groups; g += int64_t(gridDim.x) * blockDim.x) {
    double square = 0.0;
    for (int64_t b = 0; b < column_blocks; ++b) square += s.partial[b * s.groups + g];
    s.squares[g] += square;
    s.counts[g] += s.added[g];
  }
}

// --- the scatter -----------------------------------------------------------------------------------------------------

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
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(Rows<T> rows, const int64_t* ids, State s, int64_t side, int64_t column_blocks) {
  __shared__ alignas(32) double space[2 * kChunk * kStride];  // two chunks of columns, then the finished tile
  double *left = space, *right = space + kChunk * kStride, *tile = space;
  static_assert(2 * kChunk >= kSide, "the tile must fit where the chunks were");
  int warp = threadIdx.x / 32;
  int64_t I = 0, rest = blockIdx.x;
  for (; rest >= side - I; ++I) rest -= side - I;
  int64_t i0 = I * kSide, j0 = (I + rest) * kSide;
  constexpr int kOwn = kSide * kSide / kThreads;
  finish(s, column_blocks);

  for (int64_t bucket = 0; bucket < s.buckets; ++bucket) {
    Tile product;
    product.clear();
    bool any = false;
    for (int64_t start = 0; start < rows.n; start += kChunk) {
      int64_t r = start + threadIdx.x % kChunk;
      int64_t g = r < rows.n && ids[r] < s.groups ? ids[r] : -1;
      bool wanted = g >= 0 && (s.buckets == 1 || (g >= s.labelled) == (bucket == 1));
      if (!__syncthreads_or(wanted)) continue;
      any = true;
      for (int e = threadIdx.x; e < kChunk * kSide; e += kThreads) {
        int k = e / kSide, c = e % kSide;
        int64_t row = start + k;
        int64_t group = row < rows.n && ids[row] < s.groups ? ids[row] : -1;
        bool in = group >= 0 && (s.buckets == 1 || (group >= s.labelled) == (bucket == 1));
        const float* shift = s.shift + (in ? group * rows.d : 0);
        left[k * kStride + c] = in && i0 + c < rows.d ? rows.at(row, i0 + c) - double(shift[i0 + c]) : 0.0;
        right[k * kStride + c] = in && j0 + c < rows.d ? rows.at(row, j0 + c) - double(shift[j0 + c]) : 0.0;
      }
      __syncthreads();
      product.add(left, right, warp);
      __syncthreads();
    }
    if (!any) continue;
    product.store(tile, warp);  // where the chunks were, which all have read
    __syncthreads();
    double* out = s.scatter + bucket * rows.d * rows.d;
    for (int e = 0; e < kOwn; ++e) {
      int place = threadIdx.x + e * kThreads;
      int64_t i = i0 + place / kSide, j = j0 + place % kSide;
      if (i >= rows.d || j >= rows.d || j < i) continue;
      double value = out[i * rows.d + j] + tile[place / kSide * kStride + place % kSide];
      out[i * rows.d + j] = value;
      out[j * rows.d + i] = value;
    }
    __syncthreads();  // the next bucket's chunks go where the tile is
  }
}

__global__ void finish_kernel(State s, int64_t column_blocks) { finish(s, column_blocks); }

template <class T>
void launch(const Rows<T>& rows, const int64_t* ids, const State& s, cudaStream_t stream) {
  int64_t column_blocks = blocks(rows.d, kColumns);
  dim3 threads(kColumns, kWarps);
  if (s.groups <= kWarps)
    group_kernel<T, true><<<dim3(unsigned(column_blocks), unsigned(s.groups)), threads, 0, stream>>>(rows, ids, s);
  else
    group_kernel<T, false><<<dim3(unsigned(column_blocks), blocks(s.groups, kGroups)), threads, 0, stream>>>(rows, ids, s);
  check_launch("scatter_ (sums)");
  if (!s.scatter) {
    finish_kernel<<<blocks(s.groups, 128), 128, 0, stream>>>(s, column_blocks);
    return check_launch("scatter_ (counts)");
  }
  int64_t side = blocks(rows.d, kSide);
  unsigned tiles = unsigned(side * (side + 1) / 2);
  scatter_kernel<T><<<tiles, kThreads, 0, stream>>>(rows, ids, s, side, column_blocks);
  check_launch("scatter_ (products)");
}

void scatter_(const Tensor& rows, const Tensor& groups, Tensor shift, Tensor counts, Tensor sums, Tensor squares,
              std::optional<Tensor> scatter, int64_t labelled_groups) {
  int64_t n = rows.size(0), d = rows.size(1), n_groups = counts.numel();
  if (n == 0 || d == 0 || n_groups == 0) return;
  OnDevice device(rows);
  Tensor g = packed(groups);
  Tensor added = torch::stable::new_empty(counts, {n_groups});
  Tensor partial = torch::stable::new_empty(counts, {int64_t(blocks(d, kColumns)), n_groups});
  int64_t buckets = scatter ? scatter->size(0) : 0;
  State s{n_groups,
          labelled_groups,
          buckets,
          memory<float>(shift, ScalarType::Float, n_groups * d, "shift"),
          memory<double>(counts, ScalarType::Double, n_groups, "counts"),
          memory<double>(sums, ScalarType::Double, n_groups * d, "sums"),
          memory<double>(squares, ScalarType::Double, n_groups, "squares"),
          scatter ? memory<double>(*scatter, ScalarType::Double, buckets * d * d, "scatter") : nullptr,
          static_cast<double*>(added.data_ptr()),
          static_cast<double*>(partial.data_ptr())};
  const int64_t* ids = memory<int64_t>(g, ScalarType::Long, n, "groups");
  with_rows(rows, [&](auto x) { launch(x, ids, s, device.stream()); });
}

}  // namespace
}  // namespace featgeo::moments
