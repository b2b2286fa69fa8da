// y = pwl(act(dw(act(pw(x) + b_pw)) + b_dw)) + b_pwl + residual on channels-last memory, summed in float32: MobileNetV2's
// block with a 3x3 depthwise convolution. What lies between the convolutions is rounded to x's type, as it would be in
// memory, and lies in LDS or in registers.
#include "panels.h"
#include "windows.h"

// A workgroup makes a patch of HEIGHT x WIDTH output pixels. `S` is the stride.
template <class T, int HEIGHT_, int WIDTH_, int N, int K, int S, int WAVES>
struct PatchTile : ChainTile<T, WAVES * 16, N, K, WAVES> {
  static constexpr int HEIGHT = HEIGHT_, WIDTH = WIDTH_, STRIDE = S, PIXELS = HEIGHT * WIDTH;
  static_assert(PIXELS <= WAVES * 16, "a wave has 16 pixels of the result");
  // The image under the patch: its windows overlap.
  static constexpr int IN_HEIGHT = (HEIGHT - 1) * S + 3, IN_WIDTH = (WIDTH - 1) * S + 3;
  static constexpr int TURNS = divide_up(IN_HEIGHT * IN_WIDTH, WAVES * 16);
  // Of a record: taps, then the second bias.
  static constexpr int TAPS = 9, EXTRA = TAPS * PANEL_ROW + SIDE<T> / 4;
};

// Where the chunks of an expanded pixel lie in LDS: rows of 64 bytes, in whose order eight neighbours touch each bank
// once.
DEVICE int place_of_pixel(int pixel, int chunk) { return pixel * PANEL_ROW + (chunk ^ pixel / 2 % 4); }

template <class Tile>
struct Patch {
  int image, row, column;  // the first pixel of the result
  DEVICE Patch(const Convolution& c) {
    const unsigned across = divide_up(c.out_width, Tile::WIDTH), down = divide_up(c.out_height, Tile::HEIGHT);
    const unsigned strip = workgroup() / across;
    column = uniform((workgroup() - strip * across) * Tile::WIDTH);
    image = uniform(strip / down);
    row = uniform((strip - image * down) * Tile::HEIGHT);
  }
};

// The pixels of the image under a patch, those past the image's ends left out: number `p` of `count`.
template <class Tile>
struct Under {
  int top, left, rows, columns, count;
  DEVICE Under(const Convolution& c, const Patch<Tile>& patch) {
    const int first_row = patch.row * Tile::STRIDE - c.pad_h, first_column = patch.column * Tile::STRIDE - c.pad_w;
    top = first_row < 0 ? 0 : first_row;
    left = first_column < 0 ? 0 : first_column;
    const int bottom = first_row + Tile::IN_HEIGHT, right = first_column + Tile::IN_WIDTH;
    rows = (bottom < c.height ? bottom : c.height) - top;
    columns = (right < c.width ? right : c.width) - left;
    count = rows * columns;
    above_ = top - first_row;
    before_ = left - first_column;
    of_columns_ = reciprocal(columns);
  }
  DEVICE int row(int p) const { return quotient(p, of_columns_); }
  // In the image, and in LDS.
  DEVICE int pixel(const Convolution& c, int p) const {
    const int down = row(p);
    return (top + down) * c.width + left + p - down * columns;
  }
  DEVICE int slot(int p) const {
    const int down = row(p);
    return (above_ + down) * Tile::IN_WIDTH + before_ + p - down * columns;
  }

 private:
  int above_, before_;
  float of_columns_;
};

// The depthwise convolution of 16 pixels and SIDE channels, as rows of the last product. `corner` is the slot of the
// first tap of this lane's pixel.
template <class Tile, class Record>
DEVICE void mix(typename Mma<typename Tile::T>::X (&made)[1], const Chunk* record, const Chunk* expanded,
                const int (&corners)[Mma<typename Tile::T>::X::COUNT], int act) {
  using T = typename Tile::T;
  using X = typename Mma<T>::X;
  constexpr int V = VECTOR<T>;
  float sums[X::COUNT * V];
#pragma unroll
  for (int v = 0; v < V; v += 4) {
    float bias[4];
    unpack<float>(record[Record::REST + Tile::TAPS * PANEL_ROW + (X::chunk() * V + v) / 4], bias);
#pragma unroll
    for (int i = 0; i < X::COUNT * 4; i++) sums[i / 4 * V + v + i % 4] = bias[i % 4];
  }
#pragma unroll
  for (int tap = 0; tap < Tile::TAPS; tap++) {
    float weights[V];
    unpack<T>(record[Record::REST + tap * PANEL_ROW + X::chunk()], weights);
#pragma unroll
    for (int c = 0; c < X::COUNT; c++) {
      float pixel[V];
      unpack<T>(expanded[place_of_pixel(corners[c] + tap / 3 * Tile::IN_WIDTH + tap % 3, X::chunk())], pixel);
#pragma unroll
      for (int v = 0; v < V; v++) sums[c * V + v] = __builtin_fmaf(pixel[v], weights[v], sums[c * V + v]);
    }
  }
  activate(sums, act);
#pragma unroll
  for (int c = 0; c < X::COUNT; c++) made[0].chunks[c] = pack<T>(sums + c * V);
}

