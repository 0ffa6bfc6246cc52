// What operations that turn heads check and look up alike.
#pragma once
#include "autograd/ops/rows.h"
#include "tensor/rope_table.h"

namespace facet {

/// x, called `name`, is [B, T, H, Dh] of the table's Dh; w, if present, fits it; positions are i32 [B, T].
inline void check_heads(const char* op, const char* name, const Tensor& x, const Tensor& w, const Tensor& positions, const RopeTable& table) {
  check_floating(op, name, x);
  if (x.rank() != 4 || x.dim(3) != table.head_dim())
    fail(Kind::usage, "{}: {} {}, expected [B, T, H, Dh] with the table's Dh = {}", op, name, to_string(x.shape()), table.head_dim());
  if (w) check_norm_weight(op, x, w);
  if (!positions || positions.dtype() != DType::i32 || !(positions.shape() == Shape{x.dim(0), x.dim(1)}))
    fail(Kind::usage, "{}: positions {} {}, expected i32 [{}, {}] for {} {}", op, positions ? name_of(positions.dtype()) : "absent",
         to_string(positions.shape()), x.dim(0), x.dim(1), name, to_string(x.shape()));
}

/// Positions on the GPU are not read: the table reaches as far as their number, and further where somebody reserved more.
inline RopeRows rows_for(const RopeTable& table, const Tensor& positions, DType dtype) {
  if (positions.device() == Device::cpu) return table.rows(positions.data<int32_t>(), acc_dtype(dtype));
  table.reserve(positions.dim(1));
  return table.gpu_rows();
}

}  // namespace facet
