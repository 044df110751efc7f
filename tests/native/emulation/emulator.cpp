// The runtime of cuda_emulator.h: fibers, barriers, shared memory, and checks of every access in instrumented builds
// (g++ -fsanitize=thread calls __tsan_readN and __tsan_writeN; those below take ThreadSanitizer's place).
#include "cuda_emulator.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

extern "C" __attribute__((weak)) void __asan_unpoison_memory_region(const volatile void*, size_t);  // of a sanitized build

namespace emu {
namespace {

constexpr size_t kStack = 128 << 10, kMost = 1024, kLimit = 48 << 10, kSkew = 512, kArena = kLimit + 2 * kSkew;
constexpr uintptr_t kSmall = uintptr_t(1) << 63;
enum State { kRunnable, kMeeting, kAtBarrier, kDone };

struct Fiber {
  Place place;
  State state;
  int line, warp, lane, answer;
  unsigned mask;
  void* payload;
  size_t base, used;  // of shared memory
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
};

struct Access {
  uint32_t launch = 0, block = 0, thread = 0;
  uint64_t epoch = 0;
  bool many_blocks = false, many_threads = false, atomic = false;
};
struct Cell {
  Access read, write;
};

char* stacks = nullptr;
char* main_stack = nullptr;
Fiber* current = nullptr;
Fiber* fiber(size_t i) { return reinterpret_cast<Fiber*>(stacks + i * kStack); }  // at the stack's far end
size_t n_fibers = 0;
std::vector<unsigned> runnable;
dim3 the_block;
uint64_t epoch = 1;
uint32_t launch = 0, block_number = 0;
bool running = false;
std::string failure;
const char* kernel = "";
std::mt19937_64 random_bits(0);
void (*the_body)(void*) = nullptr;
void* the_arguments = nullptr;
alignas(512) char static_arena[kArena], dynamic_arena[kArena];
bool is_shared[2 * kArena / 4], is_set[2 * kArena / 4];
Cell shared_cells[2 * kArena / 4];
size_t dynamic_bytes = 0;
std::unordered_map<uintptr_t, Cell> cells;
std::vector<std::pair<uintptr_t, uintptr_t>> known;
struct Totals {
  uint64_t launches, blocks, barriers, reads, writes, read_bytes, written_bytes;
} totals{};

std::vector<int> layouts[3][4];

#if defined(__x86_64__)
void* main_pointer;
extern "C" void emu_switch(void** save, void* load);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
void leave() { emu_switch(&current->stack_pointer, main_pointer); }
void enter(Fiber* f) { emu_switch(&main_pointer, f->stack_pointer); }
#else
ucontext_t main_context;
void leave() { swapcontext(&current->context, &main_context); }
void enter(Fiber* f) { swapcontext(&main_context, &f->context); }
#endif

void fiber_main() {
  the_body(the_arguments);
  current->state = kDone;
  leave();
  std::abort();
}

void prepare(Fiber* f) {
  char* top = reinterpret_cast<char*>(f) + kStack;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(f + 1, size_t(top - reinterpret_cast<char*>(f + 1)));
#if defined(__x86_64__)
  auto** at = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15));
  *--at = nullptr;  // where fiber_main would return to: as after a call, the stack is off by 8
  *--at = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--at = nullptr;
  f->stack_pointer = at;
#else
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = f + 1;
  f->context.uc_stack.ss_size = size_t(top - reinterpret_cast<char*>(f + 1));
  f->context.uc_link = nullptr;
  makecontext(&f->context, fiber_main, 0);
#endif
}

