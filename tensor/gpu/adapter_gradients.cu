// Both gradients of an adapter's second matrix from one pass over dy, by the tensor cores: dt = scale dy B, dB (+)= dy^T t.
//
// Bound by reading dy, 2 N O bytes, once. A block takes a tile of it, 64 columns for each of its 1 to 6 warps, and walks down its rows, 32 at a
// time, through three or four stages of shared memory: 24 to 48 KB are under way for each processor. A warp keeps for its columns B, as operands
// of mma.sync, and the sums of dB in registers. Of a stage it reads its columns twice, as they lie for dt and turned for dB. Its share of dt goes
// back to where dy was, and is added up from there over the warps in their order.
//
// The tile's dt (over its columns) and dB (over its rows) are parts, in f32: written, and added up by a second kernel in an order that only their
// number decides. r is padded to R = 8, 16 or 32; a tile of M x C costs 8 R (M + C) bytes for its parts, written and read, against 2 M C for dy.
// To keep 132 processors busy M and C are about the root of N O / 132, so that parts cost, in units of dy, predicted:
//
//   N x O             2048 x 1536  2048 x 13824  16384 x 1152  16384 x 13824
//   R = 8                    0.47          0.15          0.17           0.10
//   R = 16                   0.94          0.30          0.33           0.21
//   R = 32                      -          0.59          0.67           0.42
//
// Two products read dy once more, 1 in these units: where the pass costs more than that they are called instead (adapter_tile). So they are for r
// beyond 32, whose sums of dB would also fill the registers, and whose multiplications take mma.sync as long as reading dy takes.
#include "tensor/gpu/adapter_gradients.h"

