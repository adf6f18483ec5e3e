// What every generated kernel is written with: one source for NVRTC and, with NNC_SIMULATOR, for g++,
// where `simulator.h` stands in for the GPU. Floats follow NumPy: NaN passes through max and min;
// integers wrap, divide towards minus infinity, and divided by zero give zero.
typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;  // a number of f16 or bf16, in memory
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#ifdef NNC_SIMULATOR
#include "simulator.h"
#else
// `resident` blocks at least have the registers of a processor
#define KERNEL(threads, resident) extern "C" __global__ void __launch_bounds__(threads, resident)
#define DEVICE __device__ __forceinline__
#define AT(array, place, count) (array)[place]
#define BARRIER() __syncthreads()
#define GROUP_BARRIER(counter, blocks, first) nn::group_barrier(counter, blocks, first)
#define SHUFFLE(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)
#define THREAD ((i32)threadIdx.x)
#define BLOCK ((i32)blockIdx.x)
#define LAYER ((i32)blockIdx.y)
extern __shared__ __align__(16) unsigned char shared_bytes[];
#define SHARED(type, name, offset, count) type* const name = (type*)(shared_bytes + (offset))
// asynchronous copies to shared memory: n neighbours of an array, or zeros if not `ok`, when nothing
// is read at `there`, wherever that is; or the first `given` of them, and zeros after these
#define COPY(n, into, place, count, array, there, size, ok) \
  COPY_SOME(n, into, place, count, array, there, size, (ok) ? n : 0)
#define COPY_SOME(n, into, place, count, array, there, size, given) \
  nn::copy<n * sizeof(*(array))>((into) + (place), (array) + (there), (given) * (i32)sizeof(*(array)))
#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(groups) asm volatile("cp.async.wait_group %0;" :: "n"(groups) : "memory")
// two numbers rounded to bf16, the first in the lower half
#define PAIR(a, b) nn::pair(a, b)
// four 8 by 8 matrices: a lane's place is that of row lane % 8 of matrix lane / 8
#define MATRICES(turned, into, array, place, count) nn::matrices<turned>(into, (array) + (place))
// sum += a * b, 16 by 8, of 16 by 16 and 16 by 8 bf16 numbers
#define MMA(sum, a, b) nn::mma(sum, a, b)
// n neighbours at once; their place is a multiple of n
#define GET(n, into, array, place, count) nn::get<n>(into, (array) + (place))
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)
#endif

#ifndef NNC_SIMULATOR
namespace nn {
template <int bytes> DEVICE void copy(void* into, const void* from, int given) {
  const u32 to = (u32)__cvta_generic_to_shared(into);
  const u64 at = (u64)__cvta_generic_to_global(from);
  if (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(at), "r"(given) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(to), "l"(at), "n"(bytes), "r"(given) : "memory");
}

template <int n, class T> DEVICE void get(T* into, const T* from) {
  struct __align__(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Vector { T x[n]; };
  const Vector v = *(const Vector*)from;
#pragma unroll
  for (int k = 0; k < n; ++k) into[k] = v.x[k];
}

DEVICE u32 pair(f32 a, f32 b) {
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
  return both;
}

template <bool turned> DEVICE void matrices(u32* into, const u32* row) {
  const u32 at = (u32)__cvta_generic_to_shared(row);
  if (turned)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3]) : "r"(at) : "memory");
}

DEVICE void mma(f32* sum, const u32* a, const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
}  // namespace nn
#endif

