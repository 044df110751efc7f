// CUDA kernels on the CPU: each thread of a block is a fiber, fibers run from barrier to barrier in random order.
// What the kernels use of CUDA, and no more. The runtime is in emulator.cpp; emulate.py rewrites launches and __shared__.
#pragma once
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define CUDART_INF_F INFINITY
#define CUDART_INF double(INFINITY)
#define CUDART_NAN double(NAN)

using __nv_bfloat16 = c10::BFloat16;
using __half = c10::Half;
inline float __bfloat162float(__nv_bfloat16 x) { return static_cast<float>(x); }
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}
inline long long __double_as_longlong(double x) {
  long long bits;
  std::memcpy(&bits, &x, 8);
  return bits;
}

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaError_t = int;
using cudaStream_t = void*;
constexpr int cudaSuccess = 0;

namespace emu {

struct Place {  // where the running fiber is
  dim3 thread, block, threads, blocks;
};
const Place& here();

[[noreturn]] void fail(const char* what, int line);                  // ends the launch with an error
void barrier(int line);                                              // __syncthreads
int barrier_or(int predicate, int line);                             // __syncthreads_or
// All lanes of the mask meet; the last to come calls action(32 payloads, mask) for all of them.
using Action = void (*)(void** payloads, unsigned mask);
void meet(unsigned mask, void* payload, Action action, int line);
void* shared(size_t bytes, size_t align);                            // the next __shared__ variable of this fiber
void* dynamic_shared();
void touch(const void* address, size_t bytes, bool write, bool atomic);
void open_call();                                                    // an op begins: no memory is known yet
void know(const void* begin, size_t bytes);                          // memory that kernels of this op may touch
void run(dim3 grid, dim3 block, size_t dynamic, const char* name, void (*body)(void*), void* arguments);
int fragment_slot(int use, int lane, int element, int count);        // a layout nobody may rely on
bool fault(int number);                                              // whether this planted fault is on

template <class T, size_t Align = 0>
T& shared_as() {
  using Element = std::remove_all_extents_t<T>;
  return *static_cast<T*>(shared(sizeof(T), Align > alignof(Element) ? Align : alignof(Element)));
}

struct Config {
  dim3 grid, block;
  size_t dynamic;
  Config(dim3 grid, dim3 block, size_t dynamic = 0, cudaStream_t = nullptr) : grid(grid), block(block), dynamic(dynamic) {}
};

template <class Kernel>
struct Launch {
  Config config;
  const char* name;
  Kernel kernel;
  template <class... Args>
  void operator()(Args... args) {
    auto body = [&] { kernel(args...); };
    run(config.grid, config.block, config.dynamic, name, [](void* b) { (*static_cast<decltype(body)*>(b))(); }, &body);
  }
};
template <class Kernel>
Launch<Kernel> on(Config config, const char* name, Kernel kernel) {
  return {config, name, kernel};
}

template <class Tensor>
void* data_of(const Tensor& x) {  // in place of x.data_ptr(): the kernels may touch from its first to its last element
  size_t last = 0, n = x.numel(), bytes = 0;
  for (int64_t k = 0; k < x.dim(); ++k) last += size_t(x.stride(k) * (x.size(k) - (n ? 1 : 0)));
  switch (x.scalar_type()) {
    case torch::headeronly::ScalarType::Bool: bytes = 1; break;
    case torch::headeronly::ScalarType::BFloat16:
    case torch::headeronly::ScalarType::Half: bytes = 2; break;
    case torch::headeronly::ScalarType::Float:
    case torch::headeronly::ScalarType::Int: bytes = 4; break;
    default: bytes = 8;
  }
  if (n) know(x.data_ptr(), (last + 1) * bytes);
  return x.data_ptr();
}

// --- a warp's exchanges: what a lane that is not in the mask holds is poison ------------------------------------------

struct Parcel {
  uint64_t value = 0, answer = 0;
  int source = 0, lane = 0;
};
inline int lane_of() {
  const dim3 &t = here().thread, &b = here().threads;
  return int((t.x + b.x * (t.y + b.y * t.z)) % 32);
}
template <class T>
T shuffled(unsigned mask, T value, int source, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  Parcel mine;
  std::memcpy(&mine.value, &value, sizeof(T));
  mine.source = source, mine.lane = lane_of();
  meet(mask, &mine, [](void** all, unsigned mask) {
    for (int lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      auto* parcel = static_cast<Parcel*>(all[lane]);
      bool there = parcel->source >= 0 && parcel->source < 32 && (mask >> parcel->source & 1);
      parcel->answer = there ? static_cast<Parcel*>(all[parcel->source])->value : 0x7FF7DEADDEAD7FF7ull;
    }
  }, line);
  T result;
  std::memcpy(&result, &mine.answer, sizeof(T));
  return result;
}
template <class T>
T shuffled_down(unsigned mask, T value, int by, int line) {
  int lane = lane_of();
  return shuffled(mask, value, lane + by < 32 ? lane + by : lane, line);
}
template <class T>
T shuffled_up(unsigned mask, T value, int by, int line) {
  int lane = lane_of();
  return shuffled(mask, value, lane >= by ? lane - by : lane, line);
}
inline unsigned ballot(unsigned mask, bool predicate, int line) {
  Parcel mine;
  mine.value = predicate;
  meet(mask, &mine, [](void** all, unsigned mask) {
    uint64_t votes = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) votes |= static_cast<Parcel*>(all[lane])->value << lane;
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) static_cast<Parcel*>(all[lane])->answer = votes;
  }, line);
  return unsigned(mine.answer);
}
int atomic_add(int* at, int by);
unsigned long long atomic_max(unsigned long long* at, unsigned long long by);

}  // namespace emu

