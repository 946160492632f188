// The fibers of cuda_runtime.h, and a check for races.
//
// The kernels are compiled with -fsanitize=thread, whose calls at every access to memory come here:
// what one thread of a block writes, no other may read or write before the next barrier. All of a
// block's threads must meet at the same barrier or shuffle. A fault ends the launch with an
// exception.

#include "cuda_runtime.h"

#include <ucontext.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

// The order of a block's threads: 0 ascending, -1 descending, else the seed of random orders.
extern "C" {
int cuda_on_cpu_order = 0;
}

dim3 threadIdx, blockIdx, blockDim;

namespace cuda_on_cpu {
namespace {

constexpr size_t kStack = 1 << 16;

struct Fiber {
  ucontext_t context;
  dim3 thread;
  bool done;
  int line;      // of the barrier or shuffle where it waits
  bool shuffle;  // which is no barrier: it orders no access to memory
};

struct Accesses {
  static constexpr int kNone = -1, kSeveral = -2;
  int reader = kNone, writer = kNone;
};

std::vector<Fiber> fibers;
std::vector<unsigned char> stacks, memory;
std::vector<double> exchanged;
std::unordered_map<const void*, Accesses> accesses;  // since the last barrier
std::string fault;
int current;
bool inside;  // a kernel runs, not this file
bool votes, votes_before;
ucontext_t outside;
const std::function<void()>* body;

void enter() {
  inside = true;
  (*body)();
  inside = false;
  fibers[current].done = true;
}

void wait(int line, bool shuffle) {
  inside = false;
  fibers[current].line = line;
  fibers[current].shuffle = shuffle;
  swapcontext(&fibers[current].context, &outside);
  inside = true;
}

void check_meeting() {
  const Fiber* first = nullptr;
  bool ended = false;
  for (const Fiber& fiber : fibers) {
    ended = ended || fiber.done;
    if (fiber.done) continue;
    if (first && fiber.line != first->line)
      fault = "threads of a block wait at different barriers, of lines " +
              std::to_string(first->line) + " and " + std::to_string(fiber.line);
    first = &fiber;
  }
  if (first && ended)
    fault = "a thread has ended before the barrier of line " + std::to_string(first->line);
  if (!first || !first->shuffle) accesses.clear();
  if (fault.empty()) return;
  accesses.clear();
  throw std::runtime_error(std::exchange(fault, ""));
}

void run_block(std::mt19937& random) {
  std::vector<int> order(fibers.size());
  std::iota(order.begin(), order.end(), 0);
  if (cuda_on_cpu_order == -1) std::reverse(order.begin(), order.end());
  for (bool running = true; running;) {
    if (cuda_on_cpu_order > 0) std::shuffle(order.begin(), order.end(), random);
    running = false;
    votes_before = votes;
    votes = false;
    for (int i : order) {
      if (fibers[i].done) continue;
      current = i;
      threadIdx = fibers[i].thread;
      swapcontext(&outside, &fibers[i].context);
      running = running || !fibers[i].done;
    }
    check_meeting();
  }
}

void note(const void* address, bool write) {
  const auto* byte = (const unsigned char*)address;
  if (!inside || (byte >= stacks.data() && byte < stacks.data() + stacks.size())) return;
  Accesses& seen = accesses[address];
  const bool others_wrote = seen.writer != Accesses::kNone && seen.writer != current;
  const bool others_read = seen.reader != Accesses::kNone && seen.reader != current;
  if (others_wrote || (write && others_read)) {
    const bool shared = byte >= memory.data() && byte < memory.data() + memory.size();
    fault = "race: thread " + std::to_string(current) + (write ? " writes" : " reads") + " what " +
            "thread " + std::to_string(others_wrote ? seen.writer : seen.reader) +
            (others_wrote ? " wrote" : " read") + (shared ? " in shared memory" : "") +
            ", with no barrier between";
  }
  int& self = write ? seen.writer : seen.reader;
  self = self == Accesses::kNone || self == current ? current : Accesses::kSeveral;
}

}  // namespace

void run(dim3 grid, dim3 block, size_t bytes, const std::function<void()>& kernel) {
  memory.assign(bytes, 0xff);  // what is read unwritten is no number
  fibers.resize(block.x * block.y);
  stacks.resize(fibers.size() * kStack);
  exchanged.resize(fibers.size());
  blockDim = block;
  body = &kernel;
  std::mt19937 random(cuda_on_cpu_order);
  for (unsigned b = 0; b < grid.x; ++b) {
    blockIdx = dim3(b, 0, 0);
    for (size_t i = 0; i < fibers.size(); ++i) {
      Fiber& fiber = fibers[i];
      fiber.thread = dim3(unsigned(i) % block.x, unsigned(i) / block.x, 0);
      fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks.data() + i * kStack;
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = &outside;
      makecontext(&fiber.context, enter, 0);
    }
    run_block(random);
  }
}

unsigned char* shared_memory() { return memory.data(); }

void barrier(int line) { wait(line, false); }

bool any(bool vote, int line) {
  votes = votes || vote;
  wait(line, false);
  return votes_before;
}

double from_below(double value, int lanes, int line) {
  const int self = current;
  exchanged[self] = value;
  wait(line, true);
  const double result = self % 32 >= lanes ? exchanged[self - lanes] : exchanged[self];
  wait(-line, true);  // the value is read before it is replaced
  return result;
}

int largest(int* target, int value) {
  const int before = *target;
  *target = std::max(before, value);
  return before;
}

}  // namespace cuda_on_cpu

// ---- what -fsanitize=thread calls ---------------------------------------------------------------

#define ACCESSES(size)                                                              \
  void __tsan_read##size(void* p) { cuda_on_cpu::note(p, false); }                  \
  void __tsan_write##size(void* p) { cuda_on_cpu::note(p, true); }                  \
  void __tsan_unaligned_read##size(void* p) { cuda_on_cpu::note(p, false); }        \
  void __tsan_unaligned_write##size(void* p) { cuda_on_cpu::note(p, true); }

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* p, size_t) { cuda_on_cpu::note(p, false); }
void __tsan_write_range(void* p, size_t) { cuda_on_cpu::note(p, true); }
void __tsan_init() {}
}
