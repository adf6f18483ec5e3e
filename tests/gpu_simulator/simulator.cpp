// The fibers behind simulator.h. A launch runs block after block; within a block each thread runs
// until it waits or ends. A block whose threads have all reached a group barrier keeps its fibers and
// its shared memory until the other blocks of the group have reached it; then they all go on, one
// after the other. A warp whose lanes have all reached a shuffle goes on before other threads run:
// shuffles do not synchronize a block.
// A schedule is an order of blocks and threads: 0 ascending, 1 descending, others random.
// Shared memory is filled with NaN when a block begins. Asynchronous copies are made when they are
// requested (eager) or when they are waited for (lazy): a GPU may do either. The first error ends the
// launch and skips all later ones; `nnc_error` returns its message.
#include "simulator.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" { nnc_thread nnc_current; }

namespace {
enum State { READY, AT_BARRIER, AT_SHUFFLE, AT_GROUP_BARRIER, DONE };
const int STACK = 64 << 10, WARP = 32, MAX_THREADS = 1024;

struct Copy {
  void* into;
  const void* from;
  int bytes, valid;  // zeros after the valid bytes
};

struct Fiber {
  std::vector<Copy> requested;            // since the last commit
  std::vector<std::vector<Copy>> groups;  // committed and pending, oldest first
  char* stack;
  int state, line, phase;
#if defined(__x86_64__)
  void* top;
#else
  ucontext_t context;
#endif
};

struct Block {
  int number, layer;
  Fiber fibers[MAX_THREADS];
  char* shared_memory;
  const void* counter;  // of the group barrier that it waits at
  int group_size;
  bool first;  // whether it is the group's first block
};

Block* current_block;
Fiber* current_fiber;
alignas(NNC_LANE_BYTES) char exchanged[2][MAX_THREADS / WARP][WARP][NNC_LANE_BYTES];
int shared_bytes, threads;
unsigned schedule, seed;
bool lazy;
const char* name;
char message[400];
void (*body)(void*);
void* data;

#if defined(__x86_64__)
void* scheduler;
extern "C" void nnc_switch(void** from, void* to);
asm(".text\n.globl nnc_switch\n.hidden nnc_switch\nnnc_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
void leave() { nnc_switch(&current_fiber->top, scheduler); }
void enter(Fiber* f) { current_fiber = f; nnc_switch(&scheduler, f->top); }
#else
ucontext_t scheduler;
void leave() { swapcontext(&current_fiber->context, &scheduler); }
void enter(Fiber* f) { current_fiber = f; swapcontext(&scheduler, &f->context); }
#endif

void stop(const char* what, int line, int block) {
  if (!message[0]) snprintf(message, sizeof message, "%s: %s (block %d, line %d)", name, what, block, line);
}

void perform(const Copy& c) {
  memcpy(c.into, c.from, c.valid);
  memset((char*)c.into + c.valid, 0, c.bytes - c.valid);
}

bool no_pending_copies(const Fiber& f) {
  for (const auto& group : f.groups)
    if (!group.empty()) return false;
  return f.requested.empty();
}

void main_of_fiber() {
  body(data);
  if (!no_pending_copies(*current_fiber)) stop("a thread ends before its copies", 0, nnc_current.block);
  current_fiber->state = DONE;
  leave();
  abort();  // a finished fiber is never entered again
}

void prepare(Fiber* f) {
  if (!f->stack) f->stack = (char*)malloc(STACK);
  f->state = READY;
  f->phase = 0;
  f->requested.clear();
  f->groups.clear();
#if defined(__x86_64__)
  void** top = (void**)(f->stack + STACK - 64);
  *--top = nullptr;
  *--top = (void*)main_of_fiber;
  for (int k = 0; k < 6; ++k) *--top = nullptr;
  f->top = top;
#else
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = f->stack;
  f->context.uc_stack.ss_size = STACK;
  f->context.uc_link = nullptr;
  makecontext(&f->context, main_of_fiber, 0);
#endif
}

unsigned random_below(unsigned n) {
  seed = seed * 1664525u + 1013904223u;
  return (seed >> 8) % n;
}

void schedule_order(int* numbers, int count) {
  for (int k = 0; k < count; ++k) numbers[k] = schedule == 1 ? count - 1 - k : k;
  if (schedule > 1)
    for (int k = count - 1; k > 0; --k) {
      const int other = (int)random_below(k + 1), t = numbers[k];
      numbers[k] = numbers[other];
      numbers[other] = t;
    }
}

bool release_warp(Fiber* fibers, int thread) {
  const int w = thread / WARP * WARP, end = w + WARP < threads ? w + WARP : threads;
  for (int t = w; t < end; ++t)
    if (fibers[t].state != AT_SHUFFLE || fibers[t].line != fibers[w].line) return false;
  for (int t = w; t < end; ++t) fibers[t].state = READY;
  return true;
}

void begin(Block* block, int number, int layer) {
  block->number = number, block->layer = layer;
  if (!block->shared_memory)
    block->shared_memory = (char*)aligned_alloc(1024, (shared_bytes + 1024) / 1024 * 1024);
  memset(block->shared_memory, 0xFF, shared_bytes + 1);
  for (int t = 0; t < threads; ++t) prepare(&block->fibers[t]);
}

// Whether all threads wait in this state at the same line.
bool all_at(const Fiber* fibers, int state) {
  for (int t = 0; t < threads; ++t)
    if (fibers[t].state != state || fibers[t].line != fibers[0].line) return false;
  return true;
}

// Runs the block to its end (false) or to a group barrier (true).
bool run_block(Block* block) {
  static int order[MAX_THREADS];
  Fiber* fibers = block->fibers;
  current_block = block;
  while (!message[0]) {
    bool ran = false;
    schedule_order(order, threads);
    for (int k = 0; k < threads && !message[0]; ++k) {
      Fiber* f = &fibers[order[k]];
      if (f->state != READY) continue;
      nnc_current = {order[k], block->number, block->layer};
      enter(f);
      ran = true;
      if (f->state == AT_SHUFFLE && release_warp(fibers, order[k])) k = -1;
    }
    if (message[0] || ran) continue;
    int done = 0, line = 0;
    for (int t = 0; t < threads; ++t) {
      done += fibers[t].state == DONE;
      if (fibers[t].state != DONE) line = fibers[t].line;
    }
    if (done == threads) return false;
    const bool group = all_at(fibers, AT_GROUP_BARRIER);
    if (!group && !all_at(fibers, AT_BARRIER)) {
      stop("not every thread reaches the barrier or shuffle", line, block->number);
      return false;
    }
    for (int t = 0; t < threads; ++t) fibers[t].state = READY;
    if (group) return true;
  }
  return false;
}

// Removes from `waiting` the blocks of groups that have all reached their barrier.
std::vector<Block*> released(std::vector<Block*>& waiting) {
  std::vector<Block*> ready, left;
  for (Block* block : waiting) {
    int arrived = 0, first = 0;
    for (Block* other : waiting)
      if (other->counter == block->counter) ++arrived, first += other->first;
    if (arrived == block->group_size && first != 1) stop("not exactly one block of a group is its first", 0, block->number);
    (arrived == block->group_size ? ready : left).push_back(block);
  }
  waiting = left;
  return ready;
}

void run_layer(int blocks, int layer, int* order, std::vector<Block*>& idle) {
  std::vector<Block*> waiting;
  const auto run = [&](Block* block) { (run_block(block) ? waiting : idle).push_back(block); };
  schedule_order(order, blocks);
  for (int k = 0; k < blocks && !message[0]; ++k) {
    if (idle.empty()) idle.push_back(new Block());
    Block* block = idle.back();
    idle.pop_back();
    begin(block, order[k], layer);
    run(block);
  }
  while (!waiting.empty() && !message[0]) {
    const std::vector<Block*> ready = released(waiting);
    if (ready.empty()) stop("not every block of a group reaches the barrier", 0, waiting[0]->number);
    for (Block* block : ready)
      if (!message[0]) run(block);
  }
  idle.insert(idle.end(), waiting.begin(), waiting.end());
}
}  // namespace

extern "C" {

void nnc_fail(const char* what, long long a, long long b, int line) {
  char text[200];
  snprintf(text, sizeof text, what, a, b);
  stop(text, line, nnc_current.block);
  leave();
}

void nnc_barrier(int line) {
  const nnc_thread place = nnc_current;
  current_fiber->state = AT_BARRIER;
  current_fiber->line = line;
  leave();
  nnc_current = place;
}

void nnc_group_barrier(const void* counter, int blocks, bool first, int line) {
  const nnc_thread place = nnc_current;
  current_block->counter = counter, current_block->group_size = blocks, current_block->first = first;
  current_fiber->state = AT_GROUP_BARRIER;
  current_fiber->line = line;
  leave();
  nnc_current = place;
}

const void* nnc_exchange(const void* value, int bytes, int line) {
  const nnc_thread place = nnc_current;
  const int warp = place.thread / WARP, lane = place.thread % WARP, phase = current_fiber->phase ^= 1;
  memcpy(exchanged[phase][warp][lane], value, bytes);
  current_fiber->state = AT_SHUFFLE;
  current_fiber->line = line;
  leave();
  nnc_current = place;
  return exchanged[phase][warp];
}

void nnc_copy(void* into, const void* from, int bytes, int valid) {
  const Copy copy = {into, from, bytes, valid};
  if (lazy) current_fiber->requested.push_back(copy);
  else perform(copy);
}

void nnc_commit() {
  current_fiber->groups.push_back(current_fiber->requested);
  current_fiber->requested.clear();
}

void nnc_wait(int groups) {
  for (; (int)current_fiber->groups.size() > groups; current_fiber->groups.erase(current_fiber->groups.begin()))
    for (const Copy& copy : current_fiber->groups.front()) perform(copy);
}

void* nnc_shared(long long offset, long long bytes, int line) {
  if (offset < 0 || offset + bytes > shared_bytes)
    nnc_fail("shared memory up to %lld of %lld bytes", offset + bytes, shared_bytes, line);
  return current_block->shared_memory + offset;
}

void nnc_launch(void (*b)(void*), void* d, const char* n, int blocks, int layers, int count, int shared) {
  if (message[0]) return;
  body = b, data = d, name = n, threads = count, shared_bytes = shared;
  if (count < 1 || count > MAX_THREADS || blocks < 1) return stop("no such launch", 0, 0);
  static std::vector<Block*> idle;  // reused by later launches with their fibers and stacks
  int* order = (int*)malloc(sizeof(int) * blocks);
  for (int layer = 0; layer < layers; ++layer) run_layer(blocks, layer, order, idle);
  free(order);
  for (Block* block : idle) {
    free(block->shared_memory);
    block->shared_memory = nullptr;
  }
}

void nnc_begin(unsigned how, bool late) {
  schedule = how;
  lazy = late;
  seed = how;
  message[0] = 0;
}

const char* nnc_error() { return message; }
}
