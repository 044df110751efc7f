// reservoir_slots and place_: which rows a full bank takes up, and where. One block finds the priority up to which rows
// stay, digit by digit, so that nothing is sorted; then every column of the bank is one launch.
#pragma once
#include "common.cuh"

namespace featgeo::reservoir {
namespace {

constexpr int kThreads = 1024, kDigits = 256;
constexpr int64_t kEmpty = INT64_MAX;

__global__ void __launch_bounds__(kThreads) slots_kernel(const int64_t* priorities, int64_t capacity,
                                                         const int64_t* offered, int64_t n, int64_t* slots,
                                                         int64_t* sources, bool* accepted) {
  __shared__ int histogram[kDigits];
  __shared__ int counts[kThreads / 32];
  __shared__ int64_t chosen[2];  // the digits found so far, and how many keys below them
  int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  auto key = [&](int64_t i) { return i < capacity ? priorities[i] : offered[i - capacity]; };

  // the capacity-th smallest of all priorities, from its highest digit to its lowest
  int64_t prefix = 0, left = capacity;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (thread < kDigits) histogram[thread] = 0;
    __syncthreads();
    for (int64_t i = thread; i < capacity + n; i += kThreads) {
      int64_t k = key(i);
      bool alike = shift == 56 || k >> (shift + 8) == prefix >> (shift + 8);
      if (alike) atomicAdd(&histogram[(k >> shift) & 255], 1);
    }
    __syncthreads();
    if (warp == 0) {  // eight digits to a lane
      int own = 0;
      for (int e = 0; e < 8; ++e) own += histogram[lane * 8 + e];
      int before = own;
      for (int offset = 1; offset < 32; offset *= 2) {
        int other = __shfl_up_sync(0xFFFFFFFFu, before, offset);
        if (lane >= offset) before += other;
      }
      before -= own;
      if (before < left && left <= before + own) {
        int digit = lane * 8;
        int64_t rest = left - before;
        for (; rest > histogram[digit]; ++digit) rest -= histogram[digit];
        chosen[0] = prefix | int64_t(digit) << shift;
        chosen[1] = rest;
      }
    }
    __syncthreads();
    prefix = chosen[0], left = chosen[1];
    __syncthreads();
  }
  int64_t last = prefix;  // and `left` keys equal to it stay, those of the bank first

  // numbers for those that `wanted` names, in order; body(element, its number)
  auto numbered = [&](int64_t from, int64_t to, auto wanted, auto body) {
    int64_t total = 0;
    for (int64_t start = from; start < to; start += kThreads) {
      int64_t i = start + thread;
      bool is = i < to && wanted(i);
      unsigned votes = __ballot_sync(0xFFFFFFFFu, is);
      if (lane == 0) counts[warp] = __popc(votes);
      __syncthreads();
      int64_t before = total;
      for (int w = 0; w < kThreads / 32; ++w) {
        if (w < warp) before += counts[w];
        total += counts[w];
      }
      if (is) body(i, before + __popc(votes & ((1u << lane) - 1u)));
      __syncthreads();
    }
    return total;
  };
  auto nothing = [](int64_t, int64_t) {};
  int64_t ties = numbered(0, capacity, [&](int64_t i) { return priorities[i] == last; }, nothing);
  int64_t stay = ties < left ? ties : left, join = left - stay;

  // places to give up: above the last, and of those equal to it what does not stay
  int64_t seen = 0, found = 0;
  for (int64_t start = 0; start < capacity; start += kThreads) {
    int64_t to = start + kThreads < capacity ? start + kThreads : capacity, own = -1;
    seen += numbered(start, to, [&](int64_t i) { return priorities[i] == last; },
                     [&](int64_t, int64_t number) { own = seen + number; });
    found += numbered(start, to, [&](int64_t i) { return priorities[i] > last || own >= stay; },
                      [&](int64_t i, int64_t number) {
                        if (found + number < n) slots[found + number] = i;
                      });
  }
  seen = found = 0;
  for (int64_t start = 0; start < n; start += kThreads) {
    int64_t to = start + kThreads < n ? start + kThreads : n, own = -1;
    seen += numbered(start, to, [&](int64_t i) { return offered[i] == last; },
                     [&](int64_t, int64_t number) { own = seen + number; });
    found += numbered(start, to,
                      [&](int64_t i) { return offered[i] != kEmpty && (offered[i] < last || (own >= 0 && own < join)); },
                      [&](int64_t i, int64_t number) { sources[found + number] = i; });
  }
  for (int64_t i = thread; i < n; i += kThreads) {
    accepted[i] = i < found;
    if (i >= found) {
      slots[i] = -1;
      sources[i] = -1;
    }
  }
}

template <class To, class From>
__device__ To converted(From x) {
  if constexpr (std::is_same_v<To, int64_t>)
    return x;
  else
    return To(as_double(x));
}

template <class To, class From>
__global__ void place_kernel(To* state, int64_t places, int64_t width, Rows<From> fresh, const int64_t* slots,
                             const int64_t* sources, const bool* accepted, int64_t n) {
  int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= n || !accepted[i]) return;
  if (slots[i] < 0 || slots[i] >= places || sources[i] < 0 || sources[i] >= fresh.n) return;  // not of reservoir_slots
  const From* from = fresh.data + sources[i] * fresh.row_stride;
  To* to = state + slots[i] * width;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) to[j] = converted<To>(from[j * fresh.column_stride]);
}

