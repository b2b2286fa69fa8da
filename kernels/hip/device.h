// What the two toolchains call differently: clang for gfx9 without HIP's headers, nvcc for sm_80 and later.
//
//   DEVICE               opens a function of the device, always inlined
//   KERNEL(lanes, waves) opens a kernel: lanes of its workgroup, waves a SIMD that its registers must leave room for
//   WAVE_LANES           64 on gfx9, 32 on sm
//   lane_of_workgroup(), workgroup(), barrier(), lds_barrier()
//   any_of_wave          of what lanes of a wave have
//   Chunk                16 bytes, the most a lane moves at once: words .x .y .z .w
//   Buffer               memory seen through 32-bit offsets from a uniform address; reading at NOWHERE, or past it,
//                        gives zeros
//   load_anywhere, store_anywhere  16 bytes at an address that is a multiple of UNIT
//   anew                 keeps scalar registers free
//   ask_for              has arguments of a kernel loaded where it stands, so that none is waited for later
//   opaque               a value that the compiler knows nothing of
//   uniform              keeps vector registers and instructions free: a value that all lanes of a wave share
//   exp2_fast, reciprocal, reciprocal_root  float32 within 1 ulp, without care for denormals
//   maximum              of numbers; a NaN is passed over
//   multiply_add         a * b + c, rounded once
//   uniform_constant     keeps instructions free
//   loads_begin          loads before it are not put off
//   in_this_order        (gfx9) nothing before it comes after it, and nothing after it before
//   from_lane            a value that another lane of the wave has
#pragma once

#if defined(__HIP__)

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define DEVICE __device__ inline __attribute__((always_inline))
#define KERNEL(lanes, waves) \
  extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(lanes, lanes), amdgpu_waves_per_eu(waves))) void

constexpr int WAVE_LANES = 64;

DEVICE int lane_of_workgroup() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE unsigned workgroup() { return __builtin_amdgcn_workgroup_id_x(); }

// Also a fence for LDS: what a wave wrote before it, every wave of the workgroup reads after it.
DEVICE void barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  // Without this clang 15 moves a read of LDS beyond the barrier, where its value is first used behind a loop.
  asm volatile("" ::: "memory");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// The same for LDS alone: loads from memory may still be on their way.
DEVICE void lds_barrier() { asm volatile("s_waitcnt lgkmcnt(0)\n\ts_barrier" ::: "memory"); }

// v_exp_f32 takes denormals for zero, which is no harm where 1 is added to the result.
DEVICE float exp2_fast(float x) {
  float result;
  asm("v_exp_f32 %0, %1" : "=v"(result) : "v"(x));
  return result;
}
DEVICE float reciprocal(float x) { return __builtin_amdgcn_rcpf(x); }
DEVICE float reciprocal_root(float x) { return __builtin_amdgcn_rsqf(x); }

// The compiler would first make quiet NaNs of operands.
DEVICE float maximum(float a, float b) {
  float result;
  asm("v_max_f32 %0, %1, %2" : "=v"(result) : "v"(a), "v"(b));
  return result;
}
DEVICE float maximum(float a, float b, float c) {
  float result;
  asm("v_max3_f32 %0, %1, %2, %3" : "=v"(result) : "v"(a), "v"(b), "v"(c));
  return result;
}
DEVICE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

DEVICE float from_lane(float value, int lane) {
  return __builtin_bit_cast(float, __builtin_amdgcn_ds_bpermute(4 * lane, __builtin_bit_cast(int, value)));
}

// Whether it is true in any lane of the wave.
DEVICE bool any_of_wave(bool value) {
  constexpr int NOT_EQUAL = 33;  // LLVM's number
  return __builtin_amdgcn_uicmp(static_cast<unsigned>(value), 0u, NOT_EQUAL) != 0;
}

// In a scalar register: a constant would be a word of each instruction, and those of three operands have no room.
DEVICE float uniform_constant(float value) {
  asm("" : "+s"(value));
  return value;
}

// What was read before, from LDS or from memory, is asked for by now, however late it is used.
DEVICE void loads_begin() { asm volatile("" ::: "memory"); }

// No instruction is moved over this, be it to save registers.
DEVICE void in_this_order() { __builtin_amdgcn_sched_barrier(0); }

// `value`, which is uniform, and which the compiler takes for a new one each time: what is computed from it is not kept
// in registers over a loop.
DEVICE int anew(int value) {
  asm volatile("" : "+s"(value));
  return value;
}

