#include "tensor/kernels/embedding.h"

#include "autograd/ops.h"
#include "autograd/ops/rows.h"

namespace facet {
namespace {

struct EmbeddingGrad {
  Saved ids;
  double scale;
  void operator()(Grads dy, Sinks dx) {
    if (dx[0]) embedding_backward(ids.view(), dy[0].view(), scale, dx[0].zeroed());
  }
};

}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& table, double scale, DType compute) {
  const OpScope scope("embedding");
  check_floating("embedding", "table", table);
  if (table.rank() != 2) fail(Kind::usage, "embedding: table {}, expected [V, D]", to_string(table.shape()));
  if (!ids || ids.dtype() != DType::i32)
    fail(Kind::usage, "embedding: ids are {}, expected i32", ids ? name_of(ids.dtype()) : "absent");
  if (compute == DType::i32 || acc_dtype(compute) != acc_dtype(table.dtype()))
    fail(Kind::usage, "embedding: a {} table cannot feed {} activations: cast the table", name_of(table.dtype()), name_of(compute));
  const Tensor list = ids.detach().dense();
  if (list.device() == Device::cpu) {  // on the GPU an id out of range reads a row of NaN
    const auto id = list.data<int32_t>();
    const int64_t v = table.dim(0);
    for (size_t n = 0; n < id.size(); ++n)
      if (id[n] < 0 || id[n] >= v) fail(Kind::usage, "embedding: id {} at position {} is not in a table of {} rows", id[n], n, v);
  }
  Shape shape = ids.shape();
  if (shape.rank == max_rank) fail(Kind::usage, "embedding: ids {} have too many dimensions", to_string(ids.shape()));
  shape.push(table.dim(1));
  Tensor y = Tensor::empty(shape, compute, table.device());
  if (y.numel() > 0) embedding(list.view(), with_dense_rows(table).view(), scale, y.out());
  if (tracing(table)) attach("embedding", {&y}, {&table}, EmbeddingGrad{list, scale});
  return y;
}

}  // namespace facet