std::tuple<Tensor, Tensor, Tensor> reservoir_slots(const Tensor& priorities, const Tensor& offered) {
  OnDevice device(priorities);
  int64_t capacity = priorities.numel(), n = offered.numel();
  STD_TORCH_CHECK(n <= capacity, "reservoir_slots: ", n, " rows for ", capacity, " places");
  Tensor p = packed(priorities), o = packed(offered);
  Tensor slots = torch::stable::empty_like(o), sources = torch::stable::empty_like(o);
  Tensor accepted = torch::stable::new_empty(o, {n}, ScalarType::Bool);
  if (n) {
    slots_kernel<<<1, kThreads, 0, device.stream()>>>(
        memory<int64_t>(p, ScalarType::Long, capacity, "priorities"), capacity,
        memory<int64_t>(o, ScalarType::Long, n, "new_priorities"), n, static_cast<int64_t*>(slots.data_ptr()),
        static_cast<int64_t*>(sources.data_ptr()), static_cast<bool*>(accepted.data_ptr()));
    check_launch("reservoir_slots");
  }
  return {slots, sources, accepted};
}

void place_(Tensor state, const Tensor& fresh, const Tensor& slots, const Tensor& sources, const Tensor& accepted) {
  int64_t n = slots.numel(), width = state.dim() == 2 ? state.size(1) : 1;
  STD_TORCH_CHECK(state.dim() == fresh.dim() && (state.dim() == 1 || state.dim() == 2), "place_: rows or numbers");
  STD_TORCH_CHECK(state.dim() == 1 || fresh.size(1) == width, "place_: rows of two widths");
  if (n == 0 || state.numel() == 0) return;
  OnDevice device(state);
  Tensor s = packed(slots), f = packed(sources), a = packed(accepted);
  const int64_t* to = memory<int64_t>(s, ScalarType::Long, n, "slots");
  const int64_t* from = memory<int64_t>(f, ScalarType::Long, n, "sources");
  const bool* which = memory<bool>(a, ScalarType::Bool, n, "accepted");
  dim3 threads(32, 8);
  auto run = [&](auto* states, auto rows) {
    place_kernel<<<blocks(n, 8), threads, 0, device.stream()>>>(states, state.size(0), width, rows, to, from, which, n);
    check_launch("place_");
  };
  STD_TORCH_CHECK(state.is_contiguous(), "place_: expected a contiguous state");
  void* memory_of_state = state.data_ptr();
  int64_t many = fresh.size(0), row_stride = fresh.stride(0), column_stride = fresh.dim() == 2 ? fresh.stride(1) : 1;
  auto with = [&](auto* states) {
    void* given = fresh.data_ptr();
    switch (fresh.scalar_type()) {
      case ScalarType::Float: return run(states, Rows<float>{static_cast<float*>(given), many, width, row_stride, column_stride});
      case ScalarType::Double: return run(states, Rows<double>{static_cast<double*>(given), many, width, row_stride, column_stride});
      case ScalarType::BFloat16:
        return run(states, Rows<__nv_bfloat16>{static_cast<__nv_bfloat16*>(given), many, width, row_stride, column_stride});
      case ScalarType::Half: return run(states, Rows<__half>{static_cast<__half*>(given), many, width, row_stride, column_stride});
      default: STD_TORCH_CHECK(false, "place_: rows of a type that the state does not take");
    }
  };
  switch (state.scalar_type()) {
    case ScalarType::Float: return with(static_cast<float*>(memory_of_state));
    case ScalarType::Double: return with(static_cast<double*>(memory_of_state));
    case ScalarType::Long:
      STD_TORCH_CHECK(fresh.scalar_type() == ScalarType::Long, "place_: whole numbers are needed");
      return run(static_cast<int64_t*>(memory_of_state),
                 Rows<int64_t>{static_cast<int64_t*>(fresh.data_ptr()), many, width, row_stride, column_stride});
    default: STD_TORCH_CHECK(false, "place_: a state of float32, float64 or int64");
  }
}

}  // namespace
}  // namespace featgeo::reservoir
