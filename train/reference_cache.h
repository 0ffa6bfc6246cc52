// The reference's log-probabilities, computed once and kept in a small safetensors file: later runs over the same data with the same
// reference skip the pass, and no second copy of the weights is ever held.
//
//   tensors   one f64 [examples] per part ("train", "valid"): chosen, rejected, chosen, ... in the order of the data
//   metadata  format "facet reference log-probabilities 1"; data, reference: what they belong to
//
// A list may end early: the pass was stopped, and goes on there.
#pragma once
#include <map>
#include <optional>
#include <string>

#include "train/dpo.h"

namespace facet {

struct ReferenceCache {
  std::string data;       ///< fingerprint of the data, as text
  std::string reference;  ///< of the model that computed them
  std::map<std::string, LogProbs> parts;

  void save(const std::string& path) const;
  /// Nothing when there is no such file. Throws Error(Kind::file) naming both sides when it belongs to other data or another reference,
  /// or when what it holds cannot be right.
  static std::optional<ReferenceCache> load(const std::string& path, const std::string& data, const std::string& reference);
};

/// Looks examples up; `part` must outlive it, but need not be filled yet.
Reference cached_reference(const LogProbs& part);

}  // namespace facet
