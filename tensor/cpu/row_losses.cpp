#include "tensor/kernels/row_losses.h"

#include "tensor/cpu/bf16.h"

namespace facet::cpu {
namespace {

double number(const View& v, int64_t i) { return v.dtype == DType::f64 ? v.as<double>()[i] : static_cast<double>(v.as<float>()[i]); }

// Calls f(number of the row, its statistics) for every row, one after the other: rows are few and cheap beside their logits.
template <class F>
void each_row(const Out& stats, F f) {
  by_float_dtype(stats.dtype, [&](auto t) {
    using A = Acc<decltype(t)>;
    for (int64_t r = 0; r < stats.shape[0]; ++r) f(r, stats.as<A>() + r * stats.stride[0]);
  });
}

}  // namespace

void cross_entropy_rows(Out stats, View weights, View dy, const CrossEntropyForm& form, double scale, Out losses) {
  const double d = dy ? number(dy, 0) : 1;
  each_row(stats, [&](int64_t r, auto* s) {
    const RowGrad g = cross_entropy_row(form, row_of_stats(s), weights ? weights.as<double>()[r] : 1, d, losses.as<double>()[r]);
    write_coefficients(g, scale, form.words, s);
  });
}

void log_prob_rows(Out stats, View rows, View dy, double scale, Out log_probs) {
  each_row(stats, [&](int64_t r, auto* s) {
    const LogitRow z = row_of_stats(s);
    const int64_t n = rows ? rows.as<int32_t>()[r] : r;
    if (n >= 0 && log_probs) {
      if (log_probs.dtype == DType::f64) log_probs.as<double>()[n] = z.label - z.lse;
      else log_probs.as<float>()[n] = static_cast<float>(z.label - z.lse);
    }
    if (!dy) return;
    const double d = n >= 0 ? number(dy, n) : 0;
    write_coefficients({-d, d, 0}, scale, 1, s);
  });
}

void policy_rows(Out stats, Out tokens, const PolicyForm& form, double scale) {
  each_row(stats, [&](int64_t r, auto* s) { write_coefficients(policy_row(form, row_of_stats(s), tokens.as<double>() + 6 * r), scale, 1, s); });
}

}  // namespace facet::cpu