#include "tensor/gpu/launch.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu {
namespace {

constexpr int step_rows = adapter_rows, warp_columns = adapter_columns, most_warps = adapter_most_warps, most_stages = 4;
constexpr int pitch = warp_columns + 8;        // of a warp's columns in a stage: eight rows on different banks
constexpr int slice = step_rows * pitch;       // elements of it
constexpr const char* op = "adapter_gradients";

struct Adapter {
  const bf16 *dy, *b, *t;
  int64_t dy_row, b_row, b_column, t_row;
  int64_t rows, columns, rank;
  int64_t tile_rows, strips;  // strips: of columns
  float *dt, *db;             // parts: [strips][rows][R], [strips of rows][columns][R]
};

// Elements of t's rows in a stage, and floats of a row of dt where dy was.
template <int R>
inline constexpr int t_pitch = R == 8 ? 8 : R + 8;
template <int R>
inline constexpr int part_pitch = R == 8 ? 8 : R == 16 ? 24 : 36;

template <int R>
constexpr int stage_elements(int warps) {
  return warps * slice + step_rows * t_pitch<R>;
}
constexpr int stages_of(int warps) { return warps <= 4 ? 4 : 3; }

template <int R>
__global__ __launch_bounds__(most_warps * 32) void adapter_parts(Adapter g) {
  static_assert(step_rows * part_pitch<R> * sizeof(float) <= slice * sizeof(bf16));
  constexpr int n8 = R / 8;
  FACET_DYNAMIC_SHARED(bf16, shared);
  const int warps = static_cast<int>(blockDim.x) / 32, warp = warp_id(), lane = lane_id();
  const int stages = stages_of(warps), stage_size = stage_elements<R>(warps);
  const int64_t strip = int64_t{blockIdx.x} % g.strips, row_strip = int64_t{blockIdx.x} / g.strips;
  const int64_t m0 = row_strip * g.tile_rows, c0 = (strip * warps + warp) * warp_columns;
  const int64_t rows = g.rows - m0 < g.tile_rows ? g.rows - m0 : g.tile_rows;
  const int64_t steps = (rows + step_rows - 1) / step_rows;

  // This warp's columns of 32 rows, and with all warps together the rows of t.
  auto fill = [&](int64_t step) {
    if (step < steps) {
      bf16* const to = shared + step % stages * stage_size;
      const int64_t m = m0 + step * step_rows;
#pragma unroll
      for (int j = 0; j < step_rows / 4; ++j) {
        const int row = j * 4 + lane / 8, column = lane % 8 * 8;
        const bool valid = m + row < g.rows && c0 + column < g.columns;
        copy_async16(to + warp * slice + row * pitch + column, valid ? g.dy + (m + row) * g.dy_row + c0 + column : g.dy, valid);
      }
      for (int i = static_cast<int>(threadIdx.x); i < step_rows * n8; i += static_cast<int>(blockDim.x)) {
        const int row = i / n8, column = i % n8 * 8;
        const bool valid = m + row < g.rows && column < g.rank;
        copy_async16(to + warps * slice + row * t_pitch<R> + column, valid ? g.t + (m + row) * g.t_row + column : g.t, valid);
      }
    }
    copy_async_commit();
  };
  for (int s = 0; s + 1 < stages; ++s) fill(s);

  uint32_t fb[4][n8][2];  // B of this warp's columns, 16 and 16 of them
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int j = 0; j < n8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int64_t o = c0 + k * 16 + e * 8 + lane % 4 * 2 + i, c = j * 8 + lane / 4;
          if (o < g.columns && c < g.rank) word |= static_cast<uint32_t>(g.b[o * g.b_row + c * g.b_column].bits) << (16 * i);
        }
        fb[k][j][e] = word;
      }

  const int row8 = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;  // which row of which of four 8 x 8 matrices this lane names
  float db[4][n8][4] = {};
  for (int64_t step = 0; step < steps; ++step) {
    if (stages == most_stages) copy_async_wait<most_stages - 2>();
    else copy_async_wait<most_stages - 3>();
    sync_block();  // the stage is complete for all, and the one before it is free
    fill(step + stages - 1);
    bf16* const stage = shared + step % stages * stage_size;
    bf16* const own = stage + warp * slice;

    float dt[2][n8][4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t fa[4];
        ldmatrix_x4(fa, own + (i * 16 + low + row8) * pitch + k * 16 + high);
#pragma unroll
        for (int j = 0; j < n8; ++j) mma_bf16(dt[i][j], fa, fb[k][j]);
      }
    uint32_t ft[n8][4];  // eight columns of t: rows 0-7, 8-15, 16-23, 24-31
#pragma unroll
    for (int j = 0; j < n8; ++j) ldmatrix_x4_trans(ft[j], stage + warps * slice + lane * t_pitch<R> + j * 8);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t fa[4];
        ldmatrix_x4_trans(fa, own + (i * 16 + high + row8) * pitch + m * 16 + low);
#pragma unroll
        for (int j = 0; j < n8; ++j) {
          const uint32_t b[2] = {ft[j][i * 2], ft[j][i * 2 + 1]};
          mma_bf16(db[m][j], fa, b);
        }
      }

    sync_warp();  // all lanes have read this warp's columns: dt takes their place
    float* const parts = reinterpret_cast<float*>(own);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < n8; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const Pack<float, 2> pair{{dt[i][j][h * 2], dt[i][j][h * 2 + 1]}};
          store_pack(parts + (i * 16 + h * 8 + lane / 4) * part_pitch<R> + j * 8 + lane % 4 * 2, pair);
        }
    sync_block();  // the shares of all warps are there
    for (int i = static_cast<int>(threadIdx.x); i < step_rows * (R / 4); i += static_cast<int>(blockDim.x)) {
      const int row = i / (R / 4), column = i % (R / 4) * 4;
      const int64_t m = m0 + step * step_rows + row;
      if (m >= g.rows) continue;
      Pack<float, 4> sum = load_pack<float, 4>(reinterpret_cast<const float*>(stage) + row * part_pitch<R> + column);
      for (int w = 1; w < warps; ++w) {
        const Pack<float, 4> more = load_pack<float, 4>(reinterpret_cast<const float*>(stage + w * slice) + row * part_pitch<R> + column);
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[e] += more[e];
      }
      store_pack(g.dt + (strip * g.rows + m) * R + column, sum);
    }
  }
  copy_async_wait<0>();
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t o = c0 + m * 16 + h * 8 + lane / 4;
      if (o >= g.columns) continue;
#pragma unroll
      for (int j = 0; j < n8; ++j) {
        const Pack<float, 2> pair{{db[m][j][h * 2], db[m][j][h * 2 + 1]}};
        store_pack(g.db + (row_strip * g.columns + o) * R + j * 8 + lane % 4 * 2, pair);
      }
    }
}

