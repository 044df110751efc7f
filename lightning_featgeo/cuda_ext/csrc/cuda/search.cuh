// frame and best: the first and the main part of a search, as one op each, so that the host hands out launches without
// going through Python.
#pragma once
#include <algorithm>

#include "prepare.cuh"
#include "select.cuh"

namespace featgeo::searching {
namespace {

constexpr int kThreads = 256, kColumns = 32, kLanes = 32;
#ifdef FEATGEO_EMULATED  // small, so that small problems take several
constexpr int64_t kTileBytes = int64_t(1) << 16, kTileRows = 200, kRoundedBytes = int64_t(1) << 15;
#else
constexpr int64_t kTileBytes = int64_t(1) << 25;  // of products: about what stays in a GPU's cache
constexpr int64_t kTileRows = 2048, kRoundedBytes = int64_t(1) << 28;
#endif

// --- frame -----------------------------------------------------------------------------------------------------------

// Numbers as integers in the same order, so that the largest can be found with atomics; all are above zero.
__device__ inline unsigned long long ordered(double x) {
  unsigned long long bits = bits_of(x), sign = 1ull << 63;
  return bits & sign ? ~bits : bits | sign;
}
__device__ inline double number(unsigned long long key) {
  unsigned long long sign = 1ull << 63;
  return double_of(key & sign ? key ^ sign : ~key);
}

// ends: the largest number, the largest of those with the other sign, and whether one is NaN.
template <class T>
__global__ void __launch_bounds__(kThreads) ends_kernel(const T* numbers, int64_t n, unsigned long long* ends) {
  __shared__ double tops[2][kThreads / 32];
  __shared__ int wrong;
  if (threadIdx.x == 0) wrong = 0;
  __syncthreads();
  double low = CUDART_INF, high = -CUDART_INF;
  bool nan = false;
  int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    T x = numbers[i];
    nan |= x != x;
    low = double(x) < low ? double(x) : low;
    high = double(x) > high ? double(x) : high;
  }
  for (int offset = 16; offset; offset /= 2) {
    low = fmin(low, __shfl_down_sync(0xFFFFFFFFu, low, offset));
    high = fmax(high, __shfl_down_sync(0xFFFFFFFFu, high, offset));
  }
  if (threadIdx.x % 32 == 0) {
    tops[0][threadIdx.x / 32] = low;
    tops[1][threadIdx.x / 32] = high;
  }
  if (nan) atomicAdd(&wrong, 1);
  __syncthreads();
  if (threadIdx.x) return;
  for (int w = 1; w < kThreads / 32; ++w) {
    low = fmin(low, tops[0][w]);
    high = fmax(high, tops[1][w]);
  }
  atomicMax(&ends[0], ordered(high));
  atomicMax(&ends[1], ordered(-low));
  if (wrong) atomicMax(&ends[2], 1ull);
}

// The mean of every `step`-th row, and the ends as numbers.
template <class T>
__global__ void __launch_bounds__(kColumns* kLanes)
    centre_kernel(Rows<T> rows, int64_t step, const unsigned long long* keys, double* centre, double* ends) {
  __shared__ double sums[kLanes][kColumns];
  int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x, taken = (rows.n + step - 1) / step;
  double sum = 0.0;
  if (column < rows.d)
    for (int64_t i = threadIdx.y; i < taken; i += kLanes) sum += rows.at(i * step, column);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y) return;
  for (int lane = 1; lane < kLanes; ++lane) sum += sums[lane][threadIdx.x];
  if (column < rows.d) centre[column] = sum / double(taken);
  if (blockIdx.x || threadIdx.x) return;
  ends[0] = keys[2] ? CUDART_NAN : keys[1] ? -number(keys[1]) : 0.0;
  ends[1] = keys[2] ? CUDART_NAN : keys[0] ? number(keys[0]) : 0.0;
}

template <class T>
void launch_ends(const Tensor& rows, unsigned long long* keys, cudaStream_t stream) {
  int64_t n = rows.numel();
  if (n == 0) return;
  unsigned grid = unsigned(std::min<int64_t>(1024, blocks(n, kThreads * 4)));
  const T* numbers = static_cast<const T*>(rows.data_ptr());
  ends_kernel<T><<<grid, kThreads, 0, stream>>>(numbers, n, keys);
  check_launch("frame (ends)");
}

template <class T>
void launch_centre(const Rows<T>& rows, int64_t step, const unsigned long long* keys, double* centre, double* ends,
                   cudaStream_t stream) {
  dim3 threads(kColumns, kLanes);
  centre_kernel<T><<<blocks(rows.d, kColumns), threads, 0, stream>>>(rows, step, keys, centre, ends);
  check_launch("frame (centre)");
}

std::tuple<Tensor, Tensor> frame(const Tensor& rows, std::optional<Tensor> others, int64_t most) {
  OnDevice device(rows);
  STD_TORCH_CHECK(rows.dim() == 2, "frame: expected rows of shape (n, d), got ", rows.dim(), " dimensions");
  int64_t n = rows.size(0), d = rows.size(1);
  STD_TORCH_CHECK(n > 0 && d > 0 && most > 0, "frame: no rows");
  bool wide = rows.scalar_type() == ScalarType::Double;
  Tensor keys = torch::stable::new_zeros(rows, {3}, ScalarType::Long);
  Tensor centre = torch::stable::new_empty(rows, {d}, ScalarType::Double);
  Tensor ends = torch::stable::new_empty(rows, {2}, ScalarType::Double);
  auto* bits = static_cast<unsigned long long*>(keys.data_ptr());
  auto* middle = static_cast<double*>(centre.data_ptr());
  auto* numbers = static_cast<double*>(ends.data_ptr());
  int64_t step = std::max<int64_t>(1, n / most);
  auto look = [&](const Tensor& some) {
    Tensor x = packed(some);
    STD_TORCH_CHECK(x.scalar_type() == rows.scalar_type(), "frame: rows of two types");
    if (wide)
      launch_ends<double>(x, bits, device.stream());
    else
      launch_ends<float>(x, bits, device.stream());
  };
  STD_TORCH_CHECK(wide || rows.scalar_type() == ScalarType::Float, "frame: expected fp32 or float64 rows");
  look(rows);
  if (others) look(*others);
  if (wide)
    launch_centre(rows_of<double>(rows), step, bits, middle, numbers, device.stream());
  else
    launch_centre(rows_of<float>(rows), step, bits, middle, numbers, device.stream());
  return {centre, ends};
}

