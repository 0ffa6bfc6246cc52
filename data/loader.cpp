#include "data/loader.h"

#include <algorithm>
#include <numeric>

#include "data/shuffle.h"

namespace facet {

namespace {

int64_t positions_of(const Dataset& data, int64_t example) { return static_cast<int64_t>(data[example].ids.size()) - 1; }

// First fit over examples sorted by length (ties by number): a row count near the minimum, and the same rows on every machine.
// Rows are searched through a tree of maxima, so that a million short documents take seconds.
std::vector<std::vector<int64_t>> pack_rows(const Dataset& data, int64_t row_len) {
  const int64_t n = data.size();
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return positions_of(data, a) > positions_of(data, b); });
  size_t leaves = 1;
  while (leaves < static_cast<size_t>(n)) leaves *= 2;
  std::vector<int64_t> room(2 * leaves, row_len);  // room[1] is the root; a node holds the largest room below it
  std::vector<std::vector<int64_t>> rows;
  for (const int64_t example : order) {
    const int64_t need = positions_of(data, example);
    size_t node = 1;
    while (node < leaves) node = room[2 * node] >= need ? 2 * node : 2 * node + 1;
    const size_t row = node - leaves;
    if (row == rows.size()) rows.emplace_back();
    rows[row].push_back(example);
    room[node] -= need;
    while (node /= 2) room[node] = std::max(room[2 * node], room[2 * node + 1]);
  }
  // Examples of a row in file order.
  for (auto& row : rows) std::sort(row.begin(), row.end());
  std::sort(rows.begin(), rows.end());
  return rows;
}

uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x100000001b3u; }

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A preference row stands for two rows of the batch.
std::vector<std::vector<int64_t>> tensor_rows(std::span<const std::vector<int64_t>> rows, int64_t group) {
  if (group == 1) return {rows.begin(), rows.end()};
  std::vector<std::vector<int64_t>> r;
  for (const auto& row : rows)
    for (const int64_t example : row) r.push_back({example});
  return r;
}

}  // namespace

Batch make_batch(const Dataset& data, std::span<const std::vector<int64_t>> rows, int32_t pad_id, int64_t bucket) {
  Batch b;
  int64_t length = 1;
  bool several = false;
  for (const auto& row : rows) {
    int64_t n = 0;
    for (const int64_t example : row) n += positions_of(data, example);
    length = std::max(length, n);
    several = several || row.size() > 1;
  }
  length = round_up(length, bucket);
  const auto batch = static_cast<int64_t>(rows.size());
  const auto cells = static_cast<size_t>(batch * length);
  std::vector<int32_t> ids(cells, pad_id), labels(cells, -1), positions(cells, -1), segments(cells, -1);
  for (size_t r = 0; r < rows.size(); ++r) {
    size_t at = r * static_cast<size_t>(length);
    int32_t segment = 0;
    for (const int64_t example : rows[r]) {
      const auto v = data[example];
      for (size_t t = 0; t + 1 < v.ids.size(); ++t, ++at) {
        ids[at] = v.ids[t];
        positions[at] = static_cast<int32_t>(t);
        segments[at] = segment;
        ++b.tokens;
        if (v.mask[t + 1]) {
          labels[at] = v.ids[t + 1];
          ++b.supervised;
        }
      }
      ++segment;
      b.examples.push_back(example);
    }
  }
  const Shape shape{batch, length};
  b.ids = Tensor::from(ids, shape);
  b.labels = Tensor::from(labels, shape);
  b.positions = Tensor::from(positions, shape);
  if (several) b.segments = Tensor::from(segments, shape);
  return b;
}

