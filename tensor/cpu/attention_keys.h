// Where the sums of the forward pass begin and end. They go by position, not by slot: the keys of a row are cut into runs, and the
// lane a key adds to, the step and the piece it belongs to follow from its position alone. So a query meets its keys in one order and
// one grouping whether they are a row of its own, a document somewhere in a packed row, or a cache, before and after it wraps.
#pragma once
#include "tensor/cpu/attention_tile.h"

namespace facet::cpu::FACET_TIER {

constexpr int32_t hidden_trunk = INT32_MIN;  ///< what no query's trunk is called

/// Consecutive slots with consecutive positions of one segment that do not cross a multiple of key_block positions: one step of the
/// online softmax. A branch that leaves its trunk between such multiples takes the trunk's last run along: its first run begins with
/// those keys, and they are hidden from branches where they stand.
struct Run {
  int32_t begin, end;  ///< slots; those from S on are slots 0, 1, .. of a ring that goes on there
  int32_t position;    ///< of the first key
  int32_t segment;
  int32_t via;         ///< what the trunk of a query that sees it is called: `segment` or hidden_trunk
  int32_t trunk_begin = 0, trunk_count = 0;  ///< slots of the trunk that come before `begin`

  FACET_INLINE int64_t count() const { return trunk_count + (end - begin); }
  FACET_INLINE int64_t last() const { return position + count() - 1; }
  /// Some query of the panel may see some key.
  FACET_INLINE bool met_by(const QueryRange& q) const {
    const bool own = segment >= q.segment_lo && segment <= q.segment_hi, trunk = via >= q.trunk_lo && via <= q.trunk_hi;
    return last() >= q.lo_min && position <= q.hi_max && (own || trunk);
  }
  /// Every query of the panel sees every key.
  FACET_INLINE bool open_to(const QueryRange& q) const { return q.sees(position, last(), segment, via); }
  /// How far the first key lies behind a multiple of n positions.
  FACET_INLINE int lead(int n) const { return position % n; }
  /// Without the keys at either end that no query of the panel sees; begin and end count from the first key of this run.
  FACET_INLINE Run within(const QueryRange& q) const {
    const int64_t before = q.lo_min - position, behind = last() - q.hi_max;
    Run r{0, static_cast<int32_t>(count()), position, segment, via};
    if (before > 0) r.begin += static_cast<int32_t>(before), r.position += static_cast<int32_t>(before);
    if (behind > 0) r.end -= static_cast<int32_t>(behind);
    return r;
  }
};

/// The runs of every row, in the order in which they are summed, and where pieces begin among them.
class Runs {
 public:
  FACET_INLINE static int64_t bytes(const Geometry& g) {
    return Workspace::size<Run>(g.B * g.S) + Workspace::size<int32_t>(g.B * (g.S + 1)) + Workspace::size<int32_t>(g.B);
  }
  Runs(const Geometry& g, Workspace& space)
      : runs_(space.take<Run>(g.B * g.S)), opens_(space.take<int32_t>(g.B * (g.S + 1))), counts_(space.take<int32_t>(g.B)), S_(g.S) {
    parallel_for(g.B, 1, g.S, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) find(g, b);
    });
    for (int64_t b = 0; b < g.B; ++b) most_pieces_ = counts_[b] > most_pieces_ ? counts_[b] : most_pieces_;
  }

  FACET_INLINE int64_t pieces(int64_t b) const { return counts_[b]; }
  FACET_INLINE int64_t most_pieces() const { return most_pieces_; }
  FACET_INLINE const Run* begin(int64_t b, int64_t piece) const { return runs_ + b * S_ + opens_[b * (S_ + 1) + piece]; }
  FACET_INLINE const Run* end(int64_t b, int64_t piece) const { return begin(b, piece + 1); }

 private:
  void find(const Geometry& g, int64_t b) {
    // A cache holds one sequence, and its ring goes on from the end to slot 0: it is walked from the oldest key on.
    int64_t oldest = 0;
    if (!g.x.k_segments) {
      int64_t least = INT64_MAX;
      for (int64_t s = 0; s < g.S; s += step(g, b, s, g.S - s)) {
        const int64_t position = g.k_position(b, s);
        if (position >= 0 && position < least) least = position, oldest = s;
      }
    }
    int32_t* const opens = opens_ + b * (S_ + 1);
    int32_t n = 0, pieces = 0;
    int64_t at = -1;
    for (int64_t i = 0; i < g.S;) {
      const int64_t s = oldest + i < g.S ? oldest + i : oldest + i - g.S;
      const int64_t position = g.k_position(b, s), some = step(g, b, s, g.S - i);
      if (position >= 0) {
        if (position / piece != at) opens[pieces++] = n;
        at = position / piece;
        const auto segment = static_cast<int32_t>(g.k_segment(b, s));
        runs_[b * S_ + n++] = {static_cast<int32_t>(s), static_cast<int32_t>(s + some), static_cast<int32_t>(position), segment, segment};
      }
      i += some;
    }
    opens[pieces] = n;
    counts_[b] = pieces;
    // Only where every query's key is among the keys: a branch without keys has no run that could take the trunk's along.
    if (g.x.k_segments && g.x.k_segments.data == g.x.q_segments.data && g.S == g.T) join_branches(runs_ + b * S_, n);
  }
  static void join_branches(Run* runs, int32_t n) {
    for (int32_t i = 1; i < n; ++i)
      if (runs[i].segment < runs[i - 1].segment) return;  // in ascending order every segment stands in one place
    for (int32_t i = 0; i + 1 < n; ++i) {
      Run& tail = runs[i];
      const int64_t next = tail.last() + 1;
      if (tail.segment < 65536 || tail.segment != trunk_of(tail.segment) || next % key_block == 0) continue;
      const auto first_of_branch = [&](int32_t j) { return runs[j].segment != runs[j - 1].segment; };
      int32_t end = i + 1;
      bool alike = true;  // every branch goes on where the trunk ends
      for (; end < n && runs[end].segment != tail.segment && trunk_of(runs[end].segment) == tail.segment; ++end)
        alike &= !first_of_branch(end) || runs[end].position == next;
      if (!alike || end == i + 1) continue;
      for (int32_t j = i + 1; j < end; ++j)
        if (first_of_branch(j)) {
          runs[j].position = tail.position;
          runs[j].trunk_begin = tail.begin;
          runs[j].trunk_count = static_cast<int32_t>(tail.count());
        }
      tail.via = hidden_trunk;
    }
  }
  /// Slots of the run that begins at s, `most` at most, or 1 for an empty slot.
  FACET_INLINE static int64_t step(const Geometry& g, int64_t b, int64_t s, int64_t most) {
    const int64_t position = g.k_position(b, s), segment = g.k_segment(b, s);
    if (position < 0) return 1;
    if (most > key_block - position % key_block) most = key_block - position % key_block;
    const auto alike = [&](int64_t slot, int64_t next, int64_t n) {  // slots in a row that continue the run
      int64_t differ = 0, i = 0;
      for (; i < n; ++i) differ |= (g.k_position(b, slot + i) ^ (next + i)) | (g.k_segment(b, slot + i) ^ segment);
      if (differ)
        for (i = 0; g.k_position(b, slot + i) == next + i && g.k_segment(b, slot + i) == segment;) ++i;
      return i;
    };
    const int64_t here = most < g.S - s ? most : g.S - s, n = alike(s, position, here);
    return n == here ? n + alike(0, position + n, most - here) : n;
  }

  Run* runs_;
  int32_t *opens_, *counts_;
  int64_t S_, most_pieces_ = 0;
};

/// Rows of a run in a row: where they lie, or copied to `room` where they lie in two places.
template <class T>
FACET_INLINE const T* rows_in_order(const View& v, int64_t b, const Run& run, int64_t S, int64_t head, int64_t Dh, T* room, int64_t& ld) {
  if (run.end <= S && run.trunk_count == 0) {
    ld = v.stride.dim[1];
    return Geometry::row<T>(v, b, run.begin, head);
  }
  ld = Dh;
  for (int64_t i = 0; i < run.count(); ++i) {
    const int64_t own = run.begin + i - run.trunk_count, s = i < run.trunk_count ? run.trunk_begin + i : own < S ? own : own - S;
    __builtin_memcpy(room + i * Dh, Geometry::row<T>(v, b, s, head), static_cast<size_t>(Dh) * sizeof(T));
  }
  return room;
}

}  // namespace facet::cpu::FACET_TIER
