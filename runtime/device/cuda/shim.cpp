// The fibers behind shim.h: a launch runs block after block, each thread until it waits or ends. A
// block whose threads have all come to a meeting keeps its fibers and its shared memory until the
// others have come, too; then these blocks go on, one after the other as before.
// A schedule decides the order of blocks and of threads: 0 ascending, 1 descending, others random.
// A warp whose lanes have all come to a shuffle goes on before others are looked at: shuffles are no
// barriers for a block.
// Shared memory is full of NaN when a block begins. Asynchronous copies are made when they are asked
// for (eager) or when they are waited for (lazy): a GPU may do either. The first mistake ends the
// launch and all later
// ones; `nnc_error` says what it was.
#include "shim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" { nnc_place nnc_here; }

namespace {
enum State { READY, AT_BARRIER, AT_SHUFFLE, AT_MEETING, DONE };
const int STACK = 64 << 10, WARP = 32, MOST = 1024;

struct Copy {
  void* into;
  const void* from;
  int bytes, given;  // the rest is zeros
};

struct Fiber {
  std::vector<Copy> asked;              // since the last commit
  std::vector<std::vector<Copy>> groups;  // committed, not waited for; the oldest first
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
  Fiber fibers[MOST];
  char* shared_memory;
  const void* counter;  // where it meets others: how many they are, and whether it is the first
  int others;
  bool first;
};

Block* here;
Fiber* now;
alignas(NNC_LANE) char exchanged[2][MOST / WARP][WARP][NNC_LANE];
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
void leave() { nnc_switch(&now->top, scheduler); }
void enter(Fiber* f) { now = f; nnc_switch(&scheduler, f->top); }
#else
ucontext_t scheduler;
void leave() { swapcontext(&now->context, &scheduler); }
void enter(Fiber* f) { now = f; swapcontext(&scheduler, &f->context); }
#endif

void stop(const char* what, int line, int block) {
  if (!message[0]) snprintf(message, sizeof message, "%s: %s (block %d, line %d)", name, what, block, line);
}

void perform(const Copy& c) {
  memcpy(c.into, c.from, c.given);
  memset((char*)c.into + c.given, 0, c.bytes - c.given);
}

bool waited_for(const Fiber& f) {
  for (const auto& group : f.groups)
    if (!group.empty()) return false;
  return f.asked.empty();
}

void main_of_fiber() {
  body(data);
  if (!waited_for(*now)) stop("a thread ends before its copies", 0, nnc_here.block);
  now->state = DONE;
  leave();
  abort();  // nobody enters a fiber that is done
}

void prepare(Fiber* f) {
  if (!f->stack) f->stack = (char*)malloc(STACK);
  f->state = READY;
  f->phase = 0;
  f->asked.clear();
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

void order(int* numbers, int count) {
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

// Whether all threads that are left wait in this state at one line.
bool all_at(const Fiber* fibers, int state) {
  for (int t = 0; t < threads; ++t)
    if (fibers[t].state != state || fibers[t].line != fibers[0].line) return false;
  return true;
}

// Runs the block to its end, or to a meeting: then true.
bool run_block(Block* block) {
  static int turn[MOST];
  Fiber* fibers = block->fibers;
  here = block;
  while (!message[0]) {
    bool ran = false;
    order(turn, threads);
    for (int k = 0; k < threads && !message[0]; ++k) {
      Fiber* f = &fibers[turn[k]];
      if (f->state != READY) continue;
      nnc_here = {turn[k], block->number, block->layer};
      enter(f);
      ran = true;
      if (f->state == AT_SHUFFLE && release_warp(fibers, turn[k])) k = -1;
    }
    if (message[0] || ran) continue;
    int done = 0, line = 0;
    for (int t = 0; t < threads; ++t) {
      done += fibers[t].state == DONE;
      if (fibers[t].state != DONE) line = fibers[t].line;
    }
    if (done == threads) return false;
    const bool meeting = all_at(fibers, AT_MEETING);
    if (!meeting && !all_at(fibers, AT_BARRIER)) {
      stop("not every thread reaches the barrier or shuffle", line, block->number);
      return false;
    }
    for (int t = 0; t < threads; ++t) fibers[t].state = READY;
    if (meeting) return true;
  }
  return false;
}

// The blocks that may go on: those of a meeting to which all of it have come. They leave `waiting`.
std::vector<Block*> met(std::vector<Block*>& waiting) {
  std::vector<Block*> ready, left;
  for (Block* block : waiting) {
    int come = 0, first = 0;
    for (Block* other : waiting)
      if (other->counter == block->counter) ++come, first += other->first;
    if (come == block->others && first != 1) stop("one block of a meeting is the first", 0, block->number);
    (come == block->others ? ready : left).push_back(block);
  }
  waiting = left;
  return ready;
}

void run_layer(int blocks, int layer, int* turn, std::vector<Block*>& idle) {
  std::vector<Block*> waiting;
  const auto run = [&](Block* block) { (run_block(block) ? waiting : idle).push_back(block); };
  order(turn, blocks);
  for (int k = 0; k < blocks && !message[0]; ++k) {
    if (idle.empty()) idle.push_back(new Block());
    Block* block = idle.back();
    idle.pop_back();
    begin(block, turn[k], layer);
    run(block);
  }
  while (!waiting.empty() && !message[0]) {
    const std::vector<Block*> ready = met(waiting);
    if (ready.empty()) stop("not every block comes to the meeting", 0, waiting[0]->number);
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
  stop(text, line, nnc_here.block);
  leave();
}

void nnc_barrier(int line) {
  const nnc_place mine = nnc_here;
  now->state = AT_BARRIER;
  now->line = line;
  leave();
  nnc_here = mine;
}

void nnc_meet(const void* counter, int blocks, bool first, int line) {
  const nnc_place mine = nnc_here;
  here->counter = counter, here->others = blocks, here->first = first;
  now->state = AT_MEETING;
  now->line = line;
  leave();
  nnc_here = mine;
}

const void* nnc_gather(const void* mine, int bytes, int line) {
  const nnc_place place = nnc_here;
  const int warp = place.thread / WARP, lane = place.thread % WARP, phase = now->phase ^= 1;
  memcpy(exchanged[phase][warp][lane], mine, bytes);
  now->state = AT_SHUFFLE;
  now->line = line;
  leave();
  nnc_here = place;
  return exchanged[phase][warp];
}

void nnc_copy(void* into, const void* from, int bytes, int given) {
  const Copy copy = {into, from, bytes, given};
  if (lazy) now->asked.push_back(copy);
  else perform(copy);
}

void nnc_commit() {
  now->groups.push_back(now->asked);
  now->asked.clear();
}

void nnc_wait(int groups) {
  for (; (int)now->groups.size() > groups; now->groups.erase(now->groups.begin()))
    for (const Copy& copy : now->groups.front()) perform(copy);
}

void* nnc_shared(long long offset, long long bytes, int line) {
  if (offset < 0 || offset + bytes > shared_bytes)
    nnc_fail("shared memory up to %lld of %lld bytes", offset + bytes, shared_bytes, line);
  return here->shared_memory + offset;
}

void nnc_launch(void (*b)(void*), void* d, const char* n, int blocks, int layers, int count, int shared) {
  if (message[0]) return;
  body = b, data = d, name = n, threads = count, shared_bytes = shared;
  if (count < 1 || count > MOST || blocks < 1) return stop("no such launch", 0, 0);
  static std::vector<Block*> idle;  // blocks whose fibers and stacks are kept for the next launch
  int* turn = (int*)malloc(sizeof(int) * blocks);
  for (int layer = 0; layer < layers; ++layer) run_layer(blocks, layer, turn, idle);
  free(turn);
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
