#include "tensor/kernels/norm_rope_write.h"

#include "autograd/inference_ops.h"
#include "autograd/ops/rope.h"

namespace facet {
namespace {

constexpr const char* op = "norm_rope_write";

void check_ring(const char* name, const Tensor& ring, const Tensor& k) {
  if (!ring || ring.rank() != 4 || ring.dim(0) != k.dim(0) || ring.dim(2) != k.dim(2) || ring.dim(3) != k.dim(3) || ring.dtype() != k.dtype())
    fail(Kind::usage, "{}: {} {} {}, expected {} [{}, R, {}, {}] for k {}", op, name, ring ? name_of(ring.dtype()) : "absent", to_string(ring.shape()),
         name_of(k.dtype()), k.dim(0), k.dim(2), k.dim(3), to_string(k.shape()));
  if (ring.stride()[3] != 1 || ring.stride()[2] != ring.dim(3)) fail(Kind::usage, "{}: a slot of {} is not dense", op, name);
}

}  // namespace

Tensor norm_rope_write(const QueryKeyValue& x, double eps, const Tensor& positions, const RopeTable& table, const Rings& rings) {
  const OpScope scope(op);
  check_heads(op, "q", x.q, x.w_q, positions, table);
  check_heads(op, "k", x.k, x.w_k, positions, table);
  if (static_cast<bool>(x.w_q) != static_cast<bool>(x.w_k)) fail(Kind::usage, "{}: one of w_q and w_k is absent, expected both or neither", op);
  if (!x.v || !(x.v.shape() == x.k.shape()) || x.q.dtype() != x.k.dtype() || x.v.dtype() != x.k.dtype())
    fail(Kind::usage, "{}: q {} {}, k {} {}, v {} {}: expected one dtype, and v as k", op, name_of(x.q.dtype()), to_string(x.q.shape()), name_of(x.k.dtype()),
         to_string(x.k.shape()), x.v ? name_of(x.v.dtype()) : "absent", to_string(x.v.shape()));
  check_ring("keys", rings.keys, x.k);
  check_ring("values", rings.values, x.k);
  const Shape slots{rings.keys.dim(0), rings.keys.dim(1)};
  if (rings.values.dim(1) != slots[1] || !rings.slots || rings.slots.dtype() != DType::i32 || !(rings.slots.shape() == slots))
    fail(Kind::usage, "{}: keys {}, values {}, slots {} {}: expected as many slots in each, and slots i32", op, to_string(rings.keys.shape()),
         to_string(rings.values.shape()), rings.slots ? name_of(rings.slots.dtype()) : "absent", to_string(rings.slots.shape()));

  Tensor y = Tensor::empty(x.q.shape(), x.q.dtype(), x.q.device());
  const Tensor q = with_dense_rows(x.q), k = with_dense_rows(x.k), v = with_dense_rows(x.v), where = positions.detach().dense();
  if (k.numel() > 0)
    norm_rope_write({q.view(), k.view(), v.view(), x.w_q ? x.w_q.view() : View{}, x.w_k ? x.w_k.view() : View{}}, eps, where.view(),
                    rows_for(table, where, x.q.dtype()), y.out(), {rings.keys.out(), rings.values.out(), rings.slots.out()});
  attach_no_gradient(op, {&y}, {&x.q, &x.k, &x.v, &x.w_q, &x.w_k});
  return y;
}

}  // namespace facet
