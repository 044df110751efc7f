// What every kernel file needs: the current stream, a device guard, launch checks, and rows of any type as doubles.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <math_constants.h>

#include <optional>
#include <tuple>

// In libtorch_cuda only. Weak, so that this library also loads, for checks, where there is no CUDA build of torch.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace featgeo {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

class OnDevice {  // makes the tensor's device the current one, and gives its current stream
 public:
  explicit OnDevice(const Tensor& x) : device_(x.get_device()) {
    STD_TORCH_CHECK(x.is_cuda(), "expected CUDA tensors");
    cudaGetDevice(&before_);
    if (before_ != device_) cudaSetDevice(device_);
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaStream_t stream() const {
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch has no CUDA");
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream) == 0, "no current CUDA stream");
    return static_cast<cudaStream_t>(stream);
  }

 private:
  int before_ = 0, device_;
};

inline void check_launch(const char* kernel) {
  cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, kernel, ": ", cudaGetErrorString(error));
}

inline unsigned blocks(int64_t n, int64_t each) { return unsigned((n + each - 1) / each); }

template <class T>
T* memory(const Tensor& x, ScalarType type, int64_t numel, const char* name) {
  STD_TORCH_CHECK(x.is_cuda() && x.is_contiguous() && x.scalar_type() == type && x.numel() == numel, name,
                  ": expected a contiguous CUDA tensor of ", numel, " elements of the documented type");
  return static_cast<T*>(x.data_ptr());
}

inline Tensor narrowed(const Tensor& x, int64_t first, int64_t many) {  // some of its rows
  if (first == 0 && many == x.size(0)) return x;
  Tensor whole = x;
  return torch::stable::narrow(whole, 0, first, many);
}

inline Tensor packed(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

__device__ inline double as_double(double x) { return x; }
__device__ inline double as_double(float x) { return double(x); }
__device__ inline double as_double(__nv_bfloat16 x) { return double(__bfloat162float(x)); }
__device__ inline double as_double(__half x) { return double(__half2float(x)); }

__device__ inline unsigned long long bits_of(double x) { return static_cast<unsigned long long>(__double_as_longlong(x)); }

__device__ inline double double_of(unsigned long long bits) { return __longlong_as_double(static_cast<long long>(bits)); }

// The sum over a warp, in its first lane, always in the same order.
template <class Value>
__device__ Value warp_sum(Value x) {
  for (int offset = 16; offset; offset /= 2) x += __shfl_down_sync(0xFFFFFFFFu, x, offset);
  return x;
}

// Rows of any floating-point type and strides, as they lie.
template <class T>
struct Rows {
  using Element = T;
  const T* data;
  int64_t n, d, row_stride, column_stride;

  __device__ double at(int64_t i, int64_t j) const { return as_double(data[i * row_stride + j * column_stride]); }
};

template <class T>
Rows<T> rows_of(const Tensor& x) {
  return {static_cast<const T*>(x.data_ptr()), x.size(0), x.size(1), x.stride(0), x.stride(1)};
}

// Calls `body` with a Rows of the tensor's type.
template <class Body>
void with_rows(const Tensor& x, const Body& body) {
  STD_TORCH_CHECK(x.dim() == 2, "expected rows of shape (n, d), got ", x.dim(), " dimensions");
  switch (x.scalar_type()) {
    case ScalarType::Float: return body(rows_of<float>(x));
    case ScalarType::Double: return body(rows_of<double>(x));
    case ScalarType::BFloat16: return body(rows_of<__nv_bfloat16>(x));
    case ScalarType::Half: return body(rows_of<__half>(x));
    default: STD_TORCH_CHECK(false, "expected fp32, float64, bf16 or fp16 rows");
  }
}

// The same for rows that a search has already made fp32 or float64.
template <class Body>
void with_wide_rows(const Tensor& x, const Body& body) {
  STD_TORCH_CHECK(x.dim() == 2, "expected rows of shape (n, d), got ", x.dim(), " dimensions");
  if (x.scalar_type() == ScalarType::Double) return body(rows_of<double>(x));
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "expected fp32 or float64 rows");
  body(rows_of<float>(x));
}

}  // namespace featgeo
