// What random programs are made of (see programs.py): types, and operations whose result the language leaves no doubt
// about, so that the same text means the same on the host and on gfx908.
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef _Float16 f16;
typedef float f32;
typedef double f64;

#ifdef __HIP__
#define DEVICE __attribute__((device)) static
#else
#define DEVICE static
#endif

template <typename To, typename From>
DEVICE inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "");
  To bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

// A NaN's sign and payload are nobody's business.
DEVICE inline u16 bits(f16 x) { return x == x ? bits_as<u16>(x) : 0x7e00; }
DEVICE inline u32 bits(f32 x) { return x == x ? bits_as<u32>(x) : 0x7fc00000; }
DEVICE inline u64 bits(f64 x) { return x == x ? bits_as<u64>(x) : 0x7ff8000000000000; }

// Of what nothing is known when it is compiled: for clang 15, 0xffffffff is a number of 24 bits where it divides by, or
// takes the high half of a product with, another such number.
DEVICE inline u32 opaque(u32 x) {
#ifdef __HIP__
  asm("" : "+v"(x));
#else
  asm("" : "+r"(x));
#endif
  return x;
}

DEVICE inline i32 quotient(i32 a, i32 b) { return b == 0 ? a : b == -1 ? 0 - a : a / b; }
DEVICE inline i32 remainder(i32 a, i32 b) { return b == 0 || b == -1 ? a : a % b; }
DEVICE inline i64 quotient(i64 a, i64 b) { return b == 0 ? a : b == -1 ? 0 - a : a / b; }
DEVICE inline i64 remainder(i64 a, i64 b) { return b == 0 || b == -1 ? a : a % b; }

// The GPU's division is a Newton iteration, which may be one off for a denominator whose digits are all ones.
DEVICE inline f64 quotient(f64 a, f64 b) { return a / bits_as<f64>(bits_as<u64>(b) & ~1ull); }

// Conversions of what does not fit are undefined.
DEVICE inline i32 to_i32(f32 x) { return x > -2147483648.0f && x < 2147483648.0f ? (i32)x : 7; }
DEVICE inline i32 to_i32(f64 x) { return x > -2147483649.0 && x < 2147483648.0 ? (i32)x : 7; }
DEVICE inline u32 to_u32(f32 x) { return x > -1.0f && x < 4294967296.0f ? (u32)x : 7; }
DEVICE inline u32 to_u32(f64 x) { return x > -1.0 && x < 4294967296.0 ? (u32)x : 7; }
DEVICE inline i64 to_i64(f32 x) { return x > -9223372036854775808.0f && x < 9223372036854775808.0f ? (i64)x : 7; }
DEVICE inline i64 to_i64(f64 x) { return x > -9223372036854775808.0 && x < 9223372036854775808.0 ? (i64)x : 7; }
DEVICE inline u64 to_u64(f64 x) { return x > -1.0 && x < 18446744073709551616.0 ? (u64)x : 7; }
DEVICE inline i32 to_i32(f16 x) { return to_i32((f32)x); }

DEVICE inline f32 scaled(f32 x, i32 by) {
#ifdef __HIP__
  return __builtin_amdgcn_ldexpf(x, by);
#else
  return __builtin_ldexpf(x, by);
#endif
}

// LLVM takes a comparison and a choice for a minimum, whatever the zeros' signs; adding +0 leaves no -0.
template <typename T>
DEVICE inline T without_sign_of_zero(T x) { return x; }
DEVICE inline f16 without_sign_of_zero(f16 x) { return x + (f16)0; }
DEVICE inline f32 without_sign_of_zero(f32 x) { return x + 0.0f; }
DEVICE inline f64 without_sign_of_zero(f64 x) { return x + 0.0; }
template <typename T>
DEVICE inline T smaller(T a, T b) { return without_sign_of_zero(b < a ? b : a); }
template <typename T>
DEVICE inline T larger(T a, T b) { return without_sign_of_zero(a < b ? b : a); }
template <typename T>
DEVICE inline T middle(T a, T b, T c) { return larger(smaller(a, b), smaller(larger(a, b), c)); }

DEVICE inline u32 zeros_above(u32 x) { return x ? __builtin_clz(x) : 32; }
DEVICE inline u32 zeros_below(u32 x) { return x ? __builtin_ctz(x) : 32; }
DEVICE inline u32 zeros_above(u64 x) { return x ? __builtin_clzll(x) : 64; }
DEVICE inline u32 rotate(u32 x, u32 by) { return x << (by & 31) | x >> (-by & 31); }
DEVICE inline u32 funnel(u32 high, u32 low, u32 by) { return (u32)((((u64)high << 32) | low) >> (by & 31)); }
DEVICE inline u32 field(u32 x, u32 from, u32 width) { return x >> (from & 31) & ((1u << (width & 31)) - 1); }
DEVICE inline u32 high_product(u32 a, u32 b) { return (u32)((u64)opaque(a) * b >> 32); }
DEVICE inline i32 high_product(i32 a, i32 b) { return (i32)((i64)a * b >> 32); }
DEVICE inline u32 product24(u32 a, u32 b) { return (a & 0xffffff) * (b & 0xffffff); }
DEVICE inline i32 product24(i32 a, i32 b) { return (a << 8 >> 8) * (b << 8 >> 8); }
DEVICE inline u32 byte_of(u32 x, u32 which) { return x >> 8 * (which & 3) & 255; }
DEVICE inline u32 blend(u32 mask, u32 a, u32 b) { return (mask & a) | (~mask & b); }

#ifdef __HIP__
// The assembly keeps reads of LDS before the barrier; see late_read in compiled.hip.
DEVICE inline void barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  asm volatile("" ::: "memory");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
#else
// The lane that pushes to `lane` when each pushes to (its own number * odd + start) % 64.
static u32 pushed_from(u32 lane, u32 odd, u32 start) {
  u32 from = 0;
  while ((from * odd + start) % 64 != lane) ++from;
  return from;
}
static u64 ballot_greater(const u32* a, const u32* b) {
  u64 lanes = 0;
  for (u32 lane = 0; lane < 64; ++lane) lanes |= (u64)(a[lane] > b[lane]) << lane;
  return lanes;
}
#endif
