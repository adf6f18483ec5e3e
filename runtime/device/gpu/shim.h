// A GPU's place taken by one CPU thread: what the prelude's names mean under g++. Every access is
// checked against the size of its array; the threads of a block are fibers (shim.cpp).
#pragma once
#include <math.h>

#define KERNEL(threads) extern "C" void
#define KERNEL_TWICE(threads) extern "C" void
#define DEVICE inline
#define AT(array, place, count) nnc::at(array, place, count, __LINE__)
#define BARRIER() nnc_barrier(__LINE__)
#define MEET(counter, blocks, first) nnc_meet(counter, blocks, first, __LINE__)
#define SHUFFLE(value, mask) nnc::shuffle(value, mask, __LINE__)
#define THREAD (nnc_here.thread)
#define BLOCK (nnc_here.block)
#define LAYER (nnc_here.layer)
#define SHARED(type, name, offset, count) \
  type* const name = (type*)nnc_shared(offset, (long long)(count) * sizeof(type), __LINE__)
#define INFINITE __builtin_inff()
#define NOT_A_NUMBER __builtin_nanf("")

extern "C" {
struct nnc_place {
  int thread, block, layer;
};
extern nnc_place nnc_here;
void nnc_fail(const char* what, long long a, long long b, int line);
void nnc_barrier(int line);
void nnc_meet(const void* counter, int blocks, bool first, int line);
void nnc_exchange(const void* mine, void* theirs, int bytes, int mask, int line);
void* nnc_shared(long long offset, long long bytes, int line);
void nnc_launch(void (*body)(void*), void* data, const char* name, int blocks, int layers,
                int threads, int shared);
}

namespace nnc {
template <class T> inline T& at(T* array, long long place, long long count, int line) {
  if ((unsigned long long)place >= (unsigned long long)count)
    nnc_fail("element %lld of an array of %lld", place, count, line);
  return array[place];
}

template <class T> inline T shuffle(T value, int mask, int line) {
  T other;
  nnc_exchange(&value, &other, sizeof(T), mask, line);
  return other;
}

// An address that fits every pointer argument.
struct Pointer {
  char* address;
  template <class T> operator T*() const { return (T*)address; }
};

template <class F> inline void launch(const char* name, int blocks, int layers, int threads,
                                      int shared, F body) {
  nnc_launch([](void* data) { (*(F*)data)(); }, &body, name, blocks, layers, threads, shared);
}
}  // namespace nnc