std::string where(const Fiber& f) {
  const Place& p = f.place;
  auto three = [](const dim3& d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  return "thread " + three(p.thread) + " of block " + three(p.block);
}

void release_barrier() {
  int either = 0, line = -1;
  for (size_t i = 0; i < n_fibers; ++i) {
    Fiber& f = *fiber(i);
    if (f.state == kDone) continue;
    if (f.state != kAtBarrier || (line >= 0 && f.line != line)) {
      failure = "threads wait for each other for ever: " + where(f) + " at line " + std::to_string(f.line) +
                (f.state == kMeeting ? " for its warp" : " at a barrier") + ", another at line " + std::to_string(line);
      return;
    }
    line = f.line;
    either |= f.answer;
  }
  ++epoch, ++totals.barriers;
  for (size_t i = 0; i < n_fibers; ++i) {
    Fiber& f = *fiber(i);
    if (f.state == kDone) continue;
    f.state = kRunnable, f.answer = either;
    runnable.push_back(unsigned(i));
  }
}

void run_block() {
  ++epoch, ++totals.blocks;
  std::memset(static_arena, 0xFF, sizeof static_arena);
  std::memset(dynamic_arena, 0xFF, sizeof dynamic_arena);
  std::memset(is_set, 0, sizeof is_set);
  std::memset(is_shared, 0, sizeof is_shared);
  std::memset(is_shared + kArena / 4, 1, dynamic_bytes / 4);
  runnable.clear();
  for (size_t i = 0; i < n_fibers; ++i) runnable.push_back(unsigned(i));
  for (;;) {
    if (runnable.empty()) {
      bool all_done = true;
      for (size_t i = 0; i < n_fibers; ++i) all_done &= fiber(i)->state == kDone;
      if (all_done) return;
      release_barrier();
      if (!failure.empty()) return;
    }
    size_t pick = random_bits() % runnable.size();
    current = fiber(runnable[pick]);
    runnable[pick] = runnable.back();
    runnable.pop_back();
    enter(current);
    if (!failure.empty()) return;
  }
}

void race(const void* at, const char* what, const Access& other) {
  fail((std::string("race: this thread ") + what + " of thread " + std::to_string(other.thread) + " of block " +
        std::to_string(other.block) + (other.many_threads ? " and others" : "") + ", address " +
        std::to_string(reinterpret_cast<uintptr_t>(at)))
           .c_str(),
       0);
}

uint32_t my_number() {
  const dim3 &t = current->place.thread, &b = the_block;
  return t.x + b.x * (t.y + b.y * t.z);
}

void check_cell(Cell& cell, const void* at, bool write, bool atomic, bool shared) {
  if (shared)
    for (Access* a : {&cell.read, &cell.write})
      if (a->block != block_number) a->launch = 0;  // another block's memory
  uint32_t me = my_number();
  auto conflicts = [&](const Access& a) {
    if (a.launch != launch || (a.atomic && atomic)) return false;
    if (a.many_blocks || a.block != block_number) return true;
    return a.epoch == epoch && (a.many_threads || a.thread != me);
  };
  if (conflicts(cell.write)) race(at, write ? "writes over a write" : "reads a write", cell.write);
  if (write && !atomic && conflicts(cell.read)) race(at, "writes over a read", cell.read);
  Access& a = write ? cell.write : cell.read;
  Access now{launch, block_number, me, epoch, false, false, atomic};
  if (a.launch == launch) {
    now.many_blocks = a.many_blocks || a.block != block_number;
    now.many_threads = a.epoch == epoch && (a.many_threads || a.thread != me);
  }
  a = now;
}

}  // namespace

const Place& here() { return current->place; }
int planted = 0;
bool fault(int number) { return planted == number; }

void fail(const char* what, int line) {
  std::string message = std::string(kernel) + ": " + what;
  if (line) message += " (line " + std::to_string(line) + ")";
  if (!running) throw std::runtime_error(message);
  failure = message + ", " + where(*current);
  leave();
  std::abort();
}

int barrier_or(int predicate, int line) {
  current->state = kAtBarrier, current->line = line, current->answer = predicate != 0;
  leave();
  return current->answer;
}
void barrier(int line) { barrier_or(0, line); }

void meet(unsigned mask, void* payload, Action action, int line) {
  Fiber* me = current;
  if (!(mask >> me->lane & 1)) fail("a lane is not in its own mask", line);
  me->state = kMeeting, me->line = line, me->mask = mask, me->payload = payload;
  void* all[32] = {};
  size_t first = size_t(me->warp) * 32;
  for (size_t lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (first + lane >= n_fibers) fail("the mask names a lane that the block doesn't have", line);
    Fiber* f = fiber(first + lane);
    if (f->state == kDone) fail("the mask names a lane that has left the kernel", line);
    if (f->state == kMeeting && (f->mask != mask || f->line != line)) fail("lanes of a warp meet in different places", line);
    if (f->state != kMeeting) {
      leave();
      return;
    }
    all[lane] = f->payload;
  }
  action(all, mask);
  for (size_t lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) {
      fiber(first + lane)->state = kRunnable;
      if (fiber(first + lane) != me) runnable.push_back(unsigned(first + lane));
    }
}

void* shared(size_t bytes, size_t align) {
  if (!current->used) current->used = current->base = kSkew + align;  // aligned as was asked for, and no better
  size_t at = (current->used + align - 1) / align * align;
  current->used = at + bytes;
  if (at + bytes - current->base + dynamic_bytes > kLimit) fail("more than 48 KiB of shared memory", 0);
  for (size_t i = at / 4; i < (at + bytes + 3) / 4; ++i) is_shared[i] = true;
  return static_arena + at;
}
void* dynamic_shared() { return dynamic_arena; }

int atomic_add(int* at, int by) {
  touch(at, sizeof *at, true, true);
  int before = *at;
  *at += by;
  return before;
}

unsigned long long atomic_max(unsigned long long* at, unsigned long long by) {
  touch(at, sizeof *at, true, true);
  unsigned long long before = *at;
  *at = std::max(before, by);
  return before;
}

void open_call() { known.clear(); }
void know(const void* begin, size_t bytes) {
  auto at = reinterpret_cast<uintptr_t>(begin);
  known.emplace_back(at, at + bytes);
}

