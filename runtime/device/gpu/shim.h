// A GPU's place taken by one CPU thread: what the prelude's names mean under g++. Every access is
// checked against the size of its array; the threads of a block are fibers (shim.cpp).
#pragma once
#include <math.h>

#define KERNEL(threads, resident) extern "C" void
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
#define COPY(n, into, place, count, array, there, size, ok) \
  nnc::copy<n>(into, place, count, array, there, size, ok, __LINE__)
#define COMMIT() nnc_commit()
#define WAIT(groups) nnc_wait(groups)
#define GET(n, into, array, place, count) nnc::get<n>(into, array, place, count, __LINE__)
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
void nnc_copy(void* into, const void* from, int bytes);  // zeros if `from` is null
void nnc_commit();
void nnc_wait(int groups);
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

// The first of n neighbours that are moved at once.
template <int n, class T> inline T* aligned(T* array, long long place, long long count, int line) {
  at(array, place + n - 1, count, line);
  if ((unsigned long long)(array + place) % (n * sizeof(T) < 16 ? n * sizeof(T) : 16))
    nnc_fail("%lld elements at %lld are not aligned", n, place, line);
  return &at(array, place, count, line);
}

template <int n, class T, class S>
inline void copy(T* into, long long place, long long count, const S* array, long long there,
                 long long size, bool ok, int line) {
  static_assert(sizeof(T) == sizeof(S), "nothing is converted");
  nnc_copy(aligned<n>(into, place, count, line),
           ok ? aligned<n>(array, there, size, line) : nullptr, n * sizeof(T));
}

template <int n, class T>
inline void get(T* into, T* array, long long place, long long count, int line) {
  const T* from = aligned<n>(array, place, count, line);
  for (int k = 0; k < n; ++k) into[k] = from[k];
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
