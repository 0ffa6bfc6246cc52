#include "data/loader.h"

#include <algorithm>
#include <numeric>

#include "data/shuffle.h"

namespace facet {

namespace {

// A run of positions of one example: the cell of token t predicts token t + 1.
struct Piece {
  int64_t example, begin, end;
  int32_t segment;
  bool trunk = false;  // computed for the branches that follow; no example's own
};

int64_t positions_of(const Dataset& data, int64_t example) { return static_cast<int64_t>(data[example].ids.size()) - 1; }

// Positions at the beginning of two examples that can be computed once: their ids and the tokens they would predict agree, and
// nothing is learned of them.
int64_t common_positions(const Dataset::View& a, const Dataset::View& b) {
  const size_t most = std::min(a.ids.size(), b.ids.size()) - 1;
  size_t n = 0;
  while (n < most && a.ids[n] == b.ids[n] && a.ids[n + 1] == b.ids[n + 1] && !a.mask[n + 1] && !b.mask[n + 1]) ++n;
  return static_cast<int64_t>(n);
}

// The pieces of a row, in order.
std::vector<Piece> lay_out(const Dataset& data, const std::vector<int64_t>& row, bool share) {
  std::vector<Piece> r;
  if (!share) {
    for (const int64_t example : row) r.push_back({example, 0, positions_of(data, example), static_cast<int32_t>(r.size())});
  } else {
    for (size_t i = 0; i + 1 < row.size(); i += 2) {
      const int64_t chosen = row[i], rejected = row[i + 1], n = common_positions(data[chosen], data[rejected]);
      const auto trunk = static_cast<int32_t>(i / 2 + 1) << 16;
      if (n > 0) r.push_back({chosen, 0, n, trunk, true});
      r.push_back({chosen, n, positions_of(data, chosen), trunk | 1});
      r.push_back({rejected, n, positions_of(data, rejected), trunk | 2});
    }
  }
  // Segments below 65,536 are plain documents, the others trunks (at most 32,767) and their branches.
  if (row.size() > 65'534) fail(Kind::usage, "{} examples in one row; at most 65,534 can be told apart", row.size());
  return r;
}

int64_t positions_of(const std::vector<Piece>& row) {
  int64_t n = 0;
  for (const Piece& p : row) n += p.end - p.begin;
  return n;
}

// First fit over units (examples, or pairs) sorted by length (ties by number): a row count near the minimum, and the same rows on every
// machine. Rows are searched through a tree of maxima, so that a million short documents take seconds.
std::vector<std::vector<int64_t>> pack_units(const std::vector<int64_t>& positions, int64_t row_len) {
  const auto n = static_cast<int64_t>(positions.size());
  const auto need_of = [&](int64_t unit) { return positions[static_cast<size_t>(unit)]; };
  std::vector<int64_t> order(positions.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return need_of(a) > need_of(b); });
  size_t leaves = 1;
  while (leaves < static_cast<size_t>(n)) leaves *= 2;
  std::vector<int64_t> room(2 * leaves, row_len);  // room[1] is the root; a node holds the largest room below it
  std::vector<std::vector<int64_t>> rows;
  for (const int64_t unit : order) {
    const int64_t need = need_of(unit);
    size_t node = 1;
    while (node < leaves) node = room[2 * node] >= need ? 2 * node : 2 * node + 1;
    const size_t row = node - leaves;
    if (row == rows.size()) rows.emplace_back();
    rows[row].push_back(unit);
    room[node] -= need;
    while (node /= 2) room[node] = std::max(room[2 * node], room[2 * node + 1]);
  }
  // Units of a row in file order.
  for (auto& row : rows) std::sort(row.begin(), row.end());
  std::sort(rows.begin(), rows.end());
  return rows;
}

uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x100000001b3u; }

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Unless its prompt is shared, a pair of preference data is two rows of the batch.
std::vector<std::vector<int64_t>> apart(std::span<const std::vector<int64_t>> rows) {
  std::vector<std::vector<int64_t>> r;
  for (const auto& row : rows)
    for (const int64_t example : row) r.push_back({example});
  return r;
}

}  // namespace

