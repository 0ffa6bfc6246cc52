#include "tensor/kernels/sample.h"

#include <algorithm>
#include <cmath>

#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tensor/ranking.h"

namespace facet::cpu {
namespace {

bool inside(int32_t id, int64_t V) { return id >= 0 && id < V; }

template <class F>
void each_row(const View& z, F f) {
  const int64_t n = z.shape[0], V = z.shape[1];
  parallel_for(n, std::clamp<int64_t>(4096 / V, 1, 16), 4 * V + 1000, [&](int64_t begin, int64_t end) { f(begin, end); });
}

std::span<const float> row_of(const View& z, int64_t r) { return {z.as<float>() + r * z.stride[0], static_cast<size_t>(z.shape[1])}; }

}  // namespace

void penalize(Out z, View rows, View ids, double by) {
  const KernelScope scope("penalize");
  const auto divisor = static_cast<float>(by);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int32_t id = ids.as<int32_t>()[i];
    if (!inside(id, z.shape[1])) continue;
    float& x = z.as<float>()[rows.as<int32_t>()[i] * z.stride[0] + id];
    x = x > 0 ? x / divisor : x * divisor;
  }
}

void forbid(Out z, View ids) {
  const KernelScope scope("forbid");
  for (int64_t r = 0; r < z.shape[0]; ++r)
    for (int64_t i = 0; i < ids.numel(); ++i)
      if (const int32_t id = ids.as<int32_t>()[i]; inside(id, z.shape[1])) z.as<float>()[r * z.stride[0] + id] = -INFINITY;
}

void first_largest(View z, View stats, Out ids) {
  const KernelScope scope("first_largest");
  each_row(z, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto row = row_of(z, r);
      ids.as<int32_t>()[r] = static_cast<int32_t>(std::find(row.begin(), row.end(), stats.as<float>()[r * stats.stride[0]]) - row.begin());
    }
  });
}

void draw_ranked(View z, View stats, View u, const RankFilters& filters, Out ids) {
  const KernelScope scope("draw_ranked");
  each_row(z, [&](int64_t begin, int64_t end) {
    pool_vector<Scored> list;
    for (int64_t r = begin; r < end; ++r) {
      Distribution d(row_of(z, r), stats.as<float>() + r * stats.stride[0], filters, list);
      double left = u.as<float>()[r];
      int32_t id = 0;
      for (size_t i = 0; const Scored* token = d.token(i); ++i) {
        id = token->id;
        const double p = d.share(*token);
        if (left < p) break;
        left -= p;
      }
      ids.as<int32_t>()[r] = id;
    }
  });
}

void tell_draws(View z, View stats, View drawn_from, View ids, Out results) {
  const KernelScope scope("tell_draws");
  for (int64_t r = 0; r < z.shape[0]; ++r) {
    const float *s = stats.as<float>() + r * stats.stride[0], *from = drawn_from.as<float>() + r * drawn_from.stride[0];
    const int32_t id = ids.as<int32_t>()[r];
    const float score = inside(id, z.shape[1]) ? z.as<float>()[r * z.stride[0] + id] : NAN;
    double* to = results.as<double>() + 4 * r;
    to[0] = id;
    to[1] = static_cast<float>(score - (static_cast<double>(s[0]) + std::log(static_cast<double>(s[1]))));  // as loss heads compute it
    to[2] = s[4];
    to[3] = std::isfinite(s[1]) && std::isfinite(from[1]);
  }
}

}  // namespace facet::cpu
