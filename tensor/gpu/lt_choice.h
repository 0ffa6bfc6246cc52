// The choice among cuBLASLt's algorithms, kept: which was fastest for a problem, per GPU and version of the library, in
// $XDG_CACHE_HOME/facet (or ~/.cache/facet). The file is text with a checksum; one that cannot be read costs a warning and is measured anew.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>

namespace facet::gpu {

/// What decides which algorithm is best; numbers in the order of lt.cpp.
struct LtKey {
  std::array<int64_t, 20> v{};
  bool operator==(const LtKey&) const = default;
};
struct LtKeyHash {
  size_t operator()(const LtKey& k) const {
    uint64_t h = 1469598103934665603u;
    for (int64_t x : k.v) h = (h ^ static_cast<uint64_t>(x)) * 1099511628211u;
    return h ^ (h >> 29);
  }
};

struct LtChoice {
  std::array<uint64_t, 8> algorithm{};  ///< cublasLtMatmulAlgo_t
  size_t workspace_bytes = 0;
  double seconds = 0;
};

/// One file. Saving merges with what other processes wrote meanwhile.
class LtChoices {
 public:
  /// An empty path keeps choices in memory only.
  explicit LtChoices(std::string path);
  const LtChoice* find(const LtKey&) const;
  /// Some choice for a problem of which `like` is true; null: none.
  template <class F>
  const LtChoice* find_if(F&& like) const {
    for (const auto& [key, choice] : map_)
      if (like(key)) return &choice;
    return nullptr;
  }
  void add(const LtKey&, const LtChoice&);
  bool unsaved() const { return unsaved_ > 0; }
  /// Failures are warnings.
  void save();

 private:
  using Map = std::unordered_map<LtKey, LtChoice, LtKeyHash>;
  static Map read(const std::string& path);
  std::string path_;
  Map map_;
  int unsaved_ = 0;
};

/// The file for a GPU and a version of a library, or empty when there is no folder for caches.
std::string lt_choices_path(const std::string& gpu, const std::string& version, const std::string& library = "cublaslt");

}  // namespace facet::gpu
