#include "tensor/rope_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "tensor/parallel.h"
#include "tensor/pool_vector.h"
#include "tensor/tensor.h"

namespace facet {
namespace {
constexpr int64_t max_pages = RopeTable::max_positions / RopeRows::page_rows;

template <class A>
void fill_page(A* out, int64_t first, int64_t head_dim, double base, double factor) {
  const int64_t half = head_dim / 2;
  parallel_for(RopeRows::page_rows, 16, 64 * half, [&](int64_t a, int64_t b) {
    for (int64_t i = 0; i < half; ++i) {
      const double timescale = std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim)) * factor;
      for (int64_t p = a; p < b; ++p) {
        const double angle = static_cast<double>(first + p) / timescale;
        out[p * head_dim + i] = static_cast<A>(std::cos(angle));
        out[p * head_dim + half + i] = static_cast<A>(std::sin(angle));
      }
    }
  });
}
}  // namespace

struct RopeTable::State {
  int64_t head_dim;
  double base, factor;
  std::mutex mutex;
  /// The directory is allocated at its full size once, so that readers need no lock: entries only go from null to a page.
  struct Pages {
    std::unique_ptr<const void*[]> at;
    pool_vector<Tensor> owned;
  } f32, f64;
  pool_vector<Tensor> on_gpu;  ///< [positions, Dh], the last one is in use

  void extend(int64_t page, bool wide) {
    Pages& pages = wide ? f64 : f32;
    if (!pages.at) pages.at.reset(new const void* [max_pages] {});
    if (pages.at[page]) return;
    const Tensor t = Tensor::empty({RopeRows::page_rows, head_dim}, wide ? DType::f64 : DType::f32);
    const int64_t first = page * RopeRows::page_rows;
    if (wide) fill_page(t.out().as<double>(), first, head_dim, base, factor);
    else fill_page(t.out().as<float>(), first, head_dim, base, factor);
    pages.owned.push_back(t);
    pages.at[page] = t.view().data;
  }
};

RopeTable::RopeTable(int64_t head_dim, double base, double factor) : state_(std::make_shared<State>()) {
  if (head_dim <= 0 || head_dim % 2 != 0) fail(Kind::usage, "RopeTable: head_dim {}, expected a positive even number", head_dim);
  if (!(base > 0) || !(factor > 0)) fail(Kind::usage, "RopeTable: base {} and factor {} must be positive", base, factor);
  state_->head_dim = head_dim;
  state_->base = base;
  state_->factor = factor;
}

int64_t RopeTable::head_dim() const { return state_->head_dim; }
double RopeTable::base() const { return state_->base; }
double RopeTable::factor() const { return state_->factor; }

namespace {

int64_t checked_page(int64_t position) {
  const int64_t page = std::max<int64_t>(position, 0) >> RopeRows::bits;
  if (page >= max_pages)
    fail(Kind::usage, "norm_rope: position {} is beyond the {} positions a RopeTable serves", position, RopeTable::max_positions);
  return page;
}

}  // namespace

RopeRows RopeTable::rows(std::span<const int32_t> positions, DType dtype) const {
  const bool wide = dtype == DType::f64;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  for (const int32_t position : positions) state_->extend(checked_page(position), wide);
  return {(wide ? state_->f64 : state_->f32).at.get(), state_->head_dim};
}

void RopeTable::reserve(int64_t positions) const {
  if (positions <= 0) return;
  checked_page(positions - 1);
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const int64_t have = state_->on_gpu.empty() ? 0 : state_->on_gpu.back().dim(0);
  if (positions <= have) return;
  const int64_t wanted = std::min(std::max(positions, 2 * have), max_positions), pages = (wanted + RopeRows::page_rows - 1) >> RopeRows::bits;
  const Tensor table = Tensor::empty({pages * RopeRows::page_rows, state_->head_dim});
  char* to = table.out().as<char>();
  for (int64_t page = 0; page < pages; ++page) {
    state_->extend(page, false);
    const size_t bytes = static_cast<size_t>(RopeRows::page_rows * state_->head_dim) * sizeof(float);
    std::memcpy(to + static_cast<size_t>(page) * bytes, state_->f32.at[page], bytes);
  }
  state_->on_gpu.push_back(table.to(Device::gpu));
}

RopeRows RopeTable::gpu_rows() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  RopeRows r;
  r.head_dim = state_->head_dim;
  if (state_->on_gpu.empty()) return r;
  r.rows = state_->on_gpu.back().view().as<float>();
  r.count = state_->on_gpu.back().dim(0);
  return r;
}

}  // namespace facet
