// What clang expands into many instructions, each of which has to fit the others.

#define KERNEL extern "C" __attribute__((global))
#define DEVICE static __attribute__((device))

DEVICE unsigned item() { return __builtin_amdgcn_workgroup_id_x() * 64 + __builtin_amdgcn_workitem_id_x(); }

KERNEL void quotient_f32(const float* a, const float* b, float* out) { out[item()] = a[item()] / b[item()]; }
KERNEL void quotient_f64(const double* a, const double* b, double* out) { out[item()] = a[item()] / b[item()]; }
KERNEL void quotient_i64(const long* a, const long* b, long* out) { out[item()] = a[item()] / b[item()]; }
KERNEL void quotient_u32(const unsigned* a, const unsigned* b, unsigned* out) { out[item()] = a[item()] / b[item()]; }

// A function with an array in its frame, called from one that has its own.
DEVICE __attribute__((noinline)) int pick(const int* values, int which) {
  int doubled[16];
  for (int k = 0; k < 16; ++k) doubled[k] = 2 * values[k];
  return doubled[which & 15];
}
DEVICE __attribute__((noinline)) int pick_twice(const int* values, int which) {
  int squared[16];
  for (int k = 0; k < 16; ++k) squared[k] = values[k] * values[k];
  return pick(squared, which) + pick(values, which + 1);
}
KERNEL void frames(const int* x, int* out) {
  int mine[16];
  for (int k = 0; k < 16; ++k) mine[k] = x[item()] + k;
  out[item()] = pick_twice(mine, x[item()]);
}

// 64-bit constants whose low half has its top bit set.
KERNEL void wide_constants(const unsigned long* x, unsigned long* out, long* least) {
  out[item()] = x[item()] > 0x80000000ul ? 0xdeadbeeful : 0x123456789abul;
  least[item()] = (long)x[item()] < -0x80000000l ? -0x7fffffffl : 0x7fffffffl;
}

// A read of LDS between two barriers, its value first used after a loop; then LDS is overwritten. clang 15 moves the read
// to where its value is used, beyond the second barrier, unless `keep` stands before that.
template <typename Keep>
DEVICE void read_between_barriers(const unsigned* x, unsigned* out, int trips, Keep keep) {
  __attribute__((shared)) static unsigned values[128];
  const unsigned lane = __builtin_amdgcn_workitem_id_x();
  const auto barrier = [&] {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    keep();
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
  };
  values[lane] = x[lane];
  barrier();
  const unsigned read = values[lane % 64];
  barrier();
  unsigned sum = x[0];
  for (int k = 0; k < trips; ++k) sum = sum * sum + x[k];
  values[lane * 41 % 128] = sum;
  out[lane] = read;
}
KERNEL void late_read(const unsigned* x, unsigned* out, int trips) {
  read_between_barriers(x, out, trips, [] {});
}
KERNEL void kept_read(const unsigned* x, unsigned* out, int trips) {
  read_between_barriers(x, out, trips, [] { asm volatile("" ::: "memory"); });
}