void touch(const void* address, size_t bytes, bool write, bool atomic) {
  if (!running) return;
  auto* p = static_cast<const char*>(address);
  if (p >= stacks && p < stacks + kMost * kStack) return;
  if (p >= main_stack - (1 << 14) && p < main_stack + (8 << 20)) return;
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail("an access is not aligned to its size", 0);
  for (int dynamic = 0; dynamic < 2; ++dynamic) {
    const char* arena = dynamic ? dynamic_arena : static_arena;
    if (p < arena || p >= arena + kArena) continue;
    for (size_t i = size_t(p - arena) / 4, last = (size_t(p - arena) + bytes - 1) / 4; i <= last; ++i) {
      size_t c = i + size_t(dynamic) * kArena / 4;
      if (!is_shared[c]) fail("an access outside of what the kernel has of shared memory", 0);
      if (!write && !is_set[c]) fail("shared memory is read that nobody has written", 0);
      is_set[c] = true;
      check_cell(shared_cells[c], address, write, atomic, true);
    }
    return;
  }
  auto at = reinterpret_cast<uintptr_t>(p);
  bool inside = false;
  for (auto& range : known) inside |= at >= range.first && at + bytes <= range.second;
  if (!inside) fail(write ? "a write outside of the op's tensors" : "a read outside of the op's tensors", 0);
  ++(write ? totals.writes : totals.reads);
  (write ? totals.written_bytes : totals.read_bytes) += bytes;
  if (bytes < 4) return check_cell(cells[at | kSmall], address, write, atomic, false);  // its neighbours are others'
  for (uintptr_t c = at / 4; c <= (at + bytes - 1) / 4; ++c) check_cell(cells[c], address, write, atomic, false);
}

int fragment_slot(int use, int lane, int element, int count) {
  return layouts[use][count == 32 ? 0 : count == 64 ? 1 : count == 128 ? 2 : 3][size_t(lane * (count / 32) + element)];
}

void run(dim3 grid, dim3 block, size_t dynamic, const char* name, void (*body)(void*), void* arguments) {
  kernel = name;
  if (!stacks) {
    stacks = static_cast<char*>(mmap(nullptr, kMost * kStack, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  char here = 0;
  main_stack = &here;
  uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!threads || threads > kMost || block.z > 64) fail("invalid configuration: threads of a block", 0);
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535)
    fail("invalid configuration: grid", 0);
  if (dynamic > kLimit) fail("invalid configuration: dynamic shared memory", 0);
  the_block = block, dynamic_bytes = dynamic, the_body = body, the_arguments = arguments;
  n_fibers = threads;
  ++launch, ++totals.launches;
  cells.clear();
  failure.clear();
  for (auto& use : layouts)
    for (int c = 0; c < 4; ++c) {
      use[c].resize(size_t(32) << c);
      for (size_t i = 0; i < use[c].size(); ++i) use[c][i] = int(i);
      std::shuffle(use[c].begin(), use[c].end(), random_bits);
    }
  std::vector<uint64_t> order(uint64_t(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random_bits);
  running = true;
  for (uint64_t b : order) {
    block_number = uint32_t(b);
    for (size_t i = 0; i < threads; ++i) {
      Fiber* f = fiber(i);
      f->place.thread = dim3(unsigned(i % block.x), unsigned(i / block.x % block.y), unsigned(i / block.x / block.y));
      f->place.block = dim3(unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y));
      f->place.threads = block, f->place.blocks = grid;
      f->state = kRunnable, f->line = 0, f->warp = int(i / 32), f->lane = int(i % 32), f->used = 0, f->answer = 0;
      prepare(f);
    }
    run_block();
    if (!failure.empty()) break;
  }
  running = false;
  if (!failure.empty()) throw std::runtime_error("emulated CUDA: " + failure);
}

}  // namespace emu

#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT void emu_seed(uint64_t seed) { emu::random_bits.seed(seed); }
EXPORT void emu_plant(int fault) { emu::planted = fault; }
EXPORT void emu_totals(uint64_t* out) {
  std::memcpy(out, &emu::totals, sizeof emu::totals);
  emu::totals = {};
}

// --- in ThreadSanitizer's place ----------------------------------------------------------------------------------------

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define SIZE(n)                                                               \
  void __tsan_read##n(void* p) { emu::touch(p, n, false, false); }            \
  void __tsan_write##n(void* p) { emu::touch(p, n, true, false); }            \
  void __tsan_unaligned_read##n(void* p) { emu::touch(p, n, false, false); }  \
  void __tsan_unaligned_write##n(void* p) { emu::touch(p, n, true, false); }
SIZE(1) SIZE(2) SIZE(4) SIZE(8) SIZE(16)
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_read_range(void* p, size_t n) { for (size_t i = 0; i < n; ++i) emu::touch(static_cast<char*>(p) + i, 1, false, false); }
void __tsan_write_range(void* p, size_t n) { for (size_t i = 0; i < n; ++i) emu::touch(static_cast<char*>(p) + i, 1, true, false); }
int8_t __tsan_atomic8_load(const int8_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
int32_t __tsan_atomic32_fetch_add(int32_t* p, int32_t v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
int32_t __tsan_atomic32_fetch_sub(int32_t* p, int32_t v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }
int32_t __tsan_atomic32_load(const int32_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
int64_t __tsan_atomic64_load(const int64_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
void __tsan_atomic64_store(int64_t* p, int64_t v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
int64_t __tsan_atomic64_fetch_add(int64_t* p, int64_t v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
}
