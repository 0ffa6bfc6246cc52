#include "train/policy_batch.h"

#include <algorithm>

namespace facet {
namespace {

// Sequences [begin, end) that must share a row.
struct Unit {
  size_t begin = 0, end = 0;
  int64_t length = 0;
};

std::vector<Unit> units_of(std::span<const PolicySequence> all, bool share) {
  std::vector<Unit> units;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto prompt = static_cast<int64_t>(all[i].prompt.size()), own = static_cast<int64_t>(all[i].completion.size());
    if (!share || i == 0 || all[i].group != all[i - 1].group) units.push_back({i, i, prompt - 1});
    units.back().end = i + 1;
    units.back().length += own;
  }
  return units;
}

// Each unit goes into the first row that has room for it.
std::vector<std::vector<Unit>> rows_of(const std::vector<Unit>& units, int64_t row_len) {
  std::vector<std::vector<Unit>> rows;
  std::vector<int64_t> room;
  for (const Unit& u : units) {
    size_t r = 0;
    while (r < rows.size() && room[r] < u.length) ++r;
    if (r == rows.size()) {
      rows.emplace_back();
      room.push_back(row_len);
    }
    rows[r].push_back(u);
    room[r] -= u.length;
  }
  return rows;
}

struct Writer {
  std::vector<int32_t>&ids, &positions, &segments, &labels;
  std::vector<int64_t>& which;
  size_t at;

  void put(int32_t id, size_t position, int32_t segment) {
    ids[at] = id;
    positions[at] = static_cast<int32_t>(position);
    segments[at] = segment;
    ++at;
  }
  // The prompt but for its last token.
  void trunk(const PolicySequence& s, int32_t segment) {
    for (size_t t = 0; t + 1 < s.prompt.size(); ++t) put(s.prompt[t], t, segment);
  }
  // The prompt's last token and the completion but for its own last one.
  void branch(const PolicySequence& s, int32_t segment) {
    for (size_t t = 0; t < s.completion.size(); ++t) {
      labels[at] = s.completion[t];
      which[at] = s.first + static_cast<int64_t>(t);
      put(t == 0 ? s.prompt.back() : s.completion[t - 1], s.prompt.size() - 1 + t, segment);
    }
  }
};

PolicyBatch batch_of(std::span<const PolicySequence> all, std::span<const std::vector<Unit>> rows, const PolicyLayout& o) {
  PolicyBatch b;
  int64_t T = 1;
  bool several = o.share_prompts;
  for (const auto& row : rows) {
    int64_t n = 0;
    for (const Unit& u : row) n += u.length;
    T = std::max(T, n);
    b.computed += n;
    several = several || row.size() > 1;
  }
  const auto B = static_cast<int64_t>(rows.size());
  const auto cells = static_cast<size_t>(B * T);
  std::vector<int32_t> ids(cells, o.pad_id), positions(cells, -1), segments(cells, -1), labels(cells, -1);
  b.which.assign(cells, -1);
  for (size_t r = 0; r < rows.size(); ++r) {
    Writer w{ids, positions, segments, labels, b.which, r * static_cast<size_t>(T)};
    int32_t document = 0;
    for (const Unit& u : rows[r]) {
      ++document;
      const int32_t trunk = o.share_prompts ? document << 16 : document;
      w.trunk(all[u.begin], trunk);
      for (size_t i = u.begin; i < u.end; ++i) w.branch(all[i], o.share_prompts ? trunk + 1 + static_cast<int32_t>(i - u.begin) : trunk);
    }
  }
  const Shape shape{B, T};
  b.tokens = {Tensor::from(ids, shape), Tensor::from(positions, shape), several ? Tensor::from(segments, shape) : Tensor{}};
  b.labels = Tensor::from(labels, shape);
  return b;
}

}  // namespace

std::vector<PolicyBatch> policy_batches(std::span<const PolicySequence> all, const PolicyLayout& o) {
  const auto rows = rows_of(units_of(all, o.share_prompts), o.row_len);
  const size_t count = std::min(rows.size(), static_cast<size_t>(std::max<int64_t>(1, o.accum)));
  std::vector<PolicyBatch> batches;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = rows.size() * i / count, end = rows.size() * (i + 1) / count;
    batches.push_back(batch_of(all, std::span(rows).subspan(begin, end - begin), o));
  }
  return batches;
}

}  // namespace facet
