// The select and merge logic of the CUDA kernel, run by one host thread in the place of many.
#include "../../lightning_featgeo/cuda_ext/csrc/cuda/select.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <random>
#include <utility>
#include <vector>

using namespace featgeo;

template <class Value>
struct Buffer {  // as select_kernel keeps it
  int width, room, count;
  std::vector<Value> values;
  std::vector<int64_t> indices;

  explicit Buffer(int width, int incoming)
      : width(width), room(room_for(width, incoming)), count(width), values(size_t(room)), indices(size_t(room)) {
    std::fill(values.begin(), values.end(), std::numeric_limits<Value>::infinity());
    std::fill(indices.begin(), indices.end(), -1);
  }
  void sort() {
    for (int run = 2; run <= room; run *= 2)
      for (int step = run / 2; step > 0; step /= 2)
        for (int i = 0; i < room; ++i) exchange(i, step, run, values.data(), indices.data());
    std::fill(values.begin() + width, values.end(), std::numeric_limits<Value>::infinity());
    std::fill(indices.begin() + width, indices.end(), -1);
    count = width;
  }
};

template <class Value>
int check(std::mt19937& random, int width, int m, int at_once, bool ties) {
  Buffer<Value> buffer(width, 2 * at_once);
  std::vector<std::pair<Value, int64_t>> all;
  for (int start = 0; start < m; start += at_once) {
    Value limit = buffer.values[size_t(width - 1)];
    std::vector<int> columns;
    for (int j = start; j < std::min(m, start + at_once); ++j) columns.push_back(j);
    std::shuffle(columns.begin(), columns.end(), random);  // threads arrive in any order
    for (int j : columns) {
      Value product = ties ? Value(int(random() % 4)) : Value(random()) / Value(1 << 20);
      Value v = squared(Value(1), Value(2), -product);
      all.push_back({v, j});
      if (!(v < limit)) continue;
      if (buffer.count >= buffer.room) return std::puts("overflow"), 1;
      buffer.values[size_t(buffer.count)] = v;
      buffer.indices[size_t(buffer.count++)] = j;
    }
    if (buffer.count > buffer.room - at_once) buffer.sort();
  }
  buffer.sort();
  std::sort(all.begin(), all.end());
  for (int i = 0; i < width; ++i) {
    bool there = i < int(all.size());
    Value value = there ? all[size_t(i)].first : std::numeric_limits<Value>::infinity();
    if (buffer.values[size_t(i)] != value) return std::printf("value %d of %d in %d\n", i, width, m), 1;
    // of those equally far at the very end any may be kept; all others are exactly these
    bool last = there && value == all[std::min(all.size() - 1, size_t(width - 1))].first;
    if (!last && buffer.indices[size_t(i)] != (there ? all[size_t(i)].second : -1))
      return std::printf("index %d of %d in %d\n", i, width, m), 1;
  }
  return 0;
}

int main() {
  std::mt19937 random(0);
  int wrong = 0, done = 0;
  for (int width : {1, 2, 7, 26, 64, 216, 300})
    for (int m : {0, 1, 5, 63, 256, 1000, 3001})
      for (int at_once : {4, 64, 256})
        for (bool ties : {false, true}) {
          wrong += check<float>(random, width, m, at_once, ties) + check<double>(random, width, m, at_once, ties);
          done += 2;
        }
  for (int width = 1; width < 600; ++width) {
    int room = room_for(width, 512);
    if (room < width + 512 || (room & (room - 1))) wrong += std::printf("room for %d\n", width);
  }
  std::printf("%d selections, %d wrong\n", done, wrong);
  return wrong != 0;
}