namespace nn {

// --- arithmetic ----------------------------------------------------------------------------------

DEVICE f32 add(f32 a, f32 b) { return a + b; }
DEVICE f64 add(f64 a, f64 b) { return a + b; }
DEVICE i32 add(i32 a, i32 b) { return (i32)((u32)a + (u32)b); }
DEVICE i64 add(i64 a, i64 b) { return (i64)((u64)a + (u64)b); }
DEVICE u8 add(u8 a, u8 b) { return (u8)(a + b); }
DEVICE i8 add(i8 a, i8 b) { return (i8)(a + b); }
DEVICE bool add(bool a, bool b) { return a || b; }

DEVICE f32 sub(f32 a, f32 b) { return a - b; }
DEVICE f64 sub(f64 a, f64 b) { return a - b; }
DEVICE i32 sub(i32 a, i32 b) { return (i32)((u32)a - (u32)b); }
DEVICE i64 sub(i64 a, i64 b) { return (i64)((u64)a - (u64)b); }

DEVICE f32 mul(f32 a, f32 b) { return a * b; }
DEVICE f64 mul(f64 a, f64 b) { return a * b; }
DEVICE i32 mul(i32 a, i32 b) { return (i32)((u32)a * (u32)b); }
DEVICE i64 mul(i64 a, i64 b) { return (i64)((u64)a * (u64)b); }
DEVICE u8 mul(u8 a, u8 b) { return (u8)(a * b); }
DEVICE i8 mul(i8 a, i8 b) { return (i8)(a * b); }
DEVICE bool mul(bool a, bool b) { return a && b; }

DEVICE f32 neg(f32 a) { return -a; }
DEVICE f64 neg(f64 a) { return -a; }
DEVICE i32 neg(i32 a) { return sub((i32)0, a); }
DEVICE i64 neg(i64 a) { return sub((i64)0, a); }

template <class T> DEVICE T max(T a, T b) { return (a > b || a != a) ? a : b; }
template <class T> DEVICE T min(T a, T b) { return (a < b || a != a) ? a : b; }
template <class T> DEVICE T sign(T a) { return a > (T)0 ? (T)1 : a < (T)0 ? (T)-1 : a; }

DEVICE f32 abs(f32 a) { return fabsf(a); }
DEVICE f64 abs(f64 a) { return fabs(a); }
DEVICE i32 abs(i32 a) { return a < 0 ? neg(a) : a; }
DEVICE i64 abs(i64 a) { return a < 0 ? neg(a) : a; }

// exact for quotients of any size; with the sign of b, that of a zero included
template <class T> DEVICE T floored_rest(T rest, T b) {
  if (rest == 0) return b < 0 ? (T)-0.0 : (T)0.0;
  return (rest < 0) != (b < 0) && rest == rest ? rest + b : rest;
}
DEVICE f32 mod(f32 a, f32 b) { return floored_rest(fmodf(a, b), b); }
DEVICE f64 mod(f64 a, f64 b) { return floored_rest(fmod(a, b), b); }

// rounding may lift a quotient to the next whole number: then the rest has the wrong sign
template <class T> DEVICE T floored_quotient(T n, T rest, T b) {
  return rest != 0 && rest == rest && (rest < 0) != (b < 0) ? n - 1 : n;
}
DEVICE f32 floordiv(f32 a, f32 b) {
  const f32 n = floorf(a / b);
  return floored_quotient(n, fmaf(-n, b, a), b);
}
DEVICE f64 floordiv(f64 a, f64 b) {
  const f64 n = floor(a / b);
  return floored_quotient(n, fma(-n, b, a), b);
}

template <class T> DEVICE T whole_floordiv(T a, T b) {
  if (b == 0) return 0;
  if (b == -1) return neg(a);  // the least number has no negative: it wraps
  const T quotient = a / b;
  return quotient - ((a % b != 0) && ((a ^ b) < 0) ? 1 : 0);
}
template <class T> DEVICE T whole_mod(T a, T b) {
  if (b == 0 || b == -1) return 0;
  const T rest = a % b;
  return rest != 0 && (rest ^ b) < 0 ? rest + b : rest;
}
DEVICE i32 floordiv(i32 a, i32 b) { return whole_floordiv(a, b); }
DEVICE i64 floordiv(i64 a, i64 b) { return whole_floordiv(a, b); }
DEVICE i32 mod(i32 a, i32 b) { return whole_mod(a, b); }
DEVICE i64 mod(i64 a, i64 b) { return whole_mod(a, b); }

// a negative power is cut to an integer, which is 0 unless the base is 1 or -1
template <class T> DEVICE T whole_pow(T base, T power) {
  if (power < 0 && base != 1 && base != -1) return 0;
  T result = 1;
  for (int bit = 0; bit < (int)sizeof(T) * 8 - 1; ++bit) {
    if ((power >> bit) & 1) result = mul(result, base);
    base = mul(base, base);
  }
  return result;
}
DEVICE f32 pow(f32 a, f32 b) { return powf(a, b); }
DEVICE f64 pow(f64 a, f64 b) { return ::pow(a, b); }
DEVICE i32 pow(i32 a, i32 b) { return whole_pow(a, b); }
DEVICE i64 pow(i64 a, i64 b) { return whole_pow(a, b); }

// by e^-|x|, which cannot overflow
DEVICE f32 sigmoid(f32 a) {
  const f32 e = expf(-fabsf(a));
  return (a < 0 ? e : 1) / (1 + e);
}
DEVICE f64 sigmoid(f64 a) {
  const f64 e = exp(-fabs(a));
  return (a < 0 ? e : 1) / (1 + e);
}

template <class T> DEVICE bool is_finite(T a) { return a - a == a - a; }

// to the nearest number of 8 bits, ties to even
DEVICE f32 bf16(f32 a) {
  union { f32 value; u32 bits; } x = {a};
  x.bits = (x.bits + (x.bits >> 16 & 1) + 0x7fff) >> 16 << 16;
  return is_finite(a) ? x.value : a;
}
// to the nearest number of f16, ties to even: of ordinary ones 11 bits are kept; small ones are
// multiples of 2^-24, which is what numbers around `align` are apart
DEVICE f32 f16(f32 a) {
  union { f32 value; u32 bits; } x = {a};
  const f32 size = fabsf(a), align = 0.75f;
  if (!(size < 65520.0f)) return size > 65504.0f ? copysignf((f32)INFINITE, a) : a;
  if (size < 0x1p-14f) return copysignf((size + align) - align, a);
  x.bits = (x.bits + (x.bits >> 13 & 1) + 0xfff) >> 13 << 13;
  return x.value;
}
DEVICE f64 f16(f64 a) {
  union { f64 value; u64 bits; } x = {a};
  const f64 size = fabs(a), align = 0x1.8p28;
  if (!(size < 65520.0)) return size > 65504.0 ? copysign((f64)INFINITE, a) : a;
  if (size < 0x1p-14) return copysign((size + align) - align, a);
  x.bits = (x.bits + (x.bits >> 42 & 1) + 0x1ffffffffffull) >> 42 << 42;
  return x.value;
}
DEVICE i32 bf16_pair(f32 a, f32 b) {
  union { f32 value; u32 bits; } x = {bf16(a)}, y = {bf16(b)};
  return (i32)(x.bits >> 16 | (y.bits & 0xffff0000u));
}
DEVICE f32 bf16_dot(i32 p, i32 q) {
  union { u32 bits; f32 value; } a = {(u32)p << 16}, b = {(u32)q << 16},
      c = {(u32)p & 0xffff0000u}, d = {(u32)q & 0xffff0000u};
  return a.value * b.value + c.value * d.value;
}
DEVICE i32 int8_quad(u32 a, u32 b, u32 c, u32 d) {
  return (i32)((a & 0xffu) | (b & 0xffu) << 8 | (c & 0xffu) << 16 | (d & 0xffu) << 24);
}
DEVICE i32 int8_dot(i32 p, i32 q) {
  i32 total = 0;
  for (i32 n = 0; n < 32; n += 8)
    total += (i32)((u32)p >> n & 0xffu) * ((i32)((u32)q << (24 - n)) >> 24);
  return total;
}
DEVICE f64 bf16(f64 a) {
  union { f64 value; u64 bits; } x = {a};
  const f64 size = fabs(a), align = 0x1.8p-81;
  if (size >= 0x1.ffp127) return copysign((f64)INFINITE, a);
  if (size < 0x1p-126) return copysign((size + align) - align, a);
  x.bits = (x.bits + (x.bits >> 45 & 1) + 0xfffffffffffull) >> 45 << 45;
  return is_finite(a) ? x.value : a;
}

// How memory has numbers that are rounded already.
DEVICE f32 wide_bf16(u16 a) {
  union { u32 bits; f32 value; } x = {(u32)a << 16};
  return x.value;
}
DEVICE u16 narrow_bf16(f32 a) {
  union { f32 value; u32 bits; } x = {a};
  return a != a ? 0x7fff : (u16)(x.bits >> 16);
}
// f16: the exponent of f32 counts from -127, that of f16 from -15; a product with a power of two
// moves it, and makes ordinary numbers of subnormal ones
DEVICE f32 wide_f16(u16 a) {
  const u32 size = a & 0x7fffu, sign = (a & 0x8000u) << 16;
  union { u32 bits; f32 value; } x = {size << 13};
  if (size < 0x7c00u) x.value *= 0x1p112f; else x.bits |= 0x7f800000u;
  x.bits |= sign;
  return x.value;
}
DEVICE u16 narrow_f16(f32 a) {
  union { f32 value; u32 bits; } x = {a}, y = {fabsf(a) * 0x1p-112f};
  const u32 size = x.bits & 0x7fffffffu, sign = x.bits >> 16 & 0x8000u;
  if (a != a) return 0x7fff;
  return (u16)((size < 0x7f800000u ? y.bits >> 13 : 0x7c00u) | sign);
}

// The place of a word in rows of `words`. Groups of 4 are in another order in every row, or in every
// so many rows as lie in all banks: 8 rows of 4 words never share a bank.
template <int words> DEVICE i32 swizzled(i32 row, i32 word) {
  const int groups = words / 4 < 8 ? words / 4 : 8, rows = 8 / groups;
  return row * words + (word / 4 ^ row / rows % groups) * 4 + word % 4;
}

// --- conversions: floats out of range saturate, NaN is zero --------------------------------------

DEVICE i32 to_i32(f64 a) {
  return a != a ? 0 : a <= -2147483648.0 ? (-2147483647 - 1) : a >= 2147483647.0 ? 2147483647 : (i32)a;
}
DEVICE i8 to_i8(f64 a) { return a >= 127.0 ? 127 : a <= -128.0 ? -128 : a == a ? (i8)a : 0; }
DEVICE u8 to_u8(f64 a) { return a >= 255.0 ? 255 : a > 0.0 ? (u8)a : 0; }
DEVICE i64 to_i64(f64 a) {
  if (a != a) return 0;
  if (a <= -9223372036854775808.0) return -9223372036854775807LL - 1;
  return a >= 9223372036854775808.0 ? 9223372036854775807LL : (i64)a;
}

// --- random numbers: Threefry2x32-20, as `compiler/ir/random.py` defines it --------------------------

DEVICE u32 rotated(u32 x, int left) { return (x << left) | (x >> (32 - left)); }

DEVICE f32 random(i32 seed, i32 step, i32 stream, i32 index) {
  const u32 k0 = (u32)seed, k1 = (u32)step, k2 = k0 ^ k1 ^ 0x1BD11BDAu;
  u32 x0 = (u32)index + k0, x1 = (u32)stream + k1;
#define NNC_ROUND(left) x0 += x1; x1 = rotated(x1, left) ^ x0;
#define NNC_ROUNDS(a, b, c, d, p, q, j) \
  NNC_ROUND(a) NNC_ROUND(b) NNC_ROUND(c) NNC_ROUND(d) x0 += p; x1 += q + j;
  NNC_ROUNDS(13, 15, 26, 6, k1, k2, 1u)
  NNC_ROUNDS(17, 29, 16, 24, k2, k0, 2u)
  NNC_ROUNDS(13, 15, 26, 6, k0, k1, 3u)
  NNC_ROUNDS(17, 29, 16, 24, k1, k2, 4u)
  NNC_ROUNDS(13, 15, 26, 6, k2, k0, 5u)
  return (f32)(x0 >> 8) * 0x1p-24f;
}

// --- accumulators: take a value, join with another ------------------------------------------------

template <class T> DEVICE T shuffled(T value, int mask) { return SHUFFLE(value, mask); }
DEVICE i8 shuffled(i8 value, int mask) { return (i8)SHUFFLE((i32)value, mask); }
DEVICE u8 shuffled(u8 value, int mask) { return (u8)SHUFFLE((i32)value, mask); }
DEVICE bool shuffled(bool value, int mask) { return SHUFFLE((i32)value, mask) != 0; }

#define NNC_ACCUMULATOR(name, taken)                                                     \
  template <class T> struct name {                                                       \
    T value;                                                                             \
    DEVICE void take(T x, i32) { value = taken; }                                        \
    DEVICE void join(const name& other) { take(other.value, 0); }                        \
    DEVICE name shuffle(int mask) const { name r; r.value = shuffled(value, mask); return r; } \
    DEVICE T result() const { return value; }                                            \
  };
NNC_ACCUMULATOR(Sum, add(value, x))

// A long sum of floats: the sums of blocks of terms are added up in f64, so that its error does not
// grow with its length.
template <class T, int block> struct BlockedSum {
  T value = 0;
  f64 total = 0;
  i32 taken = 0;
  DEVICE void take(T x, i32) {
    value += x;
    if (++taken < block) return;
    total += value;
    value = 0;
    taken = 0;
  }
  DEVICE T result() const { return (T)(total + value); }
};
NNC_ACCUMULATOR(Prod, mul(value, x))
NNC_ACCUMULATOR(Max, max(value, x))
NNC_ACCUMULATOR(Min, min(value, x))

// The position of the most extreme value; NaN is the most extreme, of equal ones the first counts.
#define NNC_POSITION(name, beyond)                                                       \
  template <class T> struct name {                                                       \
    T value;                                                                             \
    i32 at = 0;                                                                          \
    DEVICE void take(T x, i32 place) {                                                   \
      const bool nan = x != x, was = value != value;                                     \
      if (nan ? !was || place < at : !was && ((beyond) || (x == value && place < at))) { \
        value = x;                                                                       \
        at = place;                                                                      \
      }                                                                                  \
    }                                                                                    \
    DEVICE void join(const name& other) { take(other.value, other.at); }                 \
    DEVICE name shuffle(int mask) const {                                                \
      name r;                                                                            \
      r.value = shuffled(value, mask);                                                   \
      r.at = shuffled(at, mask);                                                         \
      return r;                                                                          \
    }                                                                                    \
    DEVICE i32 result() const { return at; }                                             \
  };
NNC_POSITION(ArgMax, x > value)
NNC_POSITION(ArgMin, x < value)

// All lanes of a warp joined, the result in every lane.
template <class A> DEVICE A warp_reduce(A mine) {
  for (int mask = 16; mask > 0; mask /= 2) mine.join(mine.shuffle(mask));
  return mine;
}

// The `lanes` neighbouring threads joined, warp by warp; the result is in every one of them.
template <int lanes, int threads, class A> DEVICE A multi_warp_reduce(A mine, A* shared) {
  const int warps = lanes / 32, warp = THREAD / 32, first = warp / warps * warps;
  mine = warp_reduce(mine);
  if (THREAD % 32 == 0) AT(shared, warp, threads / 32) = mine;
  BARRIER();
  mine = AT(shared, first, threads / 32);
  for (int other = 1; other < warps; ++other) mine.join(AT(shared, first + other, threads / 32));
  BARRIER();
  return mine;
}

// The `lanes` threads that are `stride` apart joined in a tree; the result is in the first of them.
template <int lanes, int stride, int threads, class A> DEVICE A block_reduce(A mine, A* shared) {
  const int thread = THREAD, lane = thread / stride % lanes;
  AT(shared, thread, threads) = mine;
  BARRIER();
  for (int half = lanes / 2; half > 0; half /= 2) {
    if (lane < half) {
      mine.join(AT(shared, thread + half * stride, threads));
      AT(shared, thread, threads) = mine;
    }
    BARRIER();
  }
  return mine;
}

// --- blocks that wait for each other -------------------------------------------------------------

#ifndef NNC_SIMULATOR
// Every thread of all `blocks` blocks has come here, and sees what the others have written. All of
// them must run at once. Each meeting adds 2^31 to the counter in all, however many they are: its
// highest bit changes when the last one comes, and the others are as they were.
DEVICE void group_barrier(u32* counter, i32 blocks, bool first) {
  BARRIER();
  if (THREAD == 0) {
    __threadfence();
    const u32 before = atomicAdd(counter, first ? 0x80000000u - (u32)(blocks - 1) : 1u);
    while (((*(volatile u32*)counter ^ before) & 0x80000000u) == 0) {
    }
    __threadfence();
  }
  BARRIER();
}
#endif

}  // namespace nn
