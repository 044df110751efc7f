// What the instruction sets provide: products of small tiles, and the passes over them. One table per instruction set.
#pragma once
#include <cstdint>

namespace featgeo {

// Rows are packed in panels of `panel` rows, element k of all rows of a panel side by side. For bf16 an element is a
// pair of two columns, so that `depth` counts pairs.
template <class Packed, class Value>
struct TileOps {
  int64_t rows;   // of one tile; divides `panel`
  int64_t panel;  // columns of one tile
  // c[i·ldc + j] (+)= Σ_k a[k·panel + i] · b[k·panel + j], i < rows, j < panel
  void (*multiply)(const Packed* a, const Packed* b, int64_t depth, Value* c, int64_t ldc, bool add);
};

template <class Value>
struct PassOps {
  // v[j] = own + norms[j] − 2·v[j]
  void (*squares)(Value* v, const Value* norms, Value own, int64_t n);
  // bit j: v[j] < limit, or v[j] < limits[j]; for up to 64 columns
  uint64_t (*below)(const Value* v, Value limit, int64_t n);
  uint64_t (*below_each)(const Value* v, const Value* limits, int64_t n);
  // k = exp(−scale·max(v, 0)), left out where ids[j] == id. Terms near 1 are summed as k − 1, and counted, so that
  // nothing that tells them apart is lost: row[0] += Σ (k or k − 1), row[1] += Σ (k² or k² − 1), row[2] += the count;
  // and the same for each column, in three runs of `stride`.
  void (*kernel)(const Value* v, const int32_t* ids, int32_t id, Value scale, int64_t n, double* row, Value* columns,
                 int64_t stride);
};

// Passes over one row of n columns, of features in fp32 or float64.
template <class Source>
struct RowOps {
  // Σ (a − b)²
  double (*distance)(const Source* a, const Source* b, int64_t n);
  // out = (x − centre)·scale, rounded to its type (for `pairs` to bf16); the length² before, and of what rounding took
  void (*centre32)(const Source* x, const double* centre, double scale, int64_t n, bool pairs, float* out,
                   double* length, double* rest);
  void (*centre64)(const Source* x, const double* centre, double scale, int64_t n, bool pairs, double* out,
                   double* length, double* rest);
  // out = x − shift; added to sums; returns Σ (x − shift)²
  double (*shift)(const Source* x, const float* shift, int64_t n, double* out, double* sums);
  // sums += x·scale, squares += (x·scale)²
  void (*scaled_sums)(const Source* x, double scale, int64_t n, double* sums, double* squares);
  // active += (x > 0)
  void (*activity)(const Source* x, int64_t n, double* active);
  // minimum = min(minimum, x), maximum = max(maximum, x)
  void (*extremes)(const Source* x, int64_t n, double* minimum, double* maximum);
};

struct InstructionSet {
  const char* name;
  TileOps<float, float> f32;
  TileOps<double, double> f64;
  TileOps<uint32_t, float> bf16;  // multiply is null where the hardware has no such product
  PassOps<float> pass32;
  PassOps<double> pass64;
  RowOps<float> row32;
  RowOps<double> row64;
};

// Null where the compiler had no such instructions. To be called only on a processor that has them.
const InstructionSet* portable_set();
const InstructionSet* avx2_set();
const InstructionSet* avx512_set();
// The best of the running processor; LIGHTNING_FEATGEO_ISA=portable|avx2|avx512 asks for less.
const InstructionSet& instructions();

}  // namespace featgeo