template <class A, class B, class C, class D>
DEVICE void ask_for(A a, B b, C c, D d) {
  asm volatile("" : : "s"(a), "s"(b), "s"(c), "s"(d));
}

// Clang 15 takes `a | 16` in an address of LDS for `a + 16`, whatever bits a has.
DEVICE int opaque(int value) {
  asm("" : "+v"(value));
  return value;
}

// `value`, which all lanes of a wave share, in a scalar register: the compiler divides, and uses float, in vector ones.
DEVICE int uniform(int value) { return __builtin_amdgcn_readfirstlane(value); }
template <class T>
DEVICE T* uniform(T* address) {
  const auto bits = reinterpret_cast<unsigned long long>(address);
  const unsigned long long high = static_cast<unsigned>(uniform(bits >> 32));
  return reinterpret_cast<T*>(high << 32 | static_cast<unsigned>(uniform(bits)));
}

using Chunk = int __attribute__((ext_vector_type(4)));

// gfx9 reads and writes vectors at any address.
template <int UNIT>
struct __attribute__((packed, aligned(UNIT))) Unaligned {
  Chunk chunk;
};
template <int UNIT>
DEVICE Chunk load_anywhere(const void* from) {
  return static_cast<const Unaligned<UNIT>*>(from)->chunk;
}

template <int UNIT>
DEVICE void store_anywhere(void* to, Chunk value) {
  static_cast<Unaligned<UNIT>*>(to)->chunk = value;
}

// The compiler's own intrinsics, for which clang 15 has no builtin functions.
__device__ Chunk raw_buffer_load(Chunk, int, int, int) __asm("llvm.amdgcn.raw.buffer.load.v4i32");
__device__ int raw_buffer_load_word(Chunk, int, int, int) __asm("llvm.amdgcn.raw.buffer.load.i32");
__device__ void raw_buffer_store(Chunk, Chunk, int, int, int) __asm("llvm.amdgcn.raw.buffer.store.v4i32");
__device__ void raw_buffer_store_word(int, Chunk, int, int, int) __asm("llvm.amdgcn.raw.buffer.store.i32");

class Buffer {
 public:
  static constexpr unsigned REACH = 0x7fffffff, NOWHERE = 0x80000000;

  // `base` and `bytes`, past which nothing is read, must be the same for all lanes; offsets, in bytes, are below 2^31.
  DEVICE explicit Buffer(const void* base, unsigned bytes = REACH) {
    auto address = reinterpret_cast<unsigned long long>(base);
    // Word 3: 32-bit raw data, as gfx9 wants it.
    resource_ = {static_cast<int>(address), static_cast<int>(address >> 32 & 0xffff), static_cast<int>(bytes), 0x27000};
  }

  // Reads at uniform + offset, both multiples of 16.
  DEVICE Chunk load(unsigned offset, int uniform = 0) const {
    // Clang 15 may compute it in a vector register, which the instruction does not take.
    return raw_buffer_load(resource_, offset, ::uniform(uniform), 0);
  }
  // Reads at a multiple of UNIT. Of a chunk that passes the buffer's end, any part may be zeros.
  template <int UNIT>
  DEVICE Chunk load_anywhere(unsigned offset) const {
    return load(offset);
  }
  // The same for 4 bytes, in multiples of 4.
  DEVICE int load_word(unsigned offset, int uniform = 0) const {
    return raw_buffer_load_word(resource_, offset, uniform, 0);
  }
  // Stores nothing at NOWHERE.
  DEVICE void store(Chunk value, unsigned offset) const { raw_buffer_store(value, resource_, offset, 0, 0); }
  DEVICE void store_word(int value, unsigned offset, int uniform = 0) const {
    raw_buffer_store_word(value, resource_, offset, uniform, 0);
  }

 private:
  Chunk resource_;
};

#else

#define DEVICE __device__ __forceinline__
#define KERNEL(lanes, waves) extern "C" __global__ __launch_bounds__(lanes, 1) void

constexpr int WAVE_LANES = 32;

DEVICE int lane_of_workgroup() { return threadIdx.x; }
DEVICE unsigned workgroup() { return blockIdx.x; }
DEVICE void barrier() { __syncthreads(); }
DEVICE void lds_barrier() { __syncthreads(); }

