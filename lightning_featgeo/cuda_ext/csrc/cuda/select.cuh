// select_: one pass over a tile of products, a block to a row. Columns that beat the row's worst go to a buffer in
// shared memory, which is sorted when it could overflow. Where too many would come in at once (the first tile has no
// worst yet), the smallest column of each thread says which of them can't be among the best.
//
// kernel_sums_: sums of exp(−t·squared distance) over the same tile.
#pragma once
#include "common.cuh"
#include "select.h"

namespace featgeo::selection {
namespace {

constexpr int kThreads = 256, kEach = 8;  // columns that a thread holds in registers
constexpr int kIncoming = 2 * kThreads;    // newcomers that fit behind the best
constexpr int kShared = 48 * 1024, kWidest = 2048 - kIncoming;

template <class Value>
struct Tile {
  const Value* products;
  int64_t row_stride;
  int m;
  const Value *query_norms, *reference_norms;
  const int32_t *query_ids, *reference_ids;
};

template <class Value>
__global__ void __launch_bounds__(kThreads, 4)
    select_kernel(Tile<Value> tile, int64_t first, int width, int room, bool begins, Value* values, int64_t* indices) {
  extern __shared__ double shared[];  // aligned for both
  int64_t* index = reinterpret_cast<int64_t*>(shared);
  Value* value = reinterpret_cast<Value*>(index + room);
  Value* least = value + room;
  __shared__ int count;
  __shared__ int coming[2];
  const Value infinity = Value(CUDART_INF_F);
  int64_t row = blockIdx.x;
  int thread = threadIdx.x;
  for (int i = thread; i < room; i += kThreads) {
    bool held = i < width && !begins;
    value[i] = held ? values[row * width + i] : infinity;
    index[i] = held ? indices[row * width + i] : -1;
  }
  if (thread == 0) {
    count = width;
    coming[0] = coming[1] = 0;
  }
  __syncthreads();

  auto sort = [&] {  // what is filled, and forget all but the best
    int filled = room_for(count, 0);
    for (int run = 2; run <= filled; run *= 2)
      for (int step = run / 2; step > 0; step /= 2) {
        for (int i = thread; i < filled; i += kThreads) exchange(i, step, run, value, index);
        __syncthreads();
      }
    for (int i = width + thread; i < filled; i += kThreads) {
      value[i] = infinity;
      index[i] = -1;
    }
    __syncthreads();
    if (thread == 0) count = width;
    __syncthreads();
  };

  Value own = tile.query_norms[row];
  int32_t id = tile.query_ids[row];
  const Value* product = tile.products + row * tile.row_stride;
  int parity = 0;
  for (int start = 0; start < tile.m; start += kEach * kThreads, parity ^= 1) {
    Value limit = value[width - 1];  // the same for all threads: nothing writes there before the next sort
    Value v[kEach];
    int mine = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      int j = start + e * kThreads + thread;
      v[e] = j < tile.m ? squared(own, tile.reference_norms[j], product[j]) : infinity;
      mine += v[e] < limit;
    }
    mine = warp_sum(mine);
    if (thread % 32 == 0 && mine) atomicAdd(&coming[parity], mine);
    __syncthreads();
    int more = coming[parity], filled = count;
    if (thread == 0) coming[parity ^ 1] = 0;
    __syncthreads();
    if (!more) continue;

    auto offer = [&](int j, Value x) {
      if (!(x < limit) || tile.reference_ids[j] == id) return;
      int place = atomicAdd(&count, 1);
      value[place] = x;
      index[place] = first + j;
    };
    if (filled + more <= room) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) offer(start + e * kThreads + thread, v[e]);
      continue;
    }

    Value tight = infinity;
    if (width <= kThreads) {  // as many threads' smallest lie at or below this as there are places
      Value smallest = infinity;
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        int j = start + e * kThreads + thread;
        if (v[e] < limit && v[e] < smallest && tile.reference_ids[j] != id) smallest = v[e];
      }
      least[thread] = smallest;
      __syncthreads();
      for (int run = 2; run <= kThreads; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
          int other = thread ^ step;
          if (other > thread && (least[other] < least[thread]) == ((thread & run) == 0)) {
            Value moved = least[thread];
            least[thread] = least[other];
            least[other] = moved;
          }
          __syncthreads();
        }
      tight = least[width - 1];
    }
    int stop = min(start + kEach * kThreads, tile.m);
    for (int from = start; from < stop; from += kThreads) {  // read again: these are the first columns, or ties
      __syncthreads();
      bool full = count > room - kThreads;
      __syncthreads();
      if (full) sort();
      int j = from + thread;
      Value x = j < stop ? squared(own, tile.reference_norms[j], product[j]) : infinity;
      if (x <= tight) offer(j, x);
    }
    __syncthreads();
    sort();  // for the next columns' limit
  }
  __syncthreads();
  if (count > width) sort();
  for (int i = thread; i < width; i += kThreads) {
    values[row * width + i] = value[i];
    indices[row * width + i] = index[i];
  }
}