// A result whose parts are added up: [count][packs of 4].
struct Parts {
  const float* from;
  int64_t count, packs;
  void* to;
  int64_t row, column;
};
constexpr int sum_threads = 256, side_by_side = 8, sums_of_block = sum_threads / side_by_side;

// A thread adds every eighth part of four sums; the eight threads of a sum lie 4 lanes apart.
__device__ inline Pack<float, 4> sum_of_parts(const Parts& p, int64_t pack) {
  constexpr int ahead = 4;
  Pack<float, 4> sum = {};
  for (int64_t first = lane_id() / 4; first < p.count; first += ahead * side_by_side) {
    Pack<float, 4> part[ahead];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int64_t v = first + u * side_by_side;
      part[u] = pack < p.packs && v < p.count ? load_pack<float, 4>(p.from + (v * p.packs + pack) * 4) : Pack<float, 4>{};
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] += part[u][e];
  }
#pragma unroll
  for (int m = 16; m >= 4; m /= 2)
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[e] += shfl_xor(sum[e], m);
  return sum;
}

// The first blocks_of_dt blocks are dt's. A row has row_packs packs, of which those of `rank` columns are wanted.
__global__ __launch_bounds__(sum_threads) void adapter_sums(Parts dt, Parts db, unsigned blocks_of_dt, int row_packs, int64_t rank, float scale,
                                                            bool accumulate) {
  const bool first = blockIdx.x < blocks_of_dt;
  const Parts p = first ? dt : db;
  const int64_t pack = int64_t{blockIdx.x - (first ? 0 : blocks_of_dt)} * sums_of_block + warp_id() * 4 + lane_id() % 4;
  const Pack<float, 4> sum = sum_of_parts(p, pack);
  const int64_t row = pack / row_packs, column = pack % row_packs * 4;
  if (lane_id() >= 4 || pack >= p.packs || column >= rank) return;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int64_t at = row * p.row + (column + e) * p.column;
    if (first) put(static_cast<bf16*>(p.to) + at, scale * sum[e], false);
    else put(static_cast<float*>(p.to) + at, sum[e], accumulate);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <int R>
void run(const View& dy, const View& b, const View& t, double scale, const Out& dt, const Out& db, AdapterTile tile) {
  const int64_t N = dy.shape[0], O = dy.shape[1], r = t.shape[1];
  const int64_t strips = ceil_div(O, tile.columns), row_strips = ceil_div(N, tile.rows);
  const Scratch space(sizeof(float) * static_cast<size_t>(R * (strips * N + row_strips * O)), "parts of an adapter's gradients");
  float *const dt_parts = space.as<float>(), *const db_parts = dt_parts + R * strips * N;
  const int warps = static_cast<int>(tile.columns / warp_columns);
  const Adapter g{dy.as<bf16>(), b.as<bf16>(), t.as<bf16>(), dy.stride[0], b.stride[0], b.stride[1], t.stride[0], N, O, r,
                  tile.rows,     strips,       dt_parts,     db_parts};
  launch(op, adapter_parts<R>, static_cast<unsigned>(strips * row_strips), static_cast<unsigned>(warps * 32),
         sizeof(bf16) * static_cast<size_t>(stages_of(warps) * stage_elements<R>(warps)), g);
  const auto parts = [](const float* from, int64_t count, const Out& to) {
    return Parts{from, count, to.shape[0] * (R / 4), to.as<void>(), to.stride[0], to.stride[1]};
  };
  const Parts x = parts(dt_parts, strips, dt), w = parts(db_parts, row_strips, db);
  const unsigned x_blocks = blocks_for(x.packs, sums_of_block, INT32_MAX), w_blocks = blocks_for(w.packs, sums_of_block, INT32_MAX);
  launch(op, adapter_sums, x_blocks + w_blocks, sum_threads, 0, x, w, x_blocks, R / 4, r, static_cast<float>(scale), db.accumulate);
}

}  // namespace

void adapter_pass(const View& dy, const View& b, const View& t, double scale, const Out& dt, const Out& db, AdapterTile tile) {
  const int R = adapter_padded(t.shape[1]);
  (R == 8 ? run<8> : R == 16 ? run<16> : run<32>)(dy, b, t, scale, dt, db, tile);
}

}  // namespace facet::gpu