DEVICE float exp2_fast(float x) {
  float result;
  asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
DEVICE float reciprocal(float x) { return __frcp_rn(x); }
DEVICE float reciprocal_root(float x) { return __frsqrt_rn(x); }
DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
DEVICE float maximum(float a, float b, float c) { return fmaxf(fmaxf(a, b), c); }
DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float uniform_constant(float value) { return value; }
DEVICE void loads_begin() {}
DEVICE float from_lane(float value, int lane) { return __shfl_sync(0xffffffff, value, lane); }
DEVICE int anew(int value) { return value; }
template <class... Values>
DEVICE void ask_for(Values...) {}
DEVICE int opaque(int value) { return value; }
template <class T>
DEVICE T uniform(T value) {
  return value;
}
DEVICE bool any_of_wave(bool value) { return __any_sync(0xffffffff, value); }

using Chunk = int4;

// Vectors must lie at multiples of their size, so that elsewhere pieces are moved.
template <int UNIT>
struct Pieces;
template <>
struct Pieces<4> {
  int values[4];
};
template <>
struct Pieces<2> {
  short values[8];
};

template <int UNIT>
DEVICE Chunk load_anywhere(const void* from) {
  if (reinterpret_cast<unsigned long long>(from) % 16 == 0) return *static_cast<const Chunk*>(from);
  union {
    Pieces<UNIT> pieces;
    Chunk chunk;
  };
#pragma unroll
  for (int i = 0; i < 16 / UNIT; i++) pieces.values[i] = static_cast<const Pieces<UNIT>*>(from)->values[i];
  return chunk;
}

template <int UNIT>
DEVICE void store_anywhere(void* to, Chunk value) {
  if (reinterpret_cast<unsigned long long>(to) % 16 == 0) {
    *static_cast<Chunk*>(to) = value;
    return;
  }
  union {
    Chunk chunk;
    Pieces<UNIT> pieces;
  };
  chunk = value;
#pragma unroll
  for (int i = 0; i < 16 / UNIT; i++) static_cast<Pieces<UNIT>*>(to)->values[i] = pieces.values[i];
}

class Buffer {
 public:
  static constexpr unsigned REACH = 0x7fffffff, NOWHERE = 0x80000000;

  DEVICE explicit Buffer(const void* base, unsigned bytes = REACH)
      : base_(static_cast<const char*>(base)), end_(bytes), places_(bytes < 16 ? 0 : bytes - 15) {}
  DEVICE Chunk load(unsigned offset, int uniform = 0) const {
    return offset >= end_ ? Chunk{0, 0, 0, 0} : *reinterpret_cast<const Chunk*>(base_ + uniform + offset);
  }
  template <int UNIT>
  DEVICE Chunk load_anywhere(unsigned offset) const {
    return offset >= places_ ? Chunk{0, 0, 0, 0} : ::load_anywhere<UNIT>(base_ + offset);
  }
  DEVICE int load_word(unsigned offset, int uniform = 0) const {
    return offset >= end_ ? 0 : *reinterpret_cast<const int*>(base_ + uniform + offset);
  }
  DEVICE void store(Chunk value, unsigned offset) const {
    if (offset < NOWHERE) *reinterpret_cast<Chunk*>(const_cast<char*>(base_) + offset) = value;
  }
  DEVICE void store_word(int value, unsigned offset, int uniform = 0) const {
    if (offset < NOWHERE) *reinterpret_cast<int*>(const_cast<char*>(base_) + uniform + offset) = value;
  }

 private:
  const char* base_;
  unsigned end_, places_;  // past the last byte; where a whole chunk may begin
};

#endif

DEVICE int lane_of_wave() { return lane_of_workgroup() % WAVE_LANES; }
// The wave's number in its workgroup.
DEVICE unsigned wave_of_workgroup() { return uniform(lane_of_workgroup() / WAVE_LANES); }

constexpr DEVICE unsigned divide_up(unsigned value, unsigned by) { return (value + by - 1) / by; }

// A value that all lanes share, kept in LDS (to be __shared__) while nothing needs it: scalar registers are few. All
// lanes put it there, so that none has to wait for another.
template <class V>
struct Kept {
  static constexpr int COUNT = sizeof(V) / sizeof(int);
  union Words {
    V value;
    int words[COUNT];
  };

  DEVICE void put(const V& value) {
    const Words from{value};
#pragma unroll
    for (int i = 0; i < COUNT; i++) words[i] = from.words[i];
  }
  DEVICE V take() const {
    Words to;
#pragma unroll
    for (int i = 0; i < COUNT; i++) to.words[i] = uniform(words[i]);
    return to.value;
  }

  int words[COUNT];
};
