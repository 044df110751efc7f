// Selection instead of the reference's sorts: of thousands of kept rows only as many are looked at as are offered.
#include "reservoir.h"

#include <utility>
#include <vector>

namespace featgeo {

void reservoir_slots(const int64_t* priorities, int64_t capacity, const int64_t* offered, int64_t n, int64_t empty,
                     int64_t* slots, int64_t* sources, bool* accepted) {
  using Entry = std::pair<int64_t, int64_t>;  // priority, and place: kept rows first, so that they win ties
  std::vector<Entry> kept(static_cast<size_t>(capacity));
  for (int64_t i = 0; i < capacity; ++i) kept[size_t(i)] = {priorities[i], i};
  // the n largest, the largest first and of equals the first one first: slots to give up
  auto sooner = [](const Entry& a, const Entry& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  std::nth_element(kept.begin(), kept.begin() + (n ? n - 1 : 0), kept.end(), sooner);
  std::sort(kept.begin(), kept.begin() + n, sooner);
  for (int64_t i = 0; i < n; ++i) slots[i] = kept[size_t(i)].second;

  // A new row is kept if at most `capacity` of all come before it; only those n slots can have to go.
  std::vector<Entry> rivals(kept.begin(), kept.begin() + n);
  for (int64_t i = 0; i < n; ++i) rivals.push_back({offered[i], capacity + i});
  if (n) std::nth_element(rivals.begin(), rivals.begin() + n - 1, rivals.end());
  std::vector<char> stays(static_cast<size_t>(n), 0);
  for (int64_t i = 0; i < n; ++i)
    if (rivals[size_t(i)].second >= capacity) stays[size_t(rivals[size_t(i)].second - capacity)] = 1;
  int64_t place = 0;
  for (int pass = 0; pass < 2; ++pass)  // accepted rows first, each kind in its order
    for (int64_t i = 0; i < n; ++i) {
      bool in = stays[size_t(i)] && offered[i] != empty;
      if (in != (pass == 0)) continue;
      sources[place] = i;
      accepted[place++] = in;
    }
}

}  // namespace featgeo