Loader::Loader(const Dataset& data, const LoaderOptions& options) : data_(data), options_(options) {
  if (data.size() == 0) fail(Kind::data, "{}: no examples to make batches of", data.path());
  if (options.batch < 1 || options.accum < 1 || options.accum > options.batch)
    fail(Kind::usage, "batch {} cannot be cut into {} micro-batches", options.batch, options.accum);
  if (options.bucket < 1) fail(Kind::usage, "bucket {} must be at least 1", options.bucket);
  if (options.pack && data.group() > 1) fail(Kind::usage, "preference data cannot be packed");
  if (options.pack) {
    int64_t longest = 0;
    for (int64_t i = 0; i < data.size(); ++i) longest = std::max(longest, positions_of(data, i));
    const int64_t row_len = options.row_len > 0 ? options.row_len : longest;
    if (row_len < longest) fail(Kind::usage, "packed rows of {} positions are shorter than the longest example, {}", row_len, longest);
    rows_ = pack_rows(data, row_len);
  } else {
    for (int64_t i = 0; i < data.size(); i += data.group()) {
      rows_.emplace_back();
      for (int64_t g = 0; g < data.group(); ++g) rows_.back().push_back(i + g);
    }
  }
  uint64_t h = 0xcbf29ce484222325u;
  for (const uint64_t v : {static_cast<uint64_t>(options.batch), options.seed, uint64_t{options.shuffle}}) h = mix(h, v);
  h = mix(h, data.fingerprint());
  for (const auto& row : rows_) {
    h = mix(h, row.size());
    for (const int64_t example : row) h = mix(h, static_cast<uint64_t>(example));
  }
  state_.fingerprint = h;
}

void Loader::restore(const LoaderState& state) {
  if (state.step < 0) fail(Kind::usage, "loader state: step {} is negative", state.step);
  if (state.fingerprint != state_.fingerprint)
    fail(Kind::usage, "resume: the data, the tokenizer, the seed or the batch size differ from the saved run's (fingerprint {:016x}, now {:016x})",
         state.fingerprint, state_.fingerprint);
  state_ = state;
}

std::vector<int64_t> Loader::rows_of(int64_t step) const {
  std::vector<int64_t> r;
  for (int64_t i = 0; i < options_.batch; ++i) {
    const int64_t place = step * options_.batch + i, epoch = place / rows();
    if (epoch != epoch_) {
      if (options_.shuffle) {
        order_ = shuffled(rows(), options_.seed, ShuffleUse::epoch, static_cast<uint64_t>(epoch));
      } else if (order_.empty()) {
        order_.resize(rows_.size());
        std::iota(order_.begin(), order_.end(), 0);
      }
      epoch_ = epoch;
    }
    r.push_back(order_[static_cast<size_t>(place % rows())]);
  }
  return r;
}

std::vector<Batch> Loader::at(int64_t step) const {
  if (step < 0) fail(Kind::usage, "loader: step {} is negative", step);
  std::vector<std::vector<int64_t>> rows;
  for (const int64_t r : rows_of(step)) rows.push_back(rows_[static_cast<size_t>(r)]);
  std::vector<Batch> micro;
  for (int64_t a = 0; a < options_.accum; ++a) {
    const auto begin = static_cast<size_t>(options_.batch * a / options_.accum), end = static_cast<size_t>(options_.batch * (a + 1) / options_.accum);
    micro.push_back(make_batch(data_, tensor_rows(std::span(rows).subspan(begin, end - begin), data_.group()), options_.pad_id, options_.bucket));
  }
  return micro;
}

double Loader::padding() const {
  int64_t cells = 0, tokens = 0;
  for (int64_t step = 0; step < steps_per_epoch(); ++step)
    for (const Batch& b : at(step)) {
      cells += b.ids.numel();
      tokens += b.tokens;
    }
  return 1 - static_cast<double>(tokens) / static_cast<double>(cells);
}

std::vector<Batch> batches_in_order(const Dataset& data, int64_t batch, int32_t pad_id, int64_t bucket) {
  if (batch < 1 || bucket < 1) fail(Kind::usage, "batch {} and bucket {} must be at least 1", batch, bucket);
  std::vector<Batch> r;
  const int64_t step = batch * data.group();
  for (int64_t from = 0; from < data.size(); from += step) {
    std::vector<std::vector<int64_t>> rows;
    for (int64_t i = from; i < std::min(from + step, data.size()); ++i) rows.push_back({i});
    r.push_back(make_batch(data, rows, pad_id, bucket));
  }
  return r;
}

}  // namespace facet