template <class Value>
__global__ void __launch_bounds__(kThreads)
    kernel_sums_kernel(Tile<Value> tile, Value factor, double* sums, double* squares) {
  __shared__ double totals[2][kThreads / 32];
  int64_t row = blockIdx.x;
  Value own = tile.query_norms[row];
  int32_t id = tile.query_ids[row];
  const Value* product = tile.products + row * tile.row_stride;
  double sum = 0.0, square = 0.0;
  for (int j = threadIdx.x; j < tile.m; j += kThreads) {
    Value v = squared(own, tile.reference_norms[j], product[j]);
    double term = tile.reference_ids[j] == id ? 0.0 : double(exp((v > Value(0) ? v : Value(0)) * factor));
    sum += term;
    square += term * term;
  }
  sum = warp_sum(sum), square = warp_sum(square);
  if (threadIdx.x % 32 == 0) {
    totals[0][threadIdx.x / 32] = sum;
    totals[1][threadIdx.x / 32] = square;
  }
  __syncthreads();
  if (threadIdx.x >= 2) return;
  double total = 0.0;
  for (int w = 0; w < kThreads / 32; ++w) total += totals[threadIdx.x][w];
  (threadIdx.x ? squares : sums)[row] += total;
}

template <class Value>
void launch_select(const Tile<Value>& tile, int64_t n, int64_t first, int width, bool begins, const Tensor& values,
                   int64_t* indices, cudaStream_t stream) {
  int room = room_for(width, kIncoming);
  size_t bytes = size_t(room) * (sizeof(Value) + sizeof(int64_t)) + kThreads * sizeof(Value);
  STD_TORCH_CHECK(width <= kWidest, "select_: at most ", kWidest, " candidates a row, got ", width);
  select_kernel<Value><<<unsigned(n), kThreads, bytes, stream>>>(tile, first, width, room, begins,
                                                                 static_cast<Value*>(values.data_ptr()), indices);
  check_launch("select_");
}

template <class Value>
void launch_sums(const Tile<Value>& tile, int64_t n, double factor, double* sums, double* squares, cudaStream_t stream) {
  kernel_sums_kernel<Value><<<unsigned(n), kThreads, 0, stream>>>(tile, Value(factor), sums, squares);
  check_launch("kernel_sums_");
}

// Calls `body` with the tile of the products' type, float64 or fp32.
template <class Body>
void with_tile(const Tensor& products, const Tensor& query_norms, const Tensor& reference_norms,
               const Tensor& query_ids, const Tensor& reference_ids, const Body& body) {
  int64_t n = products.size(0), m = products.size(1);
  STD_TORCH_CHECK(m < INT32_MAX / 2, "a tile of too many columns");
  Tensor p = products.stride(1) == 1 ? products : torch::stable::contiguous(products);
  Tensor qi = packed(query_ids), ri = packed(reference_ids), qn = packed(query_norms), rn = packed(reference_norms);
  const int32_t* query = memory<int32_t>(qi, ScalarType::Int, n, "query_ids");
  const int32_t* reference = memory<int32_t>(ri, ScalarType::Int, m, "reference_ids");
  ScalarType type = p.scalar_type();
  if (type == ScalarType::Double)
    return body(Tile<double>{static_cast<const double*>(p.data_ptr()), p.stride(0), int(m),
                             memory<double>(qn, type, n, "query_norms"), memory<double>(rn, type, m, "reference_norms"),
                             query, reference});
  STD_TORCH_CHECK(type == ScalarType::Float, "expected fp32 or float64 products");
  body(Tile<float>{static_cast<const float*>(p.data_ptr()), p.stride(0), int(m),
                   memory<float>(qn, type, n, "query_norms"), memory<float>(rn, type, m, "reference_norms"), query,
                   reference});
}

template <class Value>
constexpr ScalarType type_of(const Tile<Value>&) {
  return sizeof(Value) == 8 ? ScalarType::Double : ScalarType::Float;
}

void select_(const Tensor& products, const Tensor& query_norms, const Tensor& reference_norms, const Tensor& query_ids,
             const Tensor& reference_ids, int64_t first, Tensor values, Tensor indices) {
  int64_t n = products.size(0), width = values.size(1);
  if (n == 0 || products.size(1) == 0) return;
  OnDevice device(products);
  int64_t* index = memory<int64_t>(indices, ScalarType::Long, n * width, "indices");
  with_tile(products, query_norms, reference_norms, query_ids, reference_ids, [&](auto tile) {
    STD_TORCH_CHECK(values.is_contiguous() && values.scalar_type() == type_of(tile) && values.size(0) == n,
                    "values: expected a contiguous tensor of the products' type");
    launch_select(tile, n, first, int(width), false, values, index, device.stream());
  });
}

void kernel_sums_(const Tensor& products, const Tensor& query_norms, const Tensor& reference_norms,
                  const Tensor& query_ids, const Tensor& reference_ids, double factor, Tensor sums, Tensor squares) {
  int64_t n = products.size(0);
  if (n == 0 || products.size(1) == 0) return;
  OnDevice device(products);
  double* first = memory<double>(sums, ScalarType::Double, n, "sums");
  double* second = memory<double>(squares, ScalarType::Double, n, "squares");
  with_tile(products, query_norms, reference_norms, query_ids, reference_ids,
            [&](auto tile) { launch_sums(tile, n, factor, first, second, device.stream()); });
}

}  // namespace
}  // namespace featgeo::selection
