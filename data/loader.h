// Batches of a dataset. Which examples form the batch of a step is a pure function of (seed, step): a run resumes by knowing its step,
// and the order does not depend on threads or on how a batch is cut into micro-batches.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "data/dataset.h"
#include "tensor/tensor.h"

namespace facet {

/// [B, T] tensors of i32. The last token of a sequence is only a label, so a sequence of n tokens fills n-1 positions of its row;
/// the rest of the row is padding.
struct Batch {
  Tensor ids;        ///< padding: pad id
  Tensor labels;     ///< labels[t] is the token that follows ids[t]; -1 where there is no loss
  Tensor positions;  ///< from 0 in every document; -1 at padding
  Tensor segments;   ///< number of the document within its row, -1 at padding; absent unless rows hold several documents
  int64_t supervised = 0;         ///< labels >= 0
  int64_t tokens = 0;             ///< positions that are not padding
  std::vector<int64_t> examples;  ///< of the dataset, in row order
  struct Place { int64_t begin, end; };
  std::vector<Place> places;      ///< cells of examples[i] in [B*T]; where its prompt is shared, those of its branch: all of its labels
};

struct LoaderOptions {
  int64_t batch = 8;     ///< rows per step (of preference data: pairs)
  int64_t accum = 1;     ///< micro-batches a step is cut into
  uint64_t seed = 1;
  bool shuffle = true;   ///< a new order every epoch; else the file's
  bool pack = false;     ///< put several documents (or pairs) into a row of up to row_len positions
  int64_t row_len = 0;   ///< positions of a packed row; 0: the longest example (or pair)
  bool share = false;    ///< preference data: a pair is one row, its prompt once and both completions as branches (see make_batch)
  int64_t bucket = 1;    ///< rows of similar length share a batch: those of so many batches are sorted, the batches shuffled; 1: as they come
  int64_t pad_to = 1;    ///< rows are padded to a multiple of this
  int32_t pad_id = 0;
};

/// What a checkpoint keeps. The fingerprint tells whether a resumed run would still see the same batches.
struct LoaderState {
  int64_t step = 0;
  uint64_t fingerprint = 0;
};

/// Of one thread; several loaders may read one dataset at a time.
class Loader {
 public:
  /// The dataset must outlive the loader. Throws Error(Kind::usage) when an option makes no sense, Error(Kind::data) when the dataset is
  /// empty.
  Loader(const Dataset& data, const LoaderOptions& options);

  /// The micro-batches of a step, from 0. Epochs follow each other without a gap: a batch may end one and begin the next.
  std::vector<Batch> at(int64_t step) const;
  /// The batch of the cursor, which then moves on.
  std::vector<Batch> next() { return at(state_.step++); }

  const Dataset& data() const { return data_; }
  const LoaderOptions& options() const { return options_; }
  const LoaderState& state() const { return state_; }
  /// Throws Error(Kind::usage) when the state belongs to other data or options.
  void restore(const LoaderState&);

  int64_t rows() const { return static_cast<int64_t>(rows_.size()); }  ///< per epoch
  int64_t steps_per_epoch() const { return (rows() + options_.batch - 1) / options_.batch; }
  double epoch(int64_t step) const { return static_cast<double>(step * options_.batch) / static_cast<double>(rows()); }
  /// Share of positions that are padding over one epoch in this seed's first order.
  double padding() const;

 private:
  std::vector<int64_t> rows_of(int64_t step) const;
  std::vector<int64_t> order_of(int64_t epoch) const;
  void sort_into_batches(std::vector<int64_t>& order, int64_t epoch) const;
  const Dataset& data_;
  LoaderOptions options_;
  LoaderState state_;
  std::vector<std::vector<int64_t>> rows_;  // examples of each row
  std::vector<int64_t> lengths_;            // and its positions (of a pair in two rows: of the longer one); empty unless there are buckets
  mutable int64_t epoch_ = -1;              // whose order is held
  mutable std::vector<int64_t> order_;
};

/// All examples once and in order, for evaluation: batches of at most `batch` rows (of preference data: pairs).
std::vector<Batch> batches_in_order(const Dataset&, int64_t batch, int32_t pad_id = 0, int64_t pad_to = 1, bool share = false);

/// One batch of chosen rows; each row is a list of examples. Rows with several examples get segments.
///
/// `share`: each row holds pairs (neighbours with one prompt of P tokens), and what they have in common is computed once:
///
///     cell      0 ... P-2          P-1 ... a-1             a ... b-1
///     token     p0 ... p[P-2]      p[P-1] c0 c1 ...        p[P-1] r0 r1 ...       both branches begin with the prompt's last token,
///     label     -                  c0 c1 ... c[n]          r0 r1 ... r[m]         because the row it makes predicts c0 in one, r0 in
///     position  0 ... P-2          P-1 P ...               P-1 P ...              the other
///     segment   k << 16            k << 16 | 1             k << 16 | 2            a trunk and its branches, k from 1 in every row
///
/// P is as far as the ids agree and nothing is learned, so pairs with different prompts come out right too, only slower.
Batch make_batch(const Dataset&, std::span<const std::vector<int64_t>> rows, int32_t pad_id = 0, int64_t pad_to = 1, bool share = false);

}  // namespace facet