Batch make_batch(const Dataset& data, std::span<const std::vector<int64_t>> rows, int32_t pad_id, int64_t pad_to, bool share) {
  Batch b;
  int64_t length = 1;
  bool several = false;
  std::vector<std::vector<Piece>> pieces;
  for (const auto& row : rows) {
    pieces.push_back(lay_out(data, row, share));
    length = std::max(length, positions_of(pieces.back()));
    several = several || pieces.back().size() > 1;
  }
  length = round_up(length, pad_to);
  const auto batch = static_cast<int64_t>(rows.size());
  const auto cells = static_cast<size_t>(batch * length);
  std::vector<int32_t> ids(cells, pad_id), labels(cells, -1), positions(cells, -1), segments(cells, -1);
  for (size_t r = 0; r < rows.size(); ++r) {
    size_t at = r * static_cast<size_t>(length);
    for (const Piece& piece : pieces[r]) {
      const auto v = data[piece.example];
      if (!piece.trunk) {
        b.examples.push_back(piece.example);
        b.places.push_back({static_cast<int64_t>(at), static_cast<int64_t>(at) + piece.end - piece.begin});
      }
      for (auto t = static_cast<size_t>(piece.begin); t < static_cast<size_t>(piece.end); ++t, ++at) {
        ids[at] = v.ids[t];
        positions[at] = static_cast<int32_t>(t);
        segments[at] = piece.segment;
        ++b.tokens;
        if (v.mask[t + 1]) {
          labels[at] = v.ids[t + 1];
          ++b.supervised;
        }
      }
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
  if (options.bucket < 1 || options.pad_to < 1) fail(Kind::usage, "bucket {} and pad_to {} must be at least 1", options.bucket, options.pad_to);
  if (options.bucket > 1 && !options.shuffle) fail(Kind::usage, "buckets need shuffling: their batches come in a random order");
  if (options.share && data.group() != 2) fail(Kind::usage, "prompts are shared between the completions of preference data; {} is none", data.path());
  std::vector<std::vector<int64_t>> units;  // what stays together
  for (int64_t i = 0; i < data.size(); i += data.group()) {
    units.emplace_back();
    for (int64_t g = 0; g < data.group(); ++g) units.back().push_back(i + g);
  }
  if (options.pack) {
    std::vector<int64_t> positions;
    for (const auto& unit : units) positions.push_back(positions_of(lay_out(data, unit, options.share)));
    const int64_t longest = *std::max_element(positions.begin(), positions.end());
    const int64_t row_len = options.row_len > 0 ? options.row_len : longest;
    if (row_len < longest)
      fail(Kind::usage, "packed rows of {} positions are shorter than the longest {}, {}", row_len, data.group() > 1 ? "pair" : "example", longest);
    for (const auto& row : pack_units(positions, row_len)) {
      rows_.emplace_back();
      for (const int64_t unit : row) rows_.back().insert(rows_.back().end(), units[static_cast<size_t>(unit)].begin(), units[static_cast<size_t>(unit)].end());
    }
  } else {
    rows_ = std::move(units);
  }
  if (options.bucket > 1)
    for (const auto& row : rows_) {
      const auto rows_of_batch = options.pack || options.share ? std::vector<std::vector<int64_t>>(1, row) : apart({&row, 1});
      lengths_.push_back(0);
      for (const auto& r : rows_of_batch) lengths_.back() = std::max(lengths_.back(), positions_of(lay_out(data, r, options.share)));
    }
  uint64_t h = 0xcbf29ce484222325u;
  if (options.bucket > 1) h = mix(h, static_cast<uint64_t>(options.bucket));
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

// Batches of rows of similar length. The batch that the epoch before began and the one that the next will end keep their rows.
void Loader::sort_into_batches(std::vector<int64_t>& order, int64_t epoch) const {
  const int64_t batch = options_.batch, head = std::min((batch - epoch * rows() % batch) % batch, rows()), count = (rows() - head) / batch;
  const auto at = [&](int64_t b) { return order.begin() + head + b * batch; };
  const auto length = [&](int64_t row) { return lengths_[static_cast<size_t>(row)]; };
  for (int64_t b = 0; b < count; b += options_.bucket)
    std::stable_sort(at(b), at(std::min(b + options_.bucket, count)), [&](int64_t x, int64_t y) { return length(x) > length(y); });
  if (count == 0) return;
  const std::vector<int64_t> sorted(at(0), at(count)), turn = shuffled(count, options_.seed, ShuffleUse::batches, static_cast<uint64_t>(epoch));
  for (int64_t b = 0; b < count; ++b) std::copy_n(sorted.begin() + turn[static_cast<size_t>(b)] * batch, batch, at(b));
}

std::vector<int64_t> Loader::order_of(int64_t epoch) const {
  std::vector<int64_t> order(rows_.size());
  std::iota(order.begin(), order.end(), 0);
  if (options_.shuffle) order = shuffled(rows(), options_.seed, ShuffleUse::epoch, static_cast<uint64_t>(epoch));
  if (options_.bucket > 1) sort_into_batches(order, epoch);
  return order;
}

std::vector<int64_t> Loader::rows_of(int64_t step) const {
  std::vector<int64_t> r;
  for (int64_t i = 0; i < options_.batch; ++i) {
    const int64_t place = step * options_.batch + i, epoch = place / rows();
    if (epoch != epoch_) {
      order_ = order_of(epoch);
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
    const auto part = std::span(rows).subspan(begin, end - begin);
    micro.push_back(options_.pack || options_.share ? make_batch(data_, part, options_.pad_id, options_.pad_to, options_.share)
                                                    : make_batch(data_, apart(part), options_.pad_id, options_.pad_to));
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

std::vector<Batch> batches_in_order(const Dataset& data, int64_t batch, int32_t pad_id, int64_t pad_to, bool share) {
  if (batch < 1 || pad_to < 1) fail(Kind::usage, "batch {} and pad_to {} must be at least 1", batch, pad_to);
  std::vector<Batch> r;
  const int64_t step = batch * data.group(), apiece = share ? 2 : 1;
  for (int64_t from = 0; from < data.size(); from += step) {
    std::vector<std::vector<int64_t>> rows;
    for (int64_t i = from; i < std::min(from + step, data.size()); i += apiece) {
      rows.emplace_back();
      for (int64_t k = 0; k < apiece; ++k) rows.back().push_back(i + k);
    }
    r.push_back(make_batch(data, rows, pad_id, pad_to, share));
  }
  return r;
}

}  // namespace facet