// Adds the residual to the sums, and stores them: `pixel` gives the place in the result of a row, or -1.
template <class Tile, template <class> class Access, class Pixel>
DEVICE void finish_pixels(const Sums<Tile>& sums, Pixel pixel, const Finish<typename Tile::T>& with) {
  using T = typename Tile::T;
  using Block = typename Mma<T>::Block;
  constexpr int V = VECTOR<T>;
  const Access<T> residuals(with.residual, with.stride_residual, 0, 0), y(with.y, with.stride_y, 0, 0);
#pragma unroll
  for (int r = 0; r < Block::ROWS; r++) {
    const int at = pixel(Block::row(r));
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      const int column = j * SIDE<T> + Block::column(), valid = at < 0 ? 0 : with.n - column;
      float values[V];
#pragma unroll
      for (int v = 0; v < V; v++) values[v] = sums.blocks[0][j].value(r, v);
      if (with.residual) {
        float residual[V];
        unpack<T>(residuals.load(at, column, valid), residual);
#pragma unroll
        for (int v = 0; v < V; v++) values[v] += residual[v];
      }
      y.store(at, column, valid, values);
    }
  }
}

template <class Tile, template <class> class Access>
DEVICE void inverted_residual(const typename Tile::T* x, const Chunk* packed, const float* bias, const Convolution& c,
                              int steps, int act, Finish<typename Tile::T> with) {
  using T = typename Tile::T;
  using Matrix = Mma<T>;
  using X = typename Matrix::X;
  using Record = ::Record<Tile, Tile::EXTRA>;
  constexpr int SLOTS = Tile::IN_HEIGHT * Tile::IN_WIDTH;
  __shared__ Chunk record[Record::CHUNKS];
  __shared__ Chunk expanded[SLOTS * PANEL_ROW];
  Weights<Record, Tile::LANES> weights(packed);
  weights.load(0);
  const Patch<Tile> patch(c);
  const Under<Tile> under(c, patch);
  const Access<T> pixels(x, c.channels, patch.image * c.height * c.width, 0);
  // Waves have 16 pixels each in turn.
  X x_parts[Tile::TURNS][Tile::BLOCKS_K][1];
  int slots[Tile::TURNS][X::COUNT];
#pragma unroll
  for (int turn = 0; turn < Tile::TURNS; turn++) {
    const int first = turn * Tile::M + Tile::wave_row();
    take_rows<T>(x_parts[turn], [&](int row, int column) {
      const int p = first + row;
      return pixels.load(under.pixel(c, p), column, p < under.count ? c.channels - column : 0);
    });
#pragma unroll
    for (int i = 0; i < X::COUNT; i++) {
      const int p = first + X::row(i);
      slots[turn][i] = p < under.count ? under.slot(p) : -1;
    }
  }
  // Beside the image the convolution sees zeros, which no step writes over.
  for (int i = lane_of_workgroup(); i < SLOTS * PANEL_ROW; i += Tile::LANES) expanded[i] = Chunk{0, 0, 0, 0};
  int corners[X::COUNT];
#pragma unroll
  for (int i = 0; i < X::COUNT; i++) {
    const int p = Tile::wave_row() + X::row(i), within = p < Tile::PIXELS ? p : 0;
    corners[i] = within / Tile::WIDTH * Tile::STRIDE * Tile::IN_WIDTH + within % Tile::WIDTH * Tile::STRIDE;
  }
  Sums<Tile> sums;
  begin<Access>(sums, bias, 0, with.n);
  weights.put(record);
  lds_barrier();
#pragma unroll 1
  for (int step = 0;; step++) {
    const bool more = step + 1 < steps;
    if (more) weights.load(step + 1);
#pragma unroll
    for (int turn = 0; turn < Tile::TURNS; turn++) {
      if (turn * Tile::M < under.count) {  // for all waves
        Reader<T> panels(record);
        X made[1];
        between<Tile, Record>(made, x_parts[turn], record, panels, act);
#pragma unroll
        for (int i = 0; i < X::COUNT; i++) {
          if (slots[turn][i] >= 0) expanded[place_of_pixel(slots[turn][i], X::chunk())] = made[0].chunks[i];
        }
      }
    }
    lds_barrier();
    X made[1];
    mix<Tile, Record>(made, record, expanded, corners, act);
    Reader<T> panels(record + Tile::BLOCKS_K * PANEL<T>);
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      multiply_panel<T>([&](int i) -> auto& { return sums.blocks[i][j]; }, made,
                        panels.take(j + 1 < Tile::BLOCKS_N ? j + 1 : j));
    }
    if (!more) break;
    lds_barrier();
    weights.put(record);
    lds_barrier();
  }
  with.y += static_cast<long long>(patch.image) * c.out_height * c.out_width * with.n;
  if (with.residual) with.residual += static_cast<long long>(patch.image) * c.out_height * c.out_width * with.n;
  finish_pixels<Tile, Access>(
      sums,
      [&](int row) {
        const int p = Tile::wave_row() + row, at_row = patch.row + p / Tile::WIDTH, at = patch.column + p % Tile::WIDTH;
        const bool exists = p < Tile::PIXELS && at_row < c.out_height && at < c.out_width;
        return exists ? at_row * c.out_width + at : -1;
      },
      with);
}

