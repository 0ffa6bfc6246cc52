// The loss head shared by everything that is a function of single rows of logits: logits h w^T go by in blocks of rows and are
// turned into their own gradient in place, so [N, V] is never held. A loss is a functor from what it needs of a row
// (log-sum-exp, the label's logit, the mean) to its value and three derivatives; kernels/logit_rows.h has the formula.
// Cross-entropy and log-probabilities (autograd/ops.h) are two such functors; a policy-gradient trainer passes its own.
//
// On the GPU the rows that carry loss are filled up to one of few counts (LinearHead::count): masked text has another number of them in every
// batch, and for every new shape of a product cuBLASLt's algorithms would be timed, and a recorded head be another graph.
#pragma once
#include <array>
#include <span>

#include "autograd/tape.h"
#include "tensor/kernels/row_losses.h"
#include "tensor/pool_vector.h"
#include "tensor/tensor.h"

namespace facet {

/// How products become logits: z = cap * tanh(h w^T / cap) / temperature; cap 0: none.
struct LogitForm {
  double cap = 0;
  double temperature = 1;
  bool mean = false;   ///< the loss reads LogitRow::mean
  int64_t block = 0;   ///< rows of logits held at a time; 0: linear_loss_chunk()
  bool exact = false;  ///< logits of bf16 hidden states stay f32 on the GPU too, for losses of differences of log-probabilities
  bool operator==(const LogitForm&) const = default;
};

/// Rows of the list that LinearHead::run was given, the ones with numbers begin ... begin + count - 1 in it, filling ones included.
struct RowBlock {
  int64_t begin, count;
  View rows;     ///< i32 [count]: the rows themselves, where the statistics are; -1: one that only fills up
  double scale;  ///< 1 / temperature
  /// The part of a tensor [LinearHead::count() of the rows, ..] that belongs to them.
  Tensor of(const Tensor& t) const { return t.slice(0, begin, begin + count); }
};

/// A borrowed loss, of one of two kinds:
///
///   RowGrad f(int64_t n, const LogitRow&)        called once per row in ascending order by one thread. Its value is its own affair (it
///                                                may sum or store it). On the GPU the host waits once per block of rows.
///   void f(const RowBlock&, Out stats)           turns the statistics of a block into coefficients by kernels (kernels/row_losses.h),
///                                                on whatever device they are, and stores its values there: nobody waits. Rows that fill
///                                                up must get no gradient: weights of 0 or a dy of 0.
class RowLoss {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, RowLoss>)
  RowLoss(F&& f) : object_(const_cast<void*>(static_cast<const void*>(&f))) {
    using Object = std::remove_reference_t<F>;
    if constexpr (std::is_invocable_v<Object&, const RowBlock&, Out>)
      block_ = [](void* o, const RowBlock& b, const Out& stats) { (*static_cast<Object*>(o))(b, stats); };
    else
      row_ = [](void* o, int64_t n, const LogitRow& z) { return (*static_cast<Object*>(o))(n, z); };
  }
  bool by_kernels() const { return block_ != nullptr; }
  RowGrad operator()(int64_t n, const LogitRow& z) const { return row_(object_, n, z); }
  void operator()(const RowBlock& b, const Out& stats) const { block_(object_, b, stats); }

 private:
  void* object_;
  RowGrad (*row_)(void*, int64_t, const LogitRow&) = nullptr;
  void (*block_)(void*, const RowBlock&, const Out&) = nullptr;
};

/// The head's checked arguments; borrows the tensors.
struct LinearHead {
  /// h [.., D] (leading dimensions that collapse without a copy), w [V, D] of h's dtype or bf16 under f32, labels i32 [..]
  /// contiguous and on the CPU, wherever h and w are. Throws Error(Kind::usage) naming `op` otherwise, or when a label is >= V.
  LinearHead(const char* op, const Tensor& h, const Tensor& w, const Tensor& labels, const LogitForm& form);

  View h, w;  // [N, D], [V, D]
  std::span<const int32_t> labels;
  LogitForm form;
  int64_t N, D, V;
  DType acc;  ///< of statistics, dw, and (on the CPU, or when exact) logits
  Device device;

