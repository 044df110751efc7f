// Memory for a block of numbers, on a cache line's boundary; and the pool of threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>

namespace featgeo {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
struct Buffer {
  explicit Buffer(int64_t n) : size(n) {
    int64_t bytes = ceil_div(std::max<int64_t>(n, 1) * int64_t(sizeof(T)), 64) * 64;
    data.reset(static_cast<T*>(std::aligned_alloc(64, size_t(bytes))));
    if (!data) throw std::bad_alloc();
  }
  T* get() const { return data.get(); }
  T& operator[](int64_t i) const { return data.get()[i]; }
  void fill(T value) const { std::fill(get(), get() + size, value); }

  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  int64_t size;
  std::unique_ptr<T, Free> data;
};

// A matrix in memory, row by row: float64 if wide, else fp32.
struct Matrix {
  const void* data;
  int64_t rows, columns;
  bool wide;

  template <class T>
  const T* row(int64_t i) const {
    return static_cast<const T*>(data) + i * columns;
  }
};

// Provided by whoever links this: torch's pool in the extension, plain threads in the stand-alone tests.
void parallel_for(int64_t begin, int64_t end, int64_t grain, const std::function<void(int64_t, int64_t)>& body);
int64_t threads();

}  // namespace featgeo
