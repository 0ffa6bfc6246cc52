// The rows of a check: one per compared tensor, and a verdict over all.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace facet::app {

struct CheckRow {
  std::string name;
  int64_t elements = 0;   ///< compared
  int64_t differ = 0;     ///< not the same bits
  double max_abs = 0;
  int64_t max_ulp = 0;    ///< in the reference's dtype (f32 for f64 references)
  double cosine = 1;
  double tolerance = 0;   ///< on max_abs
  bool ok = true;
  std::string note;       ///< instead of figures: what was compared, or why not
};

/// Distance in values that the dtype can hold, bf16's or else f32's; signs meet at zero.
int64_t ulp_distance(double a, double b, DType);

/// How far two tensors of one shape may be apart.
struct Tolerance {
  double of_rms = 0;      ///< times the root mean square of the reference
  double of_max = 0;      ///< times its largest entry
  double absolute = 0;    ///< overrides both when positive
};

/// Compares at rows whose mask is not 0 (mask covers the leading dimensions; absent: everything). Different shapes and NaN are red.
CheckRow compare(const std::string& name, const Tensor& got, const Tensor& want, const Tensor& mask, const Tolerance&);

class CheckReport {
 public:
  bool json = false;        ///< one JSON object a line instead of the table
  bool first_fail = false;  ///< throws at the first red row
  std::string only;         ///< pattern of names to look at; empty: all
  std::function<void(const CheckRow&)> sink;  ///< gets the rows instead of the table

  bool wanted(const std::string& name) const;
  void add(CheckRow);
  /// A line under the rows, for people: nothing with --json.
  void remark(const std::string& text) const;
  void not_compared(const std::string& name, const std::string& why);
  /// Prints the totals and the first red row. Throws Error(Kind::check) when anything was red or nothing was compared.
  void finish() const;

 private:
  void print(const CheckRow&) const;
  int compared_ = 0, red_ = 0, skipped_ = 0;
  mutable bool header_ = false;
  std::string first_red_;
};

}  // namespace facet::app
