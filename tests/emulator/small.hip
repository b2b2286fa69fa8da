// Small kernels for the tests of the Python API and of the command.

#pragma clang fp contract(off)

#define KERNEL extern "C" __attribute__((global))
#define SHARED __attribute__((shared))

typedef unsigned int u32;

static __attribute__((device)) u32 lane() { return __builtin_amdgcn_workitem_id_x(); }
static __attribute__((device)) u32 workgroup() { return __builtin_amdgcn_workgroup_id_x(); }
static __attribute__((device)) u32 item() { return workgroup() * __builtin_amdgcn_workgroup_size_x() + lane(); }

KERNEL void axpy(float a, const float* x, const float* y, float* out, int n) {
  if ((int)item() < n) out[item()] = a * x[item()] + y[item()];
}

// Each lane's position and the sizes, as the GPU tells them.
KERNEL void positions(u32* out) {
  const u32 sizes[3] = {__builtin_amdgcn_workgroup_size_x(), __builtin_amdgcn_workgroup_size_y(),
                        __builtin_amdgcn_workgroup_size_z()};
  const u32 groups[3] = {__builtin_amdgcn_grid_size_x() / sizes[0], __builtin_amdgcn_grid_size_y() / sizes[1],
                         __builtin_amdgcn_grid_size_z() / sizes[2]};
  const u32 group[3] = {__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(),
                        __builtin_amdgcn_workgroup_id_z()};
  const u32 local[3] = {__builtin_amdgcn_workitem_id_x(), __builtin_amdgcn_workitem_id_y(),
                        __builtin_amdgcn_workitem_id_z()};
  const u32 which = (group[2] * groups[1] + group[1]) * groups[0] + group[0];
  const u32 within = (local[2] * sizes[1] + local[1]) * sizes[0] + local[0];
  u32* mine = out + (which * sizes[0] * sizes[1] * sizes[2] + within) * 6;
  for (int axis = 0; axis < 3; ++axis) {
    mine[axis] = group[axis];
    mine[3 + axis] = local[axis];
  }
}

// When each workgroup ran.
KERNEL void turns(u32* counter, u32* turn) {
  if (lane() == 0) turn[workgroup()] = __atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED);
}

// Sums arrays whose addresses lie in memory.
KERNEL void sum_of(const float* const* arrays, int count, float* out) {
  float sum = 0;
  for (int k = 0; k < count; ++k) sum += arrays[k][lane()];
  out[lane()] = sum;
}

struct Affine {
  float scale;
  short shift;
};
KERNEL void affine(Affine by, const int* x, float* out) { out[lane()] = by.scale * (float)x[lane()] + (float)by.shift; }

KERNEL void numbers(char a, short b, int c, long d, _Float16 e, float f, double g, double* out) {
  const double all[7] = {(double)a, (double)b, (double)c, (double)d, (double)e, f, g};
  for (int k = 0; k < 7; ++k) out[k] = all[k];
}

// The second wave takes what the first has left in LDS; a barrier is missing.
KERNEL void missing_barrier(const float* x, float* out) {
  SHARED static float left[128];
  left[lane()] = x[lane()];
  out[lane()] = left[lane() % 64];
}

KERNEL void reversed(const float* x, float* out, int n) {
  extern SHARED float values[];
  values[lane()] = x[lane()];
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
  out[lane()] = values[n - 1 - (int)lane()];
}

KERNEL void wait_for(const volatile int* flag) {
  while (*flag == 0) {
  }
}
