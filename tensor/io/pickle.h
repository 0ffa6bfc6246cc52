// A pickle read as data. Pickles are programs for a small stack machine; Python's own loads() runs them, and "call this function"
// is one of its instructions. Here the machine builds a picture of what the program would build: calls are recorded, never made.
// The instructions are those that torch.save writes for state dicts (protocol 2), the names those that its caller lists; any other
// ends the reading with Error(Kind::file) naming it.
// Source: Lib/pickletools.py; torch/_weights_only_unpickler.py for the choice of instructions.
#pragma once
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

/// One value; others are named by their index in Pickle::values().
struct PickleValue {
  enum class Type : uint8_t {
    none, boolean, integer, real, text,
    tuple, list,  ///< items
    dict,         ///< items: key, value, key, value, ...; an OrderedDict is one too
    global,       ///< text: "module.name"
    call,         ///< items: the global, the tuple of its arguments
    persistent,   ///< items: one value, by which the writer means something outside of the pickle
  };
  Type type = Type::none;
  int64_t integer = 0;  ///< also the boolean
  double real = 0;
  std::string_view text = {};  ///< points into the bytes that were read
  std::vector<uint32_t> items = {};
};

class Pickle {
 public:
  /// `bytes` must outlive this. `globals`: the names that may occur, "module.name"; collections.OrderedDict always may.
  /// At most 120,000 values, so that a file of n bytes costs at most 16 MiB + 2 n.
  Pickle(std::span<const uint8_t> bytes, const std::string& where, std::span<const std::string_view> globals);

  const PickleValue& at(uint32_t i) const { return values_[i]; }
  uint32_t root() const { return root_; }
  size_t size() const { return values_.size(); }

 private:
  friend class PickleMachine;
  std::deque<PickleValue> values_;
  uint32_t root_ = 0;
};

}  // namespace facet
