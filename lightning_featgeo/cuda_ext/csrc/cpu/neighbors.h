// Nearest neighbours among rows in memory: the interface between the search and the tensors around it.
#pragma once
#include <cstdint>

#include "buffer.h"

namespace featgeo {

struct Frame {
  const double* centre;  // (columns) subtracted before products
  double scale;          // multiplied after: the longest row then has a length of about 1
};

enum class Precision : int64_t { kBf16 = 0, kF32 = 1, kF64 = 2 };

struct Problem {
  Matrix queries, reference;
  bool self;  // the reference is the queries, and each block of products serves both
  const int32_t* query_ids;  // rows with the same id are no neighbours of each other
  const int32_t* reference_ids;
  Frame frame;
  bool measure;  // every distance by subtraction in float64, else only where the set is in doubt
  double kernel_scale;
};

struct Table {  // row by row
  int64_t k;
  double* distances;
  int64_t* indices;
  bool* certain;
  double* sums;  // of exp(−kernel_scale·‖q−b‖²) and of its square; null: not wanted
  double* squares;
};

struct Share {  // of the pairs of rows: the shares of all parts are all pairs, none twice
  int64_t part, parts;
};

struct Found {  // the best candidates of each row, fp32 or float64 as the products' sums are
  int64_t width;
  void* values;  // row by row, infinity where there is none
  int32_t* indices;
  void* limits;  // nothing else scans below
  double* sums;  // as in Table
  double* squares;
  double* lengths;  // of all rows, centred and scaled, and behind them the largest share that rounding took of one
};

void nearest(const Problem& problem, Precision precision, Table& table);
// A search among the queries in two steps: candidates from one share of the pairs, and from all shares' candidates the
// neighbours of some rows.
void gather(const Problem& problem, Precision precision, const Share& share, Found& found);
void settle(const Problem& problem, Precision precision, int64_t first, int64_t rows, const Found& found, Table& table);
bool has_bf16();
const char* instruction_set();

}  // namespace featgeo
