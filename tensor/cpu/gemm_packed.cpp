#include "tensor/cpu/gemm_packed.h"

#include <algorithm>

#include "tensor/parallel.h"
#include "tensor/pool_vector.h"

namespace facet::cpu {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Of a shared packed operand at a time: the rest of k follows in further rounds.
constexpr int64_t shared_floats = 4 << 20;
// Multiply-adds run about this much faster than the element operations parallel_for counts in.
constexpr int64_t madds_per_op = 16;

// Lines whose starts fall into the same few sets of the first cache push each other out.
bool conflicts(int64_t step) { return step % 1024 == 0; }

// A row-major a is read where it lies when few columns would repay packing it; one with unit line_step nearly is a panel.
bool read_directly(const GemmOperand& a, int64_t columns) {
  if (a.dtype != DType::f32) return false;
  if (a.line_step == 1) return !conflicts(a.k_step);
  return columns <= 128 && !conflicts(a.line_step);
}
bool read_directly(const GemmOperand& b) { return b.dtype == DType::f32 && b.line_step == 1 && !conflicts(b.k_step); }

void pack_shared(const GemmOperand& x, int64_t k0, int64_t k1, int64_t kc, float* to) {
  const int64_t panels = x.panels(), blocks = ceil_div(k1 - k0, kc);
  parallel_for(panels * blocks, 1, x.width * kc, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = k0 + i / panels * kc, p = i % panels, next = std::min(block + kc, k1);
      gemm_pack(x, p, p + 1, block, next, to + (block - k0) * panels * x.width + p * x.width * (next - block));
    }
  });
}

// Lines per task: whole panels, some 16 tasks if there are that many panels, and no more than a task can pack.
int64_t task_lines(const GemmOperand& x, int64_t all_panels, int64_t kc) {
  const int64_t most = std::max<int64_t>(1, gemm_task_floats / (kc * x.width));
  return std::clamp<int64_t>(all_panels / 16, 1, most) * x.width;
}

}  // namespace

void gemm_packed(GemmOperand a, int64_t k, std::span<const GemmGroup> groups, float alpha) {
  const GemmTile tile = gemm_tile();
  const int64_t kc = ceil_div(ceil_div(k, ceil_div(k, gemm_kc_limit)), 16) * 16;  // equal blocks, from k alone
  a.width = ceil_div(a.lines, ceil_div(a.lines, tile.rows));                      // equal panels: 16 rows are 8 + 8, not 14 + 2

  pool_vector<GemmPart> parts;
  parts.reserve(groups.size());
  int64_t columns = 0, panels = 0;
  for (const GemmGroup& g : groups) {
    GemmOperand b = g.b;
    b.width = tile.columns;
    columns += b.lines;
    panels += b.panels();
    parts.push_back({b, read_directly(b) ? GemmRead::direct : GemmRead::pack, nullptr, 0, b.lines, g.c, g.c_step, g.accumulate});
  }
  GemmRead read_a = read_directly(a, columns) ? GemmRead::direct : GemmRead::pack;

  // The operand with fewer lines is shared by all tasks, so it is packed first; the other is cut into tasks, which pack their
  // own lines while these are in the cache. Either way each element is packed once.
  const bool by_rows = a.lines >= columns;
  int64_t shared = 0;  // lines to pack beforehand
  if (by_rows) {
    for (GemmPart& p : parts) {
      if (p.read != GemmRead::pack) continue;
      p.read = GemmRead::panels;
      shared += p.b.panels() * p.b.width;
    }
  } else if (read_a == GemmRead::pack) {
    read_a = GemmRead::panels;
    shared = a.panels() * a.width;
  }
  const int64_t round = shared ? std::clamp<int64_t>(shared_floats / (shared * kc), 1, ceil_div(k, kc)) * kc : k;
  Scratch packed(sizeof(float) * std::max<int64_t>(1, shared * std::min(round, k)));

  for (int64_t k0 = 0; k0 < k; k0 += round) {
    const int64_t k1 = std::min(k0 + round, k);
    float* to = packed.as<float>();
    if (read_a == GemmRead::panels) pack_shared(a, k0, k1, kc, to);
    for (GemmPart& p : parts) {
      if (p.read != GemmRead::panels) continue;
      pack_shared(p.b, k0, k1, kc, to);
      p.panels = to;
      to += p.b.panels() * p.b.width * (k1 - k0);
    }
    GemmTask all{a, read_a, packed.as<float>(), 0, a.lines, k0, k1, kc, alpha, parts.data(), static_cast<int>(parts.size())};

    if (by_rows) {
      const int64_t lines = task_lines(a, a.panels(), kc);
      parallel_for(ceil_div(a.lines, lines), 1, lines * columns * (k1 - k0) / madds_per_op, [&](int64_t begin, int64_t end) {
        GemmTask t = all;
        t.m0 = begin * lines, t.m1 = std::min(end * lines, a.lines);
        gemm_task(t);
      });
      continue;
    }
    const int64_t lines = task_lines(parts[0].b, panels, kc);
    int64_t tasks = 0;
    for (const GemmPart& p : parts) tasks += ceil_div(p.b.lines, lines);
    parallel_for(tasks, 1, a.lines * lines * (k1 - k0) / madds_per_op, [&](int64_t begin, int64_t) {
      GemmTask t = all;
      GemmPart part = all.parts[0];
      for (int i = 1; begin >= ceil_div(part.b.lines, lines); ++i) {
        begin -= ceil_div(part.b.lines, lines);
        part = all.parts[i];
      }
      part.n0 = begin * lines, part.n1 = std::min(part.n0 + lines, part.b.lines);
      t.parts = &part, t.part_count = 1;
      gemm_task(t);
    });
  }
}

}  // namespace facet::cpu
