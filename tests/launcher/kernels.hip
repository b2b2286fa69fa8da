#define KERNEL extern "C" __attribute__((global))

// A lane's number along x in the grid.
static __attribute__((device)) int lane() {
  return __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
}

struct Line {
  double slope, offset;
};

// y = slope x + offset
KERNEL void line(const double* x, double* y, Line line, int n) {
  if (lane() < n) y[lane()] = line.slope * x[lane()] + line.offset;
}

// y = a x
KERNEL void scale(const float* x, float* y, float a, int n) {
  if (lane() < n) y[lane()] = a * x[lane()];
}

// An argument of every size, in an order that leaves gaps.
KERNEL void sizes(char a, long b, short c, double* out, float d) { out[0] = double(d) + a + b + c; }

KERNEL __attribute__((amdgpu_flat_work_group_size(1, 64))) void one_wave(int* y) { y[lane()] = lane(); }

// y[lane] = the lane's neighbour's number, passed through LDS; static and dynamic.
KERNEL void neighbour(int* y) {
  static __attribute__((shared)) int numbers[256];
  const int i = __builtin_amdgcn_workitem_id_x(), n = __builtin_amdgcn_workgroup_size_x();
  numbers[i] = i;
  __builtin_amdgcn_s_barrier();
  y[i] = numbers[(i + 1) % n];
}

__attribute__((device)) float table[4] = {1, 2, 4, 8};
__attribute__((device)) float* relocated = table;

// y = table, found through a relocation
KERNEL void constants(float* y) {
  const int i = __builtin_amdgcn_workitem_id_x();
  if (i < 4) y[i] = relocated[i];
}
