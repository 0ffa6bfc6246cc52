// Adapters folded into a model's weights and taken out again, folder to folder, one tensor in memory at a time.
//
//   LoRA       W' = W + s B A                                     [O, I] + [O, r] [r, I]
//   DoRA       W'_o = m_o (W + s B A)_o / ||(W + s B A)_o||       row by row
//   embedding  W' = W + s (B A)^T                                 [V, D]; adapters leave a tied head alone, so it
//   becomes its own
//
// Products and sums are f64, a few rows at a time, and the result is rounded once to what the base is stored in: its
// error is half a unit in the last place (ulp), which the report compares with the update. Memory: the largest tensor
// of the base as stored, the adapter, and merge_working_bytes. What a folder was fused from stands in the header of its
// weights ("facet.merge.*"), so that it can be taken apart:
//   with the base     its very bytes, once its hash is the one on record
//   with the adapter  W = W' - s B A, off by at most 1 ulp of max(|W|, |W'|): half from each rounding. Not after DoRA,
//   which forgets
//                     the length of rows.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/gemma/peft.h"

namespace facet {

constexpr int64_t merge_working_bytes = int64_t{4} << 20;

/// How one matrix changed.
struct MergedModule {
  std::string path;  ///< "layers.0.self_attn.q_proj"
  int64_t elements = 0;
  int64_t touched = 0;  ///< elements that the adapter moves
  int64_t lost = 0;     ///< of those, how many came out as they were: the update is less than half an ulp
  double update = 0;    ///< largest |exact - old|
  double error = 0;     ///< largest |new - exact|; taken out without the base: at most so far from the base
  double ulps = 0;      ///< the same in ulps of the exact value; of max(|W|, |W'|) without the base
  double update_squares = 0, error_squares = 0;  ///< sums

  /// Root mean square of the error in terms of that of the update: 0.01 is 1% of what was learnt.
  double drift() const;
  /// Both as one.
  void add(const MergedModule&);
};

struct MergeRecord {
  std::string base;       ///< hash_text of WeightHash::Of::values over the base
  std::string adapter;    ///< adapter_hash()
  std::string scale;      ///< s, or "least to most"
  bool own_head = false;  ///< the head was tied in the base
};

struct MergeReport {
  MergeRecord record;
  std::vector<MergedModule> modules;  ///< in the adapter's order
  uint64_t bytes = 0;                 ///< written
  uint64_t largest_tensor = 0;        ///< bytes
  MergedModule total() const;
};

/// `done` of `of` tensors written.
using MergeProgress = std::function<void(int64_t done, int64_t of)>;

/// CRC-32C over an adapter's tensors and scales, by module.
std::string adapter_hash(const AdapterFile&);
/// Of the weights in a folder, which are read one by one: base_hash() of the model that is loaded from it.
std::string folder_hash(const std::string& folder, WeightHash::Of);
/// What a folder was fused from; throws Error(Kind::file) when it is no merge.
MergeRecord merge_record(const std::string& folder);

/// Writes base + adapter: the base's files with the same tensors in the same shards, and merge.json, the report. The
/// folder appears complete or not at all. Throws Error(Kind::file) when adapter and base do not fit or a result is not
/// finite.
MergeReport merge_adapter(const std::string& base, const AdapterFile&, const std::string& out,
                          const MergeProgress& = {});
/// Copies the base that `merged` was fused from. Throws Error(Kind::file) with both hashes when `base` is another one.
MergeRecord unmerge_with_base(const std::string& merged, const std::string& base, const std::string& out);
/// Writes merged - adapter. Throws Error(Kind::file) with both hashes for another adapter, Error(Kind::usage) for DoRA.
MergeReport unmerge_with_adapter(const std::string& merged, const AdapterFile&, const std::string& out,
                                 const MergeProgress& = {});

/// The report as JSON: {"base", "adapter", "scale", "own_head", "total": {...}, "modules": [{...}]}.
std::string to_json(const MergeReport&);

}  // namespace facet
