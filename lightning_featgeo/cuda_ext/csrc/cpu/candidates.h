// The best candidates of every row, with the rest thrown away by a limit that only falls.
#pragma once
#include <algorithm>
#include <limits>

#include "buffer.h"

namespace featgeo {

constexpr int64_t kBlock = 192;  // rows of a block: whole panels of every instruction set

template <class Value>
struct Candidate {
  Value value_;
  int32_t index_;

  static Candidate of(Value value, int32_t index) { return {value, index}; }
  Value value() const { return value_; }
  int32_t index() const { return index_; }
  bool operator<(const Candidate& other) const {
    return value_ < other.value_ || (value_ == other.value_ && index_ < other.index_);
  }
};

template <>
struct Candidate<float> {  // one whole number that sorts by value, then by index
  uint64_t key;

  static Candidate of(float value, int32_t index) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return {uint64_t(bits) << 32 | uint32_t(index)};
  }
  float value() const {
    uint32_t bits = uint32_t(key >> 32);
    bits ^= bits >> 31 ? 0x80000000u : 0xFFFFFFFFu;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
  }
  int32_t index() const { return int32_t(uint32_t(key)); }
  bool operator<(const Candidate& other) const { return key < other.key; }
};

// Move the `width` smallest of n different things to the front, the largest of them last. A quickselect whose partition
// does not branch on the data: a comparison of distances is as good as a coin toss, and a wrong guess costs more than
// the copies.
template <class T>
void keep_smallest(T* a, int64_t n, int64_t width, T* scratch) {
  int64_t low = 0, high = n, target = width - 1;
  while (high - low > 12) {
    T x = a[low], y = a[low + (high - low) / 2], z = a[high - 1];
    T pivot = std::max(std::min(x, y), std::min(std::max(x, y), z));
    int64_t less = low, rest = 0;
    for (int64_t i = low; i < high; ++i) {
      T each = a[i];
      bool smaller = each < pivot;
      a[less] = each;
      scratch[rest] = each;
      less += smaller;
      rest += !smaller;
    }
    std::copy(scratch, scratch + rest, a + less);
    if (target < less) {
      high = less;
    } else if (less > low) {
      low = less;
    } else {  // the pivot is the smallest: it alone has found its place
      std::iter_swap(a + low, std::find_if(a + low, a + high, [&](const T& each) { return !(pivot < each); }));
      if (target == low) return;
      ++low;
    }
  }
  std::sort(a + low, a + high);
}

template <class Value>
class Best {
 public:
  Best(int64_t rows, int64_t width)
      : limits(ceil_div(rows, kBlock) * kBlock), width_(width), room_(2 * width), counts_(rows), store_(rows * room_) {
    limits.fill(std::numeric_limits<Value>::infinity());
    counts_.fill(0);
  }

  // `scratch` has space for 2·width candidates.
  void add(int64_t row, Value value, int32_t index, Candidate<Value>* scratch) {
    Candidate<Value>* own = begin(row);
    own[counts_[row]++] = Candidate<Value>::of(value, index);
    if (counts_[row] < room_) return;
    keep_smallest(own, room_, width_, scratch);
    counts_[row] = int32_t(width_);
    limits[row] = own[width_ - 1].value();  // everything thrown away from now on scans at or above this
  }

  // No more than `width` of a row, the rest behind its limit.
  int64_t trim(int64_t row, Candidate<Value>* scratch) {
    if (counts_[row] > width_) {
      keep_smallest(begin(row), int64_t(counts_[row]), width_, scratch);
      counts_[row] = int32_t(width_);
      limits[row] = begin(row)[width_ - 1].value();
    }
    return counts_[row];
  }

  // Candidates that were found elsewhere, and below which limit none is missing.
  void set(int64_t row, const Value* values, const int32_t* indices, int64_t count, Value limit) {
    counts_[row] = 0;
    for (int64_t c = 0; c < count; ++c)
      if (indices[c] >= 0) begin(row)[counts_[row]++] = Candidate<Value>::of(values[c], indices[c]);
    limits[row] = limit;
  }

  int64_t room() const { return room_; }
  int64_t width() const { return width_; }

  Candidate<Value>* begin(int64_t row) const { return store_.get() + row * room_; }
  Candidate<Value>* end(int64_t row) const { return begin(row) + counts_[row]; }

  Buffer<Value> limits;

 private:
  int64_t width_, room_;
  Buffer<int32_t> counts_;
  Buffer<Candidate<Value>> store_;
};

// Offer the columns of one row of a block whose bits are set.
template <class Value>
void offer(Best<Value>& best, int64_t row, int32_t id, const Value* v, const int32_t* ids, int64_t first, uint64_t bits,
           Candidate<Value>* scratch) {
  for (; bits; bits &= bits - 1) {
    int64_t j = __builtin_ctzll(bits);
    if (v[j] < best.limits[row] && ids[j] != id) best.add(row, v[j], int32_t(first + j), scratch);
  }
}

}  // namespace featgeo
