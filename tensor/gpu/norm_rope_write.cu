// norm_rope_write. A launch in place of four: in decode the bytes (one token's q, k and v for each row) are nothing and the gaps between
// kernels, 1.5 us each, are all. Bound by memory where a prompt goes in: 4 bytes an element in bf16 and the table's rows, predicted 80% of copy
// rate. Heads lie as in norm_rope: those of q first, then k's, then v's, which are only carried over.
#include "tensor/kernels/norm_rope_write.h"

#include "tensor/gpu/turn_heads.h"

namespace facet::gpu {
namespace {

/// A ring by rows and slots; a slot is dense.
template <class T>
struct Ring {
  T* data;
  int64_t row, slot;
  explicit Ring(const Out& o) : data(o.as<T>()), row(o.stride[0]), slot(o.stride[1]) {}
  bool packable() const { return aligned16(data) && row % pack_of<T> == 0 && slot % pack_of<T> == 0; }
  __device__ inline T* at(int64_t b, int64_t s) const { return data + b * row + s * slot; }
};

template <class T>
struct Job {
  Heads q, k, v;
  int lanes;  // of a head
  int64_t length;  // slots of a ring
  const T *q_data, *k_data, *v_data;
  Weights w_q, w_k;
  float eps;
  const int32_t* positions;
  RopeRows table;
  T* y;
  Ring<T> keys, values;
  Ring<int32_t> slots;
};

enum class Part { q, k, v };

/// One of all heads: whose it is, where it is read and written.
template <class T>
struct Head {
  Part part;
  const T* x;
  T* y;  // null: padding of k and v, and heads beyond the last
  int32_t position;

  /// Head number r of the job. With `marks` the slots of k's tokens are told their positions here.
  __device__ inline Head(const Job<T>& a, int64_t r, bool marks)
      : part(r < a.q.n ? Part::q : r < a.q.n + a.k.n ? Part::k : Part::v), x(nullptr), y(nullptr), position(0) {
    if (r >= a.q.n + 2 * a.k.n) return;
    if (part == Part::q) {
      x = a.q_data + a.q.at(r);
      y = a.y + r * a.q.d;
      position = a.positions[r / a.q.h];
      return;
    }
    const int64_t mine = part == Part::k ? r - a.q.n : r - a.q.n - a.k.n, token = mine / a.k.h, head = mine % a.k.h;
    position = a.positions[token];
    if (position < 0) return;
    const int64_t b = token / a.k.t, slot = position % a.length;
    x = part == Part::k ? a.k_data + a.k.at(mine) : a.v_data + a.v.at(mine);
    y = (part == Part::k ? a.keys.at(b, slot) : a.values.at(b, slot)) + head * a.k.d;
    if (marks && part == Part::k && head == 0) *a.slots.at(b, slot) = position;
  }
};

// First in a kernel: it may have been started before q, k and v are there.
template <class T>
__device__ inline void wait_with_hints(const Job<T>& a) {
  let_next_start();
  if (threadIdx.x == 0) a.w_q.hint(a.q.d), a.w_k.hint(a.q.d);
  wait_for_previous();
}

template <class T, bool norm>
__global__ void __launch_bounds__(row_threads) write_heads(Job<T> a) {
  wait_with_hints(a);
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) & (a.lanes - 1);
  const Head<T> to(a, thread / a.lanes, lane == 0);
  HeadLane<T> head(to.x, lane, a.q.half, to.y);
  if (to.y && to.part != Part::v) head.load_angles(table_row(a.table, to.position));
  if constexpr (norm) {
    const float root = inverse_root(lanes_sum(head.squares(), a.lanes), a.q.d, a.eps);
    if (to.part == Part::q) head.scale(root, a.w_q);
    else if (to.part == Part::k) head.scale(root, a.w_k);
  }
  if (!to.y) return;
  if (to.part != Part::v) {
    head.turn_into(to.y, 1, false);
  } else {
    store_pack(to.y + head.i, head.first);
    store_pack(to.y + head.j, head.second);
  }
}

// Heads that do not fit packs: a warp a head.
template <class T, bool norm>
__global__ void __launch_bounds__(row_threads) write_heads_any(Job<T> a) {
  wait_with_hints(a);
  const Head<T> to(a, static_cast<int64_t>(blockIdx.x) * (row_threads / 32) + warp_id(), lane_id() == 0);
  if (!to.y) return;
  if (to.part != Part::v) {
    turn_by_warp<norm>(to.x, to.part == Part::q ? a.w_q : a.w_k, a.eps, table_row(a.table, to.position), 1, a.q.d, to.y, false);
  } else {
    for (int64_t i = lane_id(); i < a.q.d; i += 32) to.y[i] = to.x[i];
  }
}

template <class T, bool norm>
void run(const HeadProducts& x, double eps, const View& positions, const RopeRows& table, const Out& y, const RingOuts& rings) {
  Job<T> a{Heads(x.q),       Heads(x.k),        Heads(x.v),     0,
           rings.keys.shape[1], x.q.as<T>(),    x.k.as<T>(),    x.v.as<T>(),
           Weights(x.w_q),   Weights(x.w_k),    static_cast<float>(eps), positions.as<int32_t>(),
           table,            y.as<T>(),         Ring<T>(rings.keys), Ring<T>(rings.values),
           Ring<int32_t>(rings.slots)};
  const bool aligned = aligned16(a.q_data) && aligned16(a.k_data) && aligned16(a.v_data) && aligned16(a.y);
  if (aligned && a.keys.packable() && a.values.packable() && lanes_of<T>(a.k) && lanes_of<T>(a.v)) a.lanes = lanes_of<T>(a.q);
  const int64_t heads = a.q.n + 2 * a.k.n, tokens = a.q.n / a.q.h;
  if (a.lanes) launch_for_rows(tokens, "norm_rope_write", write_heads<T, norm>, blocks_for(heads * a.lanes, row_threads, INT32_MAX), row_threads, 0, a);
  else launch_for_rows(tokens, "norm_rope_write", write_heads_any<T, norm>, blocks_for(heads, row_threads / 32, INT32_MAX), row_threads, 0, a);
}

}  // namespace

void norm_rope_write(const HeadProducts& x, double eps, View positions, RopeRows table, Out y, const RingOuts& rings) {
  const auto call = x.q.dtype == DType::bf16 ? x.w_q ? run<bf16, true> : run<bf16, false> : x.w_q ? run<float, true> : run<float, false>;
  call(x, eps, positions, table, y, rings);
}

}  // namespace facet::gpu