#define threadIdx (emu::here().thread)
#define blockIdx (emu::here().block)
#define blockDim (emu::here().threads)
#define gridDim (emu::here().blocks)
#define __syncthreads() emu::barrier(__LINE__)
#define __syncthreads_or(p) emu::barrier_or((p), __LINE__)
#define __ballot_sync(mask, p) emu::ballot((mask), (p), __LINE__)
#define __shfl_sync(mask, v, source) emu::shuffled((mask), (v), (source), __LINE__)
#define __shfl_down_sync(mask, v, by) emu::shuffled_down((mask), (v), (by), __LINE__)
#define __shfl_up_sync(mask, v, by) emu::shuffled_up((mask), (v), (by), __LINE__)
inline unsigned long long atomicMax(unsigned long long* at, unsigned long long by) { return emu::atomic_max(at, by); }
inline int atomicAdd(int* at, int by) { return emu::atomic_add(at, by); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

inline cudaError_t cudaGetDevice(int* device) { return emu::open_call(), *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

// --- tensor cores -----------------------------------------------------------------------------------------------------

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  using Element = T;
  static constexpr int kUse = std::is_same_v<Use, matrix_a> ? 0 : std::is_same_v<Use, matrix_b> ? 1 : 2;
  static constexpr int kRows = kUse == 1 ? K : M, kColumns = kUse == 0 ? K : N;
  static constexpr int num_elements = kRows * kColumns / 32;
  static_assert(std::is_same_v<T, double> && M == 8 && N == 8 && K == 4, "a shape that tensor cores have");
  Element x[num_elements];
  static int place(int lane, int e) { return emu::fragment_slot(kUse, lane, e, kRows * kColumns); }
};

template <class T>
void check_pointer(const T* p, unsigned stride, int line) {
  if (reinterpret_cast<uintptr_t>(p) % 32) emu::fail("wmma: the pointer is not aligned to 256 bits", line);
  if (stride * sizeof(T) % 16) emu::fail("wmma: the stride is no multiple of 16 bytes", line);
}
inline void together(int line) { emu::meet(0xFFFFFFFFu, nullptr, [](void**, unsigned) {}, line); }

template <class Fragment, class T>
void fill_fragment(Fragment& f, T value) {
  for (auto& x : f.x) x = value;
}

template <class Use, int M, int N, int K, class T, class Layout, class E>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const E* p, unsigned stride) {
  using F = fragment<Use, M, N, K, T, Layout>;
  together(-1), check_pointer(p, stride, __LINE__);
  for (int e = 0; e < F::num_elements; ++e) {
    int at = F::place(emu::lane_of(), e), row = at / F::kColumns, column = at % F::kColumns;
    f.x[e] = std::is_same_v<Layout, row_major> ? p[row * stride + column] : p[column * stride + row];
  }
}

template <int M, int N, int K, class T, class E>
void store_matrix_sync(E* p, const fragment<accumulator, M, N, K, T>& f, unsigned stride, layout_t layout) {
  using F = fragment<accumulator, M, N, K, T>;
  together(-2), check_pointer(p, stride, __LINE__);
  for (int e = 0; e < F::num_elements; ++e) {
    int at = F::place(emu::lane_of(), e), row = at / N, column = at % N;
    (layout == mem_row_major ? p[row * stride + column] : p[column * stride + row]) = f.x[e];
  }
}

inline double step(const double* a, const double* b, int k, double c) {
  for (int i = 0; i < k; ++i) c = std::fma(a[i], b[i], c);
  return c;
}

template <int M, int N, int K, class T, class In, class LA, class LB>
void mma_sync(fragment<accumulator, M, N, K, T>& d, const fragment<matrix_a, M, N, K, In, LA>& a,
              const fragment<matrix_b, M, N, K, In, LB>& b, const fragment<accumulator, M, N, K, T>& c) {
  using A = fragment<matrix_a, M, N, K, In, LA>;
  using B = fragment<matrix_b, M, N, K, In, LB>;
  using C = fragment<accumulator, M, N, K, T>;
  struct Operands {
    C* d;
    const A* a;
    const B* b;
    const C* c;
  } mine{&d, &a, &b, &c};
  emu::meet(0xFFFFFFFFu, &mine, [](void** all, unsigned) {
    T left[M][K], right[N][K];
    for (int lane = 0; lane < 32; ++lane) {
      auto* from = static_cast<Operands*>(all[lane]);
      for (int e = 0; e < A::num_elements; ++e) {
        int at = A::place(lane, e);
        left[at / K][at % K] = from->a->x[e];
      }
      for (int e = 0; e < B::num_elements; ++e) {
        int at = B::place(lane, e);
        right[at % N][at / N] = from->b->x[e];
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      auto* to = static_cast<Operands*>(all[lane]);
      for (int e = 0; e < C::num_elements; ++e) {
        int at = C::place(lane, e);
        to->d->x[e] = step(left[at / N], right[at % N], K, to->c->x[e]);
      }
    }
  }, -3);
}

}  // namespace nvcuda::wmma