  /// Rows with a label >= 0 that `keep` (absent: all) does not refuse.
  template <class Keep>
  pool_vector<int64_t> rows(Keep keep) const {
    pool_vector<int64_t> r;
    r.reserve(N);
    for (int64_t n = 0; n < N; ++n)
      if (labels[n] >= 0 && keep(n)) r.push_back(n);
    return r;
  }

  /// How many rows are computed where n carry loss. On the CPU these; on the GPU up to a sixteenth more (below 256 rows: up to the next multiple
  /// of 16), but no more than there are. What fills up repeats the last row.
  int64_t count(int64_t n) const;

  /// Calls the loss for the given rows (ascending). With both destinations null: values only, one product instead of three;
  /// with one null, its product is skipped. dh [N, D] in h's dtype (rows not listed: zero, or untouched when accumulating),
  /// dw [V, D] in `acc`.
  void run(std::span<const int64_t> rows, RowLoss loss, Out dh = {}, Out dw = {}) const;
  /// The same with what it uploads made before, listed(rows) on the head's device: all that is left are kernels, so a loss of theirs can be recorded.
  void run(std::span<const int64_t> rows, const Tensor& list, RowLoss loss, Out dh, Out dw) const;
  /// i32 [3, count] on the CPU: the rows to read, their labels, the rows to write (-1: none).
  Tensor listed(std::span<const int64_t> rows) const;

  /// The head as root of the tape: values, dh and dw in one pass, then backward from h. Values only when nothing is traced.
  void run_backward(const Tensor& h, const Tensor& w, std::span<const int64_t> rows, RowLoss loss) const;

  /// The gradients into the sinks of h and w; touches none when there is no row.
  void run_sinks(std::span<const int64_t> rows, RowLoss loss, Sink& dh, Sink& dw) const;
};

/// A loss by kernels that is told what it must know of a row, and answers, in `side`; all else it is made of are a few numbers. So it can be recorded,
/// and replayed for other rows.
struct SideLoss {
  using Kernel = void (*)(const std::array<double, 6>& numbers, const RowBlock&, const Out& stats, const Out& side);
  Kernel kernel = nullptr;  ///< side: the block's part
  std::array<double, 6> numbers{};
  Tensor side;  ///< [count, ..], on the CPU before the pass
  bool answers = true;  ///< false: `side` is only read, and nobody waits for it
};

/// A head, the rows that carry loss, and the loss. Borrows h, w and the labels.
struct HeadTask {
  LinearHead head;
  pool_vector<int64_t> rows;
  SideLoss loss;

  /// Values, dh and dw into what is not null, with list = head.listed(rows) and side = loss.side on the head's device, which gets the answers.
  void run(const Tensor& list, const Tensor& side, Out dh, Out dw) const;
  /// As root of the tape (LinearHead::run_backward). The answers, on the CPU.
  Tensor run_backward(const Tensor& h, const Tensor& w) const;
  /// The answers alone, on the CPU: no gradient, nothing for the tape.
  Tensor values() const;
  /// What a pass has written into `side`, on the CPU: waits. Absent where the loss does not answer.
  Tensor answers(const Tensor& side) const;
};

struct CrossEntropyOptions;
/// Of linear_cross_entropy: `side` are the weights, then the losses.
HeadTask cross_entropy_task(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions&);
/// The sum of the losses that it answers with.
double total_loss(const Tensor& losses);

// A loss of log-probabilities that the host makes of all of them (a pair's margin, a sequence's ratio) takes two passes over the head: one
// that answers with them, and one that is told the loss's derivatives.
/// Answers with the log-probabilities of all labels, as f32 or f64.
HeadTask log_prob_task(const LinearHead&, DType);
/// The gradient alone, of a loss with derivative slopes[n] by the log-probability of row n's label. Rows where it is 0 cost nothing.
HeadTask log_prob_gradient_task(const LinearHead&, std::span<const double> slopes);

/// Rows of logits held at a time for n rows and V words of `bytes` bytes: a function of these numbers and the kind of device alone. On the
/// GPU a 32nd of its memory, at most 16,384 rows: dw is read and written once per block, which 4,096 rows make cheap beside the products.
int64_t linear_loss_chunk(int64_t n, int64_t V, Device = Device::cpu, int64_t bytes = 4);

}  // namespace facet
