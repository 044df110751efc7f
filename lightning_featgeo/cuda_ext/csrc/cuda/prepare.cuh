// prepare: rows as a scan multiplies them, centred, scaled and rounded, with their lengths: one read, a warp to a row.
#pragma once
#include "common.cuh"

namespace featgeo::preparing {
namespace {

constexpr int kWarps = 8;

__device__ void narrow(double x, double& out) { out = x; }
__device__ void narrow(double x, float& out) { out = float(x); }
__device__ void narrow(double x, __nv_bfloat16& out) { out = __float2bfloat16_rn(float(x)); }

template <class T, class Out, class Sum>
__global__ void __launch_bounds__(32 * kWarps)
    prepare_kernel(Rows<T> rows, const double* centre, double scale, int64_t width, Out* rounded, double* norms,
                   Sum* short_norms, unsigned long long* lost) {
  __shared__ double shares[kWarps];
  int lane = threadIdx.x, warp = threadIdx.y;
  int64_t i = int64_t(blockIdx.x) * kWarps + warp;
  double norm = 0.0, rest = 0.0;
  if (i < rows.n)
    for (int64_t j = lane; j < width; j += 32) {
      double x = j < rows.d ? (rows.at(i, j) - centre[j]) * scale : 0.0;
      Out low;
      narrow(x, low);
      rounded[i * width + j] = low;
      double gone = x - as_double(low);
      norm += x * x;
      rest += gone * gone;
    }
  norm = warp_sum(norm), rest = warp_sum(rest);
  if (lane == 0) {
    if (i < rows.n) {
      norms[i] = norm;
      short_norms[i] = Sum(norm);
    }
    shares[warp] = norm > 0.0 ? sqrt(rest / norm) : 0.0;
  }
  __syncthreads();
  if (lane || warp) return;
  double most = 0.0;
  for (int w = 0; w < kWarps; ++w) most = fmax(most, shares[w]);
  if (most > 0.0) atomicMax(lost, bits_of(most));  // of positive numbers, the bits are in the same order
}

template <class Out, class Sum>
void launch(const Tensor& rows, const double* centre, double scale, int64_t width, Tensor& rounded, double* norms,
            Tensor& short_norms, double* lost, cudaStream_t stream) {
  auto* out = static_cast<Out*>(rounded.data_ptr());
  auto* sums = static_cast<Sum*>(short_norms.data_ptr());
  auto* bits = reinterpret_cast<unsigned long long*>(lost);
  dim3 threads(32, kWarps);
  with_wide_rows(rows, [&](auto x) {
    prepare_kernel<<<blocks(x.n, kWarps), threads, 0, stream>>>(x, centre, scale, width, out, norms, sums, bits);
  });
  check_launch("prepare");
}

struct Prepared {
  Tensor rounded, norms, short_norms;
};

// `lost` takes the largest share of these rows, if it is larger than what is there.
inline Prepared prepared(const Tensor& rows, const Tensor& centre, double scale, int64_t precision, Tensor& lost,
                         cudaStream_t stream) {
  int64_t n = rows.size(0), d = rows.size(1), width = (d + 7) / 8 * 8;
  STD_TORCH_CHECK(precision >= 0 && precision <= 2, "precision: 0 (bf16), 1 (fp32) or 2 (float64), got ", precision);
  const double* middle = memory<double>(centre, ScalarType::Double, d, "centre");
  ScalarType type = precision == 0 ? ScalarType::BFloat16 : precision == 1 ? ScalarType::Float : ScalarType::Double;
  ScalarType sum_type = precision == 2 ? ScalarType::Double : ScalarType::Float;
  Tensor rounded = torch::stable::new_empty(rows, {n, width}, type);
  Tensor norms = torch::stable::new_empty(centre, {n}), short_norms = torch::stable::new_empty(rows, {n}, sum_type);
  if (n) {
    auto* lengths = static_cast<double*>(norms.data_ptr());
    auto* most = static_cast<double*>(lost.data_ptr());
    if (precision == 0)
      launch<__nv_bfloat16, float>(rows, middle, scale, width, rounded, lengths, short_norms, most, stream);
    else if (precision == 1)
      launch<float, float>(rows, middle, scale, width, rounded, lengths, short_norms, most, stream);
    else
      launch<double, double>(rows, middle, scale, width, rounded, lengths, short_norms, most, stream);
  }
  return {rounded, norms, short_norms};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prepare(const Tensor& rows, const Tensor& centre, double scale,
                                                   int64_t precision) {
  OnDevice device(rows);
  Tensor lost = torch::stable::new_zeros(centre, {});
  Prepared p = prepared(rows, centre, scale, precision, lost, device.stream());
  return {p.rounded, p.norms, p.short_norms, lost};
}

}  // namespace
}  // namespace featgeo::preparing