// --- best ------------------------------------------------------------------------------------------------------------

inline Tensor call_mm(const char* overload, StableIValue* stack) {
  STD_TORCH_CHECK(torch_call_dispatcher("aten::mm", overload, stack, TORCH_ABI_VERSION) == 0, "a matrix product failed");
  return torch::stable::detail::to<Tensor>(stack[0]);
}
inline Tensor mm(const Tensor& a, const Tensor& b) {
  StableIValue stack[] = {torch::stable::detail::from(a), torch::stable::detail::from(b)};
  return call_mm("", stack);
}

// q·bᵀ, of bf16 rows with fp32 sums. Where the user lets fp32 products be less than that, they are made in float64.
inline Tensor products(const Tensor& q, const Tensor& b, int64_t precision, bool full) {
  Tensor columns = torch::stable::transpose(b, 0, 1);
  if (precision == 2 || (precision == 1 && full)) return mm(q, columns);
  if (precision == 1) {
    Tensor wide = mm(torch::stable::to(q, ScalarType::Double), torch::stable::to(columns, ScalarType::Double));
    return torch::stable::to(wide, ScalarType::Float);
  }
#ifdef FEATGEO_EMULATED  // no such product on a CPU
  return mm(torch::stable::to(q, ScalarType::Float), torch::stable::to(columns, ScalarType::Float));
#else
  StableIValue stack[] = {torch::stable::detail::from(q), torch::stable::detail::from(columns),
                          torch::stable::detail::from(ScalarType::Float)};
  return call_mm("dtype", stack);
#endif
}

using Found = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Found best(const Tensor& queries, std::optional<Tensor> reference, const Tensor& query_ids,
           std::optional<Tensor> reference_ids, const Tensor& centre, double scale, int64_t room, int64_t precision,
           double kernel_scale, bool full) {
  OnDevice device(queries);
  cudaStream_t stream = device.stream();
  Tensor among = reference ? *reference : queries, ids = reference_ids ? *reference_ids : query_ids;
  int64_t n = queries.size(0), m = among.size(0), d = queries.size(1);
  int64_t itemsize = precision == 2 ? 8 : 4, rounded_size = precision == 0 ? 2 : itemsize;
  ScalarType type = precision == 2 ? ScalarType::Double : ScalarType::Float;
  double factor = -kernel_scale / (scale * scale);
  Tensor values = torch::stable::new_empty(queries, {n, room}, type);
  Tensor indices = torch::stable::new_empty(queries, {n, room}, ScalarType::Long);
  Tensor sums = torch::stable::new_zeros(centre, {n}), squares = torch::stable::new_zeros(centre, {n});
  Tensor lost = torch::stable::new_zeros(centre, {});
  if (n == 0 || m == 0) {
    torch::stable::fill_(values, INFINITY);
    torch::stable::fill_(indices, -1);
  }
  preparing::Prepared q = preparing::prepared(queries, centre, scale, precision, lost, stream);
  int64_t block = reference ? std::max<int64_t>(1, kRoundedBytes / (rounded_size * std::max<int64_t>(1, d))) : m;
  int64_t height = std::min(n, kTileRows), across = std::max<int64_t>(1, kTileBytes / (itemsize * std::max<int64_t>(1, height)));
  for (int64_t from = 0; n && from < m; from += block) {
    int64_t rows = std::min(block, m - from);
    preparing::Prepared b = q;
    if (reference) b = preparing::prepared(narrowed(among, from, rows), centre, scale, precision, lost, stream);
    Tensor own_ids = narrowed(ids, from, rows);
    for (int64_t i = 0; i < n; i += height)
      for (int64_t j = 0; j < rows; j += across) {
        int64_t high = std::min(height, n - i), wide = std::min(across, rows - j);
        Tensor p = products(narrowed(q.rounded, i, high), narrowed(b.rounded, j, wide), precision, full);
        Tensor mine = narrowed(values, i, high), found = narrowed(indices, i, high);
        Tensor sum = narrowed(sums, i, high), square = narrowed(squares, i, high);
        selection::with_tile(p, narrowed(q.short_norms, i, high), narrowed(b.short_norms, j, wide),
                             narrowed(query_ids, i, high), narrowed(own_ids, j, wide), [&](auto tile) {
          if (kernel_scale > 0)
            selection::launch_sums(tile, high, factor, static_cast<double*>(sum.data_ptr()),
                                   static_cast<double*>(square.data_ptr()), stream);
          selection::launch_select(tile, high, from + j, int(room), from + j == 0, mine,
                                   static_cast<int64_t*>(found.data_ptr()), stream);
        });
      }
  }
  Tensor limits = torch::stable::new_empty(values, {n});
  if (room >= m)
    torch::stable::fill_(limits, INFINITY);
  else
    torch::stable::copy_(limits, torch::stable::select(values, 1, room - 1));  // infinite where fewer were found
  return {values, indices, limits, sums, squares, q.norms, lost};
}

}  // namespace
}  // namespace featgeo::searching
