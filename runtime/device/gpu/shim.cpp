// The fibers behind shim.h: a launch runs block after block, each thread until it waits or ends.
// A schedule decides the order of blocks and of threads: 0 ascending, 1 descending, others random.
// Shared memory is full of NaN when a block begins. Asynchronous copies are made when they are asked
// for (eager) or when they are waited for (lazy): a GPU may do either. The first mistake ends the launch and all later
// ones; `nnc_error` says what it was.
#include "shim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <deque>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" { nnc_place nnc_here; }

namespace {
enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };
const int STACK = 64 << 10, WARP = 32, MOST = 1024;

struct Copy {
  void* into;
  const void* from;
  int bytes;
};

struct Fiber {
  std::vector<Copy> asked;              // since the last commit
  std::deque<std::vector<Copy>> groups;  // committed, not waited for; the oldest first
  char* stack;
  int state, line, phase;
#if defined(__x86_64__)
  void* top;
#else
  ucontext_t context;
#endif
};

Fiber fibers[MOST];
Fiber* now;
alignas(NNC_LANE) char exchanged[2][MOST / WARP][WARP][NNC_LANE];
char* shared_memory;
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
  if (c.from) memcpy(c.into, c.from, c.bytes);
  else memset(c.into, 0, c.bytes);
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

bool release_warps() {
  bool some = false;
  for (int w = 0; w < threads; w += WARP) {
    const int end = w + WARP < threads ? w + WARP : threads;
    int waiting = 0;
    for (int t = w; t < end; ++t) waiting += fibers[t].state == AT_SHUFFLE && fibers[t].line == fibers[w].line;
    if (waiting < end - w) continue;
    for (int t = w; t < end; ++t) fibers[t].state = READY;
    some = true;
  }
  return some;
}

void run_block(int block, int layer) {
  static int turn[MOST];
  memset(shared_memory, 0xFF, shared_bytes + 1);
  for (int t = 0; t < threads; ++t) prepare(&fibers[t]);
  while (!message[0]) {
    bool ran = false;
    order(turn, threads);
    for (int k = 0; k < threads && !message[0]; ++k) {
      Fiber* f = &fibers[turn[k]];
      if (f->state != READY) continue;
      nnc_here = {turn[k], block, layer};
      enter(f);
      ran = true;
    }
    if (message[0] || release_warps() || ran) continue;
    int done = 0, barrier = 0, line = 0;
    for (int t = 0; t < threads; ++t) {
      done += fibers[t].state == DONE;
      if (fibers[t].state != DONE) line = fibers[t].line;
    }
    if (done == threads) return;
    for (int t = 0; t < threads; ++t) barrier += fibers[t].state == AT_BARRIER && fibers[t].line == line;
    if (barrier < threads) return stop("not every thread reaches the barrier or shuffle", line, block);
    for (int t = 0; t < threads; ++t) fibers[t].state = READY;
  }
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

void nnc_copy(void* into, const void* from, int bytes) {
  const Copy copy = {into, from, bytes};
  if (lazy) now->asked.push_back(copy);
  else perform(copy);
}

void nnc_commit() {
  now->groups.push_back(now->asked);
  now->asked.clear();
}

void nnc_wait(int groups) {
  for (; (int)now->groups.size() > groups; now->groups.pop_front())
    for (const Copy& copy : now->groups.front()) perform(copy);
}

void* nnc_shared(long long offset, long long bytes, int line) {
  if (offset < 0 || offset + bytes > shared_bytes)
    nnc_fail("shared memory up to %lld of %lld bytes", offset + bytes, shared_bytes, line);
  return shared_memory + offset;
}

void nnc_launch(void (*b)(void*), void* d, const char* n, int blocks, int layers, int count, int shared) {
  if (message[0]) return;
  body = b, data = d, name = n, threads = count, shared_bytes = shared;
  if (count < 1 || count > MOST || blocks < 1) return stop("no such launch", 0, 0);
  shared_memory = (char*)aligned_alloc(1024, (shared + 1024) / 1024 * 1024);
  int* turn = (int*)malloc(sizeof(int) * blocks);
  for (int layer = 0; layer < layers; ++layer) {
    order(turn, blocks);
    for (int k = 0; k < blocks && !message[0]; ++k) run_block(turn[k], layer);
  }
  free(turn);
  free(shared_memory);
}

void nnc_begin(unsigned how, bool late) {
  schedule = how;
  lazy = late;
  seed = how;
  message[0] = 0;
}

const char* nnc_error() { return message; }
}
