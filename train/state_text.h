// Numbers in a checkpoint's state, which is text: written so that they come back to the bit, read with an error that names file and entry.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "train/checkpoint.h"

namespace facet {

/// Hexadecimal floating point, separated by commas.
std::string exact_text(std::span<const double>);
inline std::string exact_text(double x) { return exact_text(std::span(&x, 1)); }

/// Entries PREFIX + name of a checkpoint. Throws Error(Kind::file) when one is missing or no such number.
class StateText {
 public:
  StateText(const FoundCheckpoint& found, std::string prefix = "") : found_(found), prefix_(std::move(prefix)) {}
  int64_t count(const std::string& name) const;  ///< -1 or more
  double number(const std::string& name) const;
  std::vector<double> numbers(const std::string& name) const;
  bool has(const std::string& name) const { return found_.state.count(prefix_ + name) > 0; }

 private:
  const std::string& at(const std::string& name) const;
  [[noreturn]] void bad(const std::string& name, const char* expected) const;
  const FoundCheckpoint& found_;
  std::string prefix_;
};

}  // namespace facet
