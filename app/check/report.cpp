#include "app/check/report.h"

#include <bit>
#include <cmath>
#include <cstdio>

#include "nn/module.h"
#include "tensor/cpu/bf16.h"
#include "tensor/io/json.h"

namespace facet::app {

int64_t ulp_distance(double a, double b, DType dtype) {
  const auto ordered = [](auto bits) { return bits >= 0 ? int64_t{bits} : int64_t{std::numeric_limits<decltype(bits)>::min()} - bits; };
  const auto rank = [&](double x) {
    const auto f = static_cast<float>(x);
    return dtype == DType::bf16 ? ordered(std::bit_cast<int16_t>(cpu::narrow(f).bits)) : ordered(std::bit_cast<int32_t>(f));
  };
  return std::abs(rank(a) - rank(b));
}

CheckRow compare(const std::string& name, const Tensor& got, const Tensor& want, const Tensor& mask, const Tolerance& tolerance) {
  CheckRow row;
  row.name = name;
  if (!(got.shape() == want.shape())) {
    row.ok = false;
    row.note = fmt::format("shape {} here, {} in the reference", to_string(got.shape()), to_string(want.shape()));
    return row;
  }
  const std::vector<double> a = got.to_vector(), b = want.to_vector();
  const std::vector<double> m = mask ? mask.to_vector() : std::vector<double>{};
  const size_t rows = m.empty() ? 1 : m.size(), n = a.size() / std::max<size_t>(1, rows);
  double dot = 0, aa = 0, bb = 0, top = 0;
  bool nan = false;
  for (size_t r = 0; r < rows; ++r) {
    if (!m.empty() && m[r] == 0) continue;
    for (size_t i = r * n; i < (r + 1) * n; ++i) {
      const double d = std::abs(a[i] - b[i]);
      ++row.elements;
      dot += a[i] * b[i];
      aa += a[i] * a[i];
      bb += b[i] * b[i];
      top = std::max(top, std::abs(b[i]));
      if (!(d == 0) && a[i] != b[i]) ++row.differ;  // equal infinities have no difference
      if (std::isnan(a[i]) != std::isnan(b[i])) nan = true;
      if (a[i] == b[i] || std::isnan(d)) continue;
      row.max_abs = std::max(row.max_abs, d);
      row.max_ulp = std::max(row.max_ulp, ulp_distance(a[i], b[i], want.dtype()));
    }
  }
  if (aa > 0 && bb > 0) row.cosine = dot / std::sqrt(aa * bb);
  const double rms = row.elements ? std::sqrt(bb / static_cast<double>(row.elements)) : 0;
  row.tolerance = tolerance.absolute > 0 ? tolerance.absolute : tolerance.of_rms * rms + tolerance.of_max * top;
  row.ok = !nan && row.max_abs <= row.tolerance;
  if (nan) row.note = "NaN on one side";
  return row;
}

bool CheckReport::wanted(const std::string& name) const { return only.empty() || matches(only, name); }

void CheckReport::add(CheckRow row) {
  ++compared_;
  if (!row.ok) {
    ++red_;
    if (first_red_.empty()) first_red_ = row.name;
  }
  if (sink) return sink(row);
  print(row);
  if (!row.ok && first_fail) finish();
}

void CheckReport::remark(const std::string& text) const {
  if (!json) fmt::print("{}\n", text);
}

void CheckReport::not_compared(const std::string& name, const std::string& why) {
  ++skipped_;
  if (sink) return;
  if (json) std::printf("%s\n", Json{{"name", name}, {"verdict", "not compared"}, {"note", why}}.dump().c_str());
  else fmt::print("{:<44} not compared: {}\n", name, why);
}

void CheckReport::print(const CheckRow& r) const {
  if (json) {
    const Json line = {{"name", r.name},       {"elements", r.elements}, {"differ", r.differ},       {"max_abs", r.max_abs},
                       {"max_ulp", r.max_ulp}, {"cosine", r.cosine},     {"tolerance", r.tolerance}, {"verdict", r.ok ? "ok" : "RED"},
                       {"note", r.note}};
    std::printf("%s\n", line.dump().c_str());
    return;
  }
  if (!header_) fmt::print("{:<44} {:>17} {:>10} {:>8} {:>12} {:>10}\n", "tensor", "differ / of", "max abs", "max ulp", "1 - cosine", "tolerance");
  header_ = true;
  const char* verdict = r.ok ? "ok" : "RED";
  if (!r.note.empty()) fmt::print("{:<44} {}  {}\n", r.name, r.note, verdict);
  else
    fmt::print("{:<44} {:>17} {:>10.2e} {:>8} {:>12.1e} {:>10.1e}  {}\n", r.name, fmt::format("{} / {}", r.differ, r.elements), r.max_abs,
               r.max_ulp, std::max(0.0, 1 - r.cosine), r.tolerance, verdict);
}

void CheckReport::finish() const {
  const std::string totals = fmt::format("{} compared, {} red, {} not compared", compared_, red_, skipped_);
  if (!json) fmt::print("{}\n", totals);
  std::fflush(stdout);
  if (red_) fail(Kind::check, "check: {}; first red: {}", totals, first_red_);
  if (!compared_) fail(Kind::check, "check: nothing was compared ({} names without a counterpart)", skipped_);
}

}  // namespace facet::app
