// The prelude's primitives for g++: one CPU thread simulates a GPU. Every access is checked against
// the bounds of its array; the threads of a block are fibers (simulator.cpp).
#pragma once
#include <math.h>

#define KERNEL(threads, resident) extern "C" void
#define DEVICE inline
#define AT(array, place, count) nnc::at(array, place, count, __LINE__)
#define BARRIER() nnc_barrier(__LINE__)
#define GROUP_BARRIER(counter, blocks, first) nnc_group_barrier(counter, blocks, first, __LINE__)
#define SHUFFLE(value, mask) nnc::shuffle(value, mask, __LINE__)
#define THREAD (nnc_current.thread)
#define BLOCK (nnc_current.block)
#define LAYER (nnc_current.layer)
#define SHARED(type, name, offset, count) \
  type* const name = (type*)nnc_shared(offset, (long long)(count) * sizeof(type), __LINE__)
#define COPY(n, into, place, count, array, there, size, ok) \
  COPY_SOME(n, into, place, count, array, there, size, (ok) ? n : 0)
#define COPY_SOME(n, into, place, count, array, there, size, valid) \
  nnc::copy<n>(into, place, count, array, there, size, valid, __LINE__)
#define COMMIT() nnc_commit()
#define WAIT(groups) nnc_wait(groups)
#define PAIR(a, b) nnc::pair(a, b)
#define MATRICES(transposed, into, array, place, count) \
  nnc::matrices<transposed>(into, nnc::aligned<4>(array, place, count, __LINE__), __LINE__)
#define MMA(sum, a, b) nnc::mma(sum, a, b, __LINE__)
#define GET(n, into, array, place, count) nnc::get<n>(into, array, place, count, __LINE__)
#define INFINITE __builtin_inff()
#define NOT_A_NUMBER __builtin_nanf("")

#define NNC_LANE_BYTES 32

extern "C" {
struct nnc_thread {
  int thread, block, layer;
};
extern nnc_thread nnc_current;
void nnc_fail(const char* what, long long a, long long b, int line);
void nnc_barrier(int line);
void nnc_group_barrier(const void* counter, int blocks, bool first, int line);
// the values of all lanes of the warp, NNC_LANE_BYTES apart
const void* nnc_exchange(const void* value, int bytes, int line);
void nnc_copy(void* into, const void* from, int bytes, int valid);  // zeros after the valid bytes
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

// The first of n adjacent elements that are moved at once.
template <int n, class T> inline T* aligned(T* array, long long place, long long count, int line) {
  at(array, place + n - 1, count, line);
  if ((unsigned long long)(array + place) % (n * sizeof(T) < 16 ? n * sizeof(T) : 16))
    nnc_fail("%lld elements at %lld are not aligned", n, place, line);
  return &at(array, place, count, line);
}

// A word of shared memory may hold several elements.
template <int n, class T, class S>
inline void copy(T* into, long long place, long long count, const S* array, long long there,
                 long long size, int valid, int line) {
  const int words = n * sizeof(S) / sizeof(T), bytes = n * sizeof(S);
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "no such copy");
  static_assert(words * sizeof(T) == bytes, "whole words");
  if (valid < 0 || valid > n) nnc_fail("%lld of %lld elements", valid, n, line);
  if (valid) {
    at(array, there + valid - 1, size, line);
    if ((unsigned long long)(array + there) % bytes)
      nnc_fail("%lld elements at %lld are not aligned", n, there, line);
  }
  nnc_copy(aligned<words>(into, place, count, line), array + there, bytes, valid * sizeof(S));
}

template <int n, class T>
inline void get(T* into, T* array, long long place, long long count, int line) {
  const T* from = aligned<n>(array, place, count, line);
  for (int k = 0; k < n; ++k) into[k] = from[k];
}

// The value that a lane contributed to an exchange within its warp.
template <class T> inline const T* lane_of(const T* first, int lane) {
  return (const T*)((const char*)first + lane * NNC_LANE_BYTES);
}

template <class T> inline T shuffle(T value, int mask, int line) {
  const int lane = nnc_current.thread % 32;
  return *lane_of((const T*)nnc_exchange(&value, sizeof(T), line), lane ^ mask);
}

// --- tensor cores: which lane holds which elements is as in the PTX ISA ---

inline unsigned short bf16(float value) {
  union { float value; unsigned bits; } x = {value};
  return value != value ? 0x7fff : (x.bits + (x.bits >> 16 & 1) + 0x7fff) >> 16;
}

inline float number(unsigned pair, int half) {
  union { unsigned bits; float value; } x = {half ? pair & 0xffff0000u : pair << 16};
  return x.value;
}

inline unsigned pair(float a, float b) { return bf16(a) | (unsigned)bf16(b) << 16; }

struct Row { unsigned words[4]; };

template <bool transposed> inline void matrices(unsigned* into, const unsigned* row, int line) {
  const int lane = nnc_current.thread % 32;
  const Row* rows = (const Row*)nnc_exchange(row, sizeof(Row), line);
  for (int m = 0; m < 4; ++m) {
    if (!transposed) {
      into[m] = lane_of(rows, m * 8 + lane / 4)->words[lane % 4];
      continue;
    }
    unsigned both[2];
    for (int k = 0; k < 2; ++k)
      both[k] = lane_of(rows, m * 8 + lane % 4 * 2 + k)->words[lane / 8] >> lane / 4 % 2 * 16 & 0xffff;
    into[m] = both[0] | both[1] << 16;
  }
}

struct Operands { unsigned a[4], b[2]; };

inline void mma(float* sum, const unsigned* a, const unsigned* b, int line) {
  const Operands own = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const Operands* all = (const Operands*)nnc_exchange(&own, sizeof own, line);
  const int lane = nnc_current.thread % 32;
  for (int q = 0; q < 4; ++q) {
    const int row = lane / 4 + q / 2 * 8, column = lane % 4 * 2 + q % 2;
    for (int k = 0; k < 16; ++k) {
      const Operands* left = lane_of(all, row % 8 * 4 + k % 8 / 2);
      const Operands* right = lane_of(all, column * 4 + k % 8 / 2);
      sum[q] += number(left->a[row / 8 + k / 8 * 2], k % 2) * number(right->b[k / 8], k % 2);
    }
  }
}

// An address that converts to every pointer type.
struct Pointer {
  char* address;
  template <class T> operator T*() const { return (T*)address; }
};

template <class F> inline void launch(const char* name, int blocks, int layers, int threads,
                                      int shared, F body) {
  nnc_launch([](void* data) { (*(F*)data)(); }, &body, name, blocks, layers, threads, shared);
}
}  // namespace nnc
