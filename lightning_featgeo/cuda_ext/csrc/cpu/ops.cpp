// The ops on CPU tensors, under the names that schemas.py defines. LibTorch's stable ABI: one build serves
// every torch from 2.10 on, and every Python.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <optional>
#include <tuple>

#include "moments.h"
#include "neighbors.h"
#include "reservoir.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace featgeo {

void parallel_for(int64_t begin, int64_t end, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(begin, end, grain, body);
}

int64_t threads() { return std::max<int64_t>(1, torch::stable::get_num_threads()); }

namespace {

// Rows of any floating-point type and strides as fp32 or float64, row by row; the tensor keeps them alive.
Tensor plain(const Tensor& x) {
  bool known = x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double;
  Tensor y = known ? x : torch::stable::to(x, ScalarType::Float);
  return y.is_contiguous() ? y : torch::stable::contiguous(y);
}

Matrix matrix(const Tensor& plain) {
  STD_TORCH_CHECK(plain.dim() == 2, "expected rows of shape (n, d), got ", plain.dim(), " dimensions");
  return {plain.data_ptr(), plain.size(0), plain.size(1), plain.scalar_type() == ScalarType::Double};
}

template <class T>
T* memory(const Tensor& x, ScalarType type, int64_t numel, const char* name) {
  STD_TORCH_CHECK(x.is_cpu() && x.is_contiguous() && x.scalar_type() == type && x.numel() == numel, name,
                  ": expected a contiguous CPU tensor of ", numel, " elements of the documented type");
  return static_cast<T*>(x.data_ptr());
}

double* doubles(const Tensor& x, int64_t numel, const char* name) {
  return memory<double>(x, ScalarType::Double, numel, name);
}

Tensor integers(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

void scatter_(const Tensor& rows, const Tensor& groups, Tensor shift, Tensor counts, Tensor sums, Tensor squares,
              std::optional<Tensor> scatter, int64_t labelled_groups) {
  Tensor x = plain(rows), g = integers(groups);
  Matrix m = matrix(x);
  int64_t n_groups = counts.numel(), d = m.columns, buckets = scatter ? scatter->size(0) : 0;
  const int64_t* ids = memory<int64_t>(g, ScalarType::Long, m.rows, "groups");
  for (int64_t i = 0; i < m.rows; ++i)
    STD_TORCH_CHECK(ids[i] < n_groups, "scatter_: group ", ids[i], " of row ", i, ", but there are ", n_groups);
  if (d == 0) {  // rows without numbers: there is nothing to add, but they count
    double* counted = doubles(counts, n_groups, "counts");
    for (int64_t i = 0; i < m.rows; ++i)
      if (ids[i] >= 0) counted[ids[i]] += 1.0;
    return;
  }
  add_scatter(m, ids,
              {n_groups, labelled_groups, buckets, memory<float>(shift, ScalarType::Float, n_groups * d, "shift"),
               doubles(counts, n_groups, "counts"), doubles(sums, n_groups * d, "sums"),
               doubles(squares, n_groups, "squares"), scatter ? doubles(*scatter, buckets * d * d, "scatter") : nullptr});
}

void direction_sums_(const Tensor& rows, const Tensor& keep, Tensor count, Tensor sums, Tensor squares) {
  Tensor x = plain(rows), k = integers(keep);
  Matrix m = matrix(x);
  add_directions(m, memory<bool>(k, ScalarType::Bool, m.rows, "keep"), doubles(count, 2, "count"),
                 doubles(sums, m.columns, "sums"), doubles(squares, m.columns, "squares"));
}

void unit_stats_(const Tensor& rows, const Tensor& keep, Tensor active, std::optional<Tensor> minimum,
                 std::optional<Tensor> maximum) {
  STD_TORCH_CHECK(minimum.has_value() == maximum.has_value(), "unit_stats_: give both minimum and maximum, or neither");
  Tensor x = plain(rows), k = integers(keep);
  Matrix m = matrix(x);
  add_activity(m, memory<bool>(k, ScalarType::Bool, m.rows, "keep"), doubles(active, m.columns, "active"),
               minimum ? doubles(*minimum, m.columns, "minimum") : nullptr,
               maximum ? doubles(*maximum, m.columns, "maximum") : nullptr);
}

Tensor fresh(std::initializer_list<int64_t> size, ScalarType type) {
  return torch::stable::empty({size.begin(), size.size()}, type);
}

std::tuple<Tensor, Tensor, Tensor> slots(const Tensor& priorities, const Tensor& offered) {
  Tensor kept = integers(priorities), arrived = integers(offered);
  int64_t capacity = kept.numel(), n = arrived.numel();
  STD_TORCH_CHECK(n <= capacity, "reservoir_slots: ", n, " rows offered to ", capacity, " slots at once");
  Tensor out = torch::stable::empty({n}, ScalarType::Long), sources = torch::stable::empty({n}, ScalarType::Long);
  Tensor accepted = torch::stable::empty({n}, ScalarType::Bool);
  reservoir_slots(memory<int64_t>(kept, ScalarType::Long, capacity, "priorities"), capacity,
                  memory<int64_t>(arrived, ScalarType::Long, n, "new_priorities"), n, std::numeric_limits<int64_t>::max(),
                  static_cast<int64_t*>(out.data_ptr()), static_cast<int64_t*>(sources.data_ptr()),
                  static_cast<bool*>(accepted.data_ptr()));
  return {out, sources, accepted};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> scan(const Tensor& queries, std::optional<Tensor> reference,
                                                        const Tensor& query_ids, std::optional<Tensor> reference_ids,
                                                        const Tensor& centre, double scale, int64_t k, bool measure,
                                                        int64_t precision, double kernel_scale) {
  STD_TORCH_CHECK(k >= 0 && precision >= 0 && precision <= 2, "scan: k ", k, " and precision ", precision);
  STD_TORCH_CHECK(reference.has_value() == reference_ids.has_value(), "scan: a reference and its ids go together");
  Tensor q = plain(queries), r = reference ? plain(*reference) : q;
  STD_TORCH_CHECK(q.scalar_type() == r.scalar_type(), "scan: queries and reference differ in type");
  Tensor qi = integers(query_ids), ri = reference_ids ? integers(*reference_ids) : qi;
  Matrix a = matrix(q), b = matrix(r);
  STD_TORCH_CHECK(a.columns == b.columns, "scan: queries and reference differ in dimension");
  STD_TORCH_CHECK(b.rows < (int64_t(1) << 31), "scan: at most 2^31 - 1 reference rows at a time");
  int64_t n = a.rows;
  Tensor distances = fresh({n, k}, ScalarType::Double), indices = fresh({n, k}, ScalarType::Long);
  Tensor certain = fresh({n}, ScalarType::Bool);
  Tensor sums = fresh({n}, ScalarType::Double), squares = fresh({n}, ScalarType::Double);
  torch::stable::zero_(sums);
  torch::stable::zero_(squares);
  Table table{k,
              static_cast<double*>(distances.data_ptr()),
              static_cast<int64_t*>(indices.data_ptr()),
              static_cast<bool*>(certain.data_ptr()),
              kernel_scale > 0.0 ? static_cast<double*>(sums.data_ptr()) : nullptr,
              static_cast<double*>(squares.data_ptr())};
  Problem problem{a,
                  b,
                  !reference.has_value(),
                  memory<int32_t>(qi, ScalarType::Int, a.rows, "query_ids"),
                  memory<int32_t>(ri, ScalarType::Int, b.rows, "reference_ids"),
                  {doubles(centre, a.columns, "centre"), scale},
                  measure,
                  kernel_scale};
  nearest(problem, Precision(precision), table);
  return {distances, indices, certain, sums, squares};
}

Problem among(const Matrix& rows, const int32_t* ids, const Tensor& centre, double scale, bool measure,
              double kernel_scale) {
  return {rows, rows, true, ids, ids, {doubles(centre, rows.columns, "centre"), scale}, measure, kernel_scale};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> candidates(const Tensor& rows, const Tensor& ids,
                                                                      const Tensor& centre, double scale,
                                                                      int64_t width, int64_t precision,
                                                                      double kernel_scale, int64_t part,
                                                                      int64_t parts) {
  STD_TORCH_CHECK(width > 0 && precision >= 0 && precision <= 2, "candidates: width ", width, ", precision ",
                  precision);
  STD_TORCH_CHECK(parts > 0 && parts < (int64_t(1) << 31) && part >= 0 && part < parts, "candidates: part ", part, " of ", parts);
  Tensor x = plain(rows), own = integers(ids);
  Matrix m = matrix(x);
  int64_t n = m.rows;
  ScalarType type = Precision(precision) == Precision::kF64 ? ScalarType::Double : ScalarType::Float;
  Tensor values = fresh({n, width}, type), indices = fresh({n, width}, ScalarType::Int), limits = fresh({n}, type);
  Tensor sums = fresh({n}, ScalarType::Double), squares = fresh({n}, ScalarType::Double);
  Tensor lengths = fresh({n + 1}, ScalarType::Double);
  torch::stable::zero_(sums);
  torch::stable::zero_(squares);
  Found found{width,
              values.data_ptr(),
              static_cast<int32_t*>(indices.data_ptr()),
              limits.data_ptr(),
              kernel_scale > 0.0 ? static_cast<double*>(sums.data_ptr()) : nullptr,
              static_cast<double*>(squares.data_ptr()),
              static_cast<double*>(lengths.data_ptr())};
  const int32_t* numbers = memory<int32_t>(own, ScalarType::Int, n, "ids");
  gather(among(m, numbers, centre, scale, false, kernel_scale), Precision(precision), {part, parts}, found);
  return {values, indices, limits, sums, squares, lengths};
}

std::tuple<Tensor, Tensor, Tensor> settle_candidates(const Tensor& rows, int64_t first, const Tensor& values,
                                                     const Tensor& indices, const Tensor& limits,
                                                     const Tensor& lengths, const Tensor& centre, double scale,
                                                     int64_t k, bool measure, int64_t precision) {
  STD_TORCH_CHECK(k >= 0 && precision >= 0 && precision <= 2, "settle: k ", k, " and precision ", precision);
  Tensor x = plain(rows);
  Matrix m = matrix(x);
  int64_t n = values.size(0), width = values.size(1);
  STD_TORCH_CHECK(first >= 0 && first <= m.rows - n, "settle: ", n, " rows from ", first, " of ", m.rows);
  ScalarType type = Precision(precision) == Precision::kF64 ? ScalarType::Double : ScalarType::Float;
  Tensor distances = fresh({n, k}, ScalarType::Double), found = fresh({n, k}, ScalarType::Long);
  Tensor certain = fresh({n}, ScalarType::Bool);
  const int32_t* which = memory<int32_t>(indices, ScalarType::Int, n * width, "indices");
  for (int64_t i = 0; i < n * width; ++i)
    STD_TORCH_CHECK(which[i] < m.rows, "settle: candidate ", which[i], ", but there are ", m.rows, " rows");
  Found gathered{width,
                 type == ScalarType::Double ? static_cast<void*>(memory<double>(values, type, n * width, "values"))
                                            : static_cast<void*>(memory<float>(values, type, n * width, "values")),
                 const_cast<int32_t*>(which),
                 type == ScalarType::Double ? static_cast<void*>(memory<double>(limits, type, n, "limits"))
                                            : static_cast<void*>(memory<float>(limits, type, n, "limits")),
                 nullptr,
                 nullptr,
                 doubles(lengths, m.rows + 1, "lengths")};
  Table table{k,
              static_cast<double*>(distances.data_ptr()),
              static_cast<int64_t*>(found.data_ptr()),
              static_cast<bool*>(certain.data_ptr()),
              nullptr,
              nullptr};
  settle(among(m, nullptr, centre, scale, measure, 0.0), Precision(precision), first, n, gathered, table);
  return {distances, found, certain};
}

}  // namespace
}  // namespace featgeo

STABLE_TORCH_LIBRARY_IMPL(lightning_featgeo, CPU, m) {
  m.impl("scatter_", TORCH_BOX(&featgeo::scatter_));
  m.impl("direction_sums_", TORCH_BOX(&featgeo::direction_sums_));
  m.impl("unit_stats_", TORCH_BOX(&featgeo::unit_stats_));
  m.impl("reservoir_slots", TORCH_BOX(&featgeo::slots));
  m.impl("scan", TORCH_BOX(&featgeo::scan));
  m.impl("candidates", TORCH_BOX(&featgeo::candidates));
  m.impl("settle", TORCH_BOX(&featgeo::settle_candidates));
}

// For library.py: what this was built from, what it holds, and what it runs on.
#define FEATGEO_EXPORT extern "C" __attribute__((visibility("default"), used))
FEATGEO_EXPORT const char* featgeo_fingerprint() { return FEATGEO_FINGERPRINT; }
FEATGEO_EXPORT const char* featgeo_ops() { return "candidates direction_sums_ reservoir_slots scan scatter_ settle unit_stats_"; }
FEATGEO_EXPORT const char* featgeo_instruction_set() { return featgeo::instruction_set(); }
FEATGEO_EXPORT bool featgeo_has_bf16() { return featgeo::has_bf16(); }
