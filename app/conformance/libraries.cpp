// Attention by cuDNN against the own kernels, for whole rows of a model's sizes: how near, and who is faster. A training step asks the same of
// every problem it meets (tensor/gpu/measured_choice.h); here the answer is part of the record.
#include <algorithm>
#include <cmath>

#include "app/conformance/conformance.h"
#include "bench/support/race.h"
#include "models/gemma/config.h"
#include "tensor/gpu/cudnn_attention.h"

namespace facet::app {
namespace {

struct Rows {
  Tensor q, k, v, dy, y, lse, dq, dk, dv, positions;
  AttentionInputs x;

  Rows(int64_t B, int64_t T, int64_t H, int64_t K, int64_t Dh, int64_t window) {
    const Shape wide{B, T, H, Dh}, narrow{B, T, K, Dh};
    const auto some = [](const Shape& s) { return bench::noise(s, DType::bf16).to(Device::gpu); };
    const auto room = [](const Shape& s, DType t) { return Tensor::zeros(s, t, Device::gpu); };
    q = some(wide), k = some(narrow), v = some(narrow), dy = some(wide);
    y = room(wide, DType::bf16), lse = room({B, H, T}, DType::f32), dq = room(wide, DType::bf16), dk = room(narrow, DType::bf16), dv = room(narrow, DType::bf16);
    std::vector<int32_t> counting;
    for (int64_t i = 0; i < B * T; ++i) counting.push_back(static_cast<int32_t>(i % T));
    positions = Tensor::from(counting, {B, T}).to(Device::gpu);
    x.q = q.view(), x.k = k.view(), x.v = v.view();
    x.q_positions = x.k_positions = positions.view();
    x.window = window, x.scale = 1 / std::sqrt(static_cast<double>(Dh)), x.plain = true;
  }
  void own_forward() { gpu::own_attention_forward(x, y.out(), lse.out()); }
  void own_backward() { gpu::own_attention_backward(x, y.view(), lse.view(), dy.view(), dq.out(), dk.out(), dv.out()); }
  bool library_forward() { return gpu::cudnn_attention_forward(x, y.out(), lse.out()); }
  bool library_backward() { return gpu::cudnn_attention_backward(x, y.view(), lse.view(), dy.view(), dq.out(), dk.out(), dv.out()); }
};

// Both write `results`; the limit is that of two right results.
template <class Library, class Own>
Outcome compare(const std::vector<const Tensor*>& results, const gpu::Nearness& limit, double series, Library&& library, Own&& own) {
  if (!library()) {
    own();
    const std::string& why = gpu::cudnn_why_not();
    return {true, why.empty() ? "the library has no kernel for it; own kernels compute it" : "not there: " + why};
  }
  std::vector<Tensor> theirs;
  for (const Tensor* t : results) theirs.push_back(gpu::fetch_f32(t->view()));
  own();
  Outcome o;
  gpu::Nearness worst;
  for (size_t i = 0; i < results.size(); ++i) {
    const gpu::Nearness found = gpu::nearness(theirs[i], gpu::fetch_f32(results[i]->view()));
    worst = {std::max(worst.nmse, found.nmse), std::max(worst.of_row, found.of_row)};
  }
  const double by_library = bench::device_seconds(library, series), by_own = bench::device_seconds(own, series);
  o.ok = worst.within(limit);
  o.detail = fmt::format("NMSE {:.1e} ({:g} allowed), largest difference {:.1e} of a row's root mean square ({:g}); {:.0f} us against {:.0f} us by own kernels",
                         worst.nmse, limit.nmse, worst.of_row, limit.of_row, 1e6 * by_library, 1e6 * by_own);
  o.figures = {{"nmse", worst.nmse}, {"largest_difference_of_rms", worst.of_row}, {"library_seconds", by_library}, {"own_seconds", by_own}};
  return o;
}

}  // namespace

void conform_libraries(Conformance& c) {
  const GemmaConfig g = preset("gemma3-1b");
  const double series = c.tiny ? 0 : 0.05;
  for (const int64_t window : {int64_t{0}, g.window}) {
    const std::string name = window ? fmt::format("cuDNN's attention, window {}", window) : "cuDNN's attention";
    Rows rows(c.tiny ? 1 : 4, c.tiny ? 16 : 2048, g.heads, g.kv_heads, g.head_dim, window);
    c.check(name + ", forward", [&] {
      return compare({&rows.y, &rows.lse}, gpu::attention_nearness, series, [&] { return rows.library_forward(); }, [&] { rows.own_forward(); });
    });
    c.check(name + ", backward", [&] {
      return compare({&rows.dq, &rows.dk, &rows.dv}, gpu::attention_backward_nearness, series, [&] { return rows.library_backward(); }, [&] { rows.own_backward(); });
    });
  }
}

}  // namespace facet::app