// Kernels are named operator_dtype_HEIGHTxWIDTHxSTRIDExNxKwWAVES, HEIGHT and WIDTH being those of a patch of pixels, with
// `_any` where no alignment is assumed, and take up to N output channels and K channels. Arguments: x [batch, height,
// width, channels], the packed weights and how many records there are, the last bias float32 or null, residual and y
// [batch, out_height, out_width, out_channels], residual or null; sizes; an Activation. Images are below 2 GB.
// Workgroups: a patch each.
#define INVERTED(NAME, T, HEIGHT, WIDTH, S, N, K, WAVES, OCCUPANCY, ACCESS)                                           \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                \
  NAME(const T* x, const Chunk* packed, const float* bias, const T* residual, T* y, int batch, int height, int width, \
       int channels, int out_height, int out_width, int out_channels, int pad_h, int pad_w, int steps, int act) {     \
    const Convolution convolution{batch, height, width, channels, out_height, out_width, 3, 3, S, S, pad_h, pad_w};   \
    inverted_residual<PatchTile<T, HEIGHT, WIDTH, N, K, S, WAVES>, ACCESS>(                                           \
        x, packed, bias, convolution, steps, act,                                                                     \
        {nullptr, residual, y, 0, out_channels, out_channels, out_channels, NONE});                                   \
  }
#define ALIGNED(T, HEIGHT, WIDTH, S, N, K, WAVES, OCCUPANCY)                                                     \
  INVERTED(inverted_residual_##T##_##HEIGHT##x##WIDTH##x##S##x##N##x##K##w##WAVES, T, HEIGHT, WIDTH, S, N, K, WAVES, \
           OCCUPANCY, AlignedTile)
#define ANY(T, HEIGHT, WIDTH, S, N, K, WAVES, OCCUPANCY)                                                     \
  INVERTED(inverted_residual_##T##_##HEIGHT##x##WIDTH##x##S##x##N##x##K##w##WAVES##_any, T, HEIGHT, WIDTH, S, N, K, \
           WAVES, OCCUPANCY, AnyTile)

// MobileNetV2's widths: maps of 56, 28, 14 and 7 are made of patches of 7 x 7, that of 56 also of 8 x 8.
#define HALVES(T)                          \
  ALIGNED(T, 8, 8, 1, 32, 32, 4, 2)        \
  ALIGNED(T, 7, 7, 1, 32, 32, 4, 2)        \
  ALIGNED(T, 7, 7, 2, 32, 32, 4, 2)        \
  ALIGNED(T, 7, 7, 2, 64, 32, 4, 2)        \
  ALIGNED(T, 7, 7, 1, 64, 64, 4, 2)        \
  ALIGNED(T, 7, 7, 1, 96, 64, 4, 2)        \
  ALIGNED(T, 7, 7, 1, 96, 96, 4, 2)        \
  ALIGNED(T, 7, 7, 2, 160, 96, 4, 2)       \
  ALIGNED(T, 7, 7, 1, 160, 160, 4, 2)      \
  ANY(T, 7, 7, 1, 32, 32, 4, 2)            \
  ANY(T, 7, 7, 2, 32, 32, 4, 2)
HALVES(float16)
HALVES(bfloat16)

// float32 on sm: its blocks are no rows of another product.
#if defined(__HIP__)
ALIGNED(float32, 8, 8, 1, 32, 32, 4, 2)
ALIGNED(float32, 7, 7, 2, 32, 32, 4, 2)
ALIGNED(float32, 7, 7, 2, 64, 32, 4, 2)
ALIGNED(float32, 7, 7, 1, 64, 64, 4, 2)
ALIGNED(float32, 7, 7, 1, 96, 96, 4, 2)
ANY(float32, 7, 7, 1, 32, 32, 4, 2)
ANY(float32, 7, 7, 2, 32, 32, 4, 2)
#endif
