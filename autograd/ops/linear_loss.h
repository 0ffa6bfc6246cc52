// The loss head shared by everything that is a function of single rows of logits: logits h w^T go by in blocks of rows and are
// turned into their own gradient in place, so [N, V] is never held. A loss is a functor from what it needs of a row
// (log-sum-exp, the label's logit, the mean) to its value and three derivatives; kernels/logit_rows.h has the formula.
// Cross-entropy and log-probabilities (autograd/ops.h) are two such functors; a policy-gradient trainer passes its own.
#pragma once
#include <span>

#include "autograd/tape.h"
#include "tensor/pool_vector.h"
#include "tensor/tensor.h"

namespace facet {

/// How products become logits: z = cap * tanh(h w^T / cap) / temperature; cap 0: none.
struct LogitForm {
  double cap = 0;
  double temperature = 1;
  bool mean = false;  ///< the loss reads LogitRow::mean
};

/// What a loss sees of row n.
struct LogitRow {
  double lse;    ///< log sum_v exp(z_v)
  double label;  ///< z of the label; label - lse is the log-probability
  double mean;   ///< of z over the vocabulary; 0 unless the form asks for it
};

/// What it answers: its value is the functor's own affair (it may sum or store it), the derivatives go into dlogits.
struct RowGrad {
  double lse = 0, label = 0, mean = 0;
};

/// A borrowed callable RowGrad(int64_t n, const LogitRow&), called once per row in ascending order by one thread.
class RowLoss {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, RowLoss>)
  RowLoss(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* o, int64_t n, const LogitRow& z) { return (*static_cast<std::remove_reference_t<F>*>(o))(n, z); }) {}
  RowGrad operator()(int64_t n, const LogitRow& z) const { return call_(object_, n, z); }

 private:
  void* object_;
  RowGrad (*call_)(void*, int64_t, const LogitRow&);
};

/// The head's checked arguments; borrows the tensors.
struct LinearHead {
  /// h [.., D] (leading dimensions that collapse without a copy), w [V, D] of h's dtype or bf16 under f32, labels i32 [..]
  /// contiguous. Throws Error(Kind::usage) naming `op` otherwise, or when a label is >= V.
  LinearHead(const char* op, const Tensor& h, const Tensor& w, const Tensor& labels, const LogitForm& form);

  View h, w;  // [N, D], [V, D]
  std::span<const int32_t> labels;
  LogitForm form;
  int64_t N, D, V;
  DType acc;  ///< of logits and their gradient

  /// Rows with a label >= 0 that `keep` (absent: all) does not refuse.
  template <class Keep>
  pool_vector<int64_t> rows(Keep keep) const {
    pool_vector<int64_t> r;
    r.reserve(N);
    for (int64_t n = 0; n < N; ++n)
      if (labels[n] >= 0 && keep(n)) r.push_back(n);
    return r;
  }

  /// Calls the loss for the given rows (ascending). With both destinations null: values only, one product instead of three;
  /// with one null, its product is skipped. dh [N, D] in h's dtype (rows not listed: zero, or untouched when accumulating),
  /// dw [V, D] in `acc`.
  void run(std::span<const int64_t> rows, RowLoss loss, Out dh = {}, Out dw = {}) const;

  /// The head as root of the tape: values, dh and dw in one pass, then backward from h. Values only when nothing is traced.
  void run_backward(const Tensor& h, const Tensor& w, std::span<const int64_t> rows, RowLoss loss) const;

  /// The gradients into the sinks of h and w; touches none when there is no row.
  void run_sinks(std::span<const int64_t> rows, RowLoss loss, Sink& dh, Sink& dw) const;
};

/// Rows of logits held at a time for n rows and V words: a function of the two numbers alone.
int64_t linear_loss_chunk(int64_t n, int64_t V);

}  // namespace facet
