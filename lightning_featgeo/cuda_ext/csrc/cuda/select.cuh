// select_: one pass over a tile of products, a block to a row. Columns that beat the row's worst go to a buffer in
// shared memory; it is sorted only when it could overflow, so that most of the tile costs a load and a comparison.
#pragma once
#include <math_constants.h>

#include "common.cuh"
#include "select.h"

namespace featgeo::selection {
namespace {

constexpr int kThreads = 128;
constexpr int kAtOnce = 2 * kThreads;    // columns between two looks at the buffer
constexpr int kIncoming = 2 * kAtOnce;   // newcomers that fit behind the best
constexpr int kShared = 48 * 1024;

template <class Value>
__global__ void __launch_bounds__(kThreads)
    select_kernel(const Value* products, int64_t row_stride, const Value* query_norms, const Value* reference_norms,
                  const int32_t* query_ids, const int32_t* reference_ids, int64_t m, int64_t first, int width, int room,
                  Value* values, int64_t* indices) {
  extern __shared__ double shared[];  // aligned for both
  int64_t* index = reinterpret_cast<int64_t*>(shared);
  Value* value = reinterpret_cast<Value*>(index + room);
  __shared__ int count;
  const Value infinity = Value(CUDART_INF_F);
  int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < room; i += kThreads) {
    value[i] = i < width ? values[row * width + i] : infinity;
    index[i] = i < width ? indices[row * width + i] : -1;
  }
  if (threadIdx.x == 0) count = width;
  __syncthreads();

  auto sort = [&] {  // and forget all but the best
    for (int run = 2; run <= room; run *= 2)
      for (int step = run / 2; step > 0; step /= 2) {
        for (int i = threadIdx.x; i < room; i += kThreads) exchange(i, step, run, value, index);
        __syncthreads();
      }
    for (int i = width + threadIdx.x; i < room; i += kThreads) {
      value[i] = infinity;
      index[i] = -1;
    }
    if (threadIdx.x == 0) count = width;
    __syncthreads();
  };

  Value own = query_norms[row];
  int32_t id = query_ids[row];
  const Value* product = products + row * row_stride;
  for (int64_t start = 0; start < m; start += kAtOnce) {
    Value limit = value[width - 1];  // the same for all threads: nothing writes there before the next sort
    for (int64_t j = start + threadIdx.x; j < start + kAtOnce && j < m; j += kThreads) {
      Value v = squared(own, reference_norms[j], product[j]);
      if (v < limit && reference_ids[j] != id) {
        int place = atomicAdd(&count, 1);
        value[place] = v;
        index[place] = first + j;
      }
    }
    __syncthreads();
    bool full = count > room - kAtOnce;
    __syncthreads();
    if (full) sort();
  }
  if (count > width) sort();
  for (int i = threadIdx.x; i < width; i += kThreads) {
    values[row * width + i] = value[i];
    indices[row * width + i] = index[i];
  }
}

template <class Value>
void launch(const Tensor& products, const Value* query_norms, const Value* reference_norms, const int32_t* query_ids,
            const int32_t* reference_ids, int64_t first, int width, Value* values, int64_t* indices,
            cudaStream_t stream) {
  int room = room_for(width, kIncoming);
  size_t bytes = size_t(room) * (sizeof(Value) + sizeof(int64_t));
  STD_TORCH_CHECK(bytes <= size_t(kShared) - 64, "select_: at most ", 2048 - kIncoming, " candidates a row, got ", width);
  select_kernel<Value><<<unsigned(products.size(0)), kThreads, bytes, stream>>>(
      static_cast<const Value*>(products.data_ptr()), products.stride(0), query_norms, reference_norms, query_ids,
      reference_ids, products.size(1), first, width, room, values, indices);
  check_launch("select_");
}

void select_(const Tensor& products, const Tensor& query_norms, const Tensor& reference_norms, const Tensor& query_ids,
             const Tensor& reference_ids, int64_t first, Tensor values, Tensor indices) {
  int64_t n = products.size(0), m = products.size(1), width = values.size(1);
  if (n == 0 || m == 0) return;
  OnDevice device(products);
  Tensor p = products.stride(1) == 1 ? products : torch::stable::contiguous(products);
  Tensor qi = packed(query_ids), ri = packed(reference_ids), qn = packed(query_norms), rn = packed(reference_norms);
  ScalarType type = p.scalar_type();
  const int32_t* query = memory<int32_t>(qi, ScalarType::Int, n, "query_ids");
  const int32_t* reference = memory<int32_t>(ri, ScalarType::Int, m, "reference_ids");
  int64_t* index = memory<int64_t>(indices, ScalarType::Long, n * width, "indices");
  if (type == ScalarType::Double)
    launch<double>(p, memory<double>(qn, type, n, "query_norms"), memory<double>(rn, type, m, "reference_norms"), query,
                   reference, first, int(width), memory<double>(values, type, n * width, "values"), index,
                   device.stream());
  else
    launch<float>(p, memory<float>(qn, ScalarType::Float, n, "query_norms"),
                  memory<float>(rn, ScalarType::Float, m, "reference_norms"), query, reference, first, int(width),
                  memory<float>(values, ScalarType::Float, n * width, "values"), index, device.stream());
}

}  // namespace
}  // namespace featgeo::selection
