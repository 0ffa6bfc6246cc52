#include "tensor/cpu/gemm_packed.h"

#include <algorithm>

#include "tensor/parallel.h"
#include "tensor/pool_vector.h"

namespace facet::cpu {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Of a shared packed operand at a time: the rest of k follows in further rounds.
constexpr int64_t shared_floats = 4 << 20;
// An operand of more than this does not stay in a cache; of such, packed at a time, which does.
constexpr int64_t streamed_floats = 4 << 20, streamed_round = 1 << 19;
// Of the packed operand, and of the partial sums, of a product in spans.
constexpr int64_t span_floats = 1 << 20;
// Work in the element operations that parallel_for counts: each element is read, and multiply-adds run some 16 times faster.
int64_t work(int64_t rows, int64_t columns, int64_t k) { return (rows / 16 + 1) * columns * k; }

// Packing costs some three steps of the micro-kernel per panel; fewer uses than this do not repay it.
constexpr int64_t few_uses = 2;

// A row-major a costs nothing to read where it lies as long as its rows do not push each other out of the first cache (starts a
// multiple of 4 KB apart); everything else is read once per panel of the other operand and better packed.
bool read_directly(const GemmOperand& a, int64_t columns, const GemmTile& tile) {
  if (a.dtype != DType::f32) return false;
  if (a.line_step != 1 && a.k_step == 1 && columns <= 128 && a.line_step % 1024 != 0) return true;
  return columns <= few_uses * tile.columns;
}
bool read_directly(const GemmOperand& b, int64_t rows, int64_t width) {
  return b.dtype == DType::f32 && b.line_step == 1 && rows <= few_uses * width;
}

void pack_shared(const GemmOperand& x, int64_t k0, int64_t k1, int64_t kc, float* to) {
  constexpr int64_t at_once = 8;
  const int64_t panels = x.panels(), across = ceil_div(panels, at_once), blocks = ceil_div(k1 - k0, kc);
  parallel_for(across * blocks, 1, at_once * x.width * kc / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = k0 + i / across * kc, p = i % across * at_once, next = std::min(block + kc, k1);
      gemm_pack(x, p, std::min(p + at_once, panels), block, next,
                to + (block - k0) * panels * x.width + p * x.width * (next - block));
    }
  });
}

// Lines per task: whole panels, some 16 tasks if there are that many panels, and no more than a task can pack.
int64_t task_lines(const GemmOperand& x, int64_t all_panels, int64_t kc) {
  const int64_t most = std::max<int64_t>(1, gemm_task_floats / (kc * x.width));
  return std::clamp<int64_t>(all_panels / 16, 1, most) * x.width;
}

int64_t block_length(int64_t k) {  // equal blocks, from k alone
  return ceil_div(ceil_div(k, ceil_div(k, gemm_kc_limit)), 16) * 16;
}

int64_t panel_width(int64_t lines, int64_t most) {  // equal panels: 16 rows are 8 + 8, not 14 + 2
  return ceil_div(lines, ceil_div(lines, most));
}

int64_t columns_in_panel(const GemmOperand& a, const GemmTile& tile) {
  return a.lines <= tile.few_rows ? tile.wide_columns : tile.columns;
}

// ---- long sums into few columns, as the gradients of small weights: k is cut into spans that are summed apart and then added
// in order. Where this is done and where the cuts are depends on k and the columns alone, so that rows stay independent.

int64_t spans_of(int64_t k, int64_t columns) {
  return k >= 2048 && k >= 8 * columns && k * columns <= span_floats ? std::min<int64_t>(8, k / 512) : 1;
}

// Lines side by side whose steps of k do not push each other out of the first cache: as good as packed.
bool spread(const GemmOperand& x) { return x.dtype == DType::f32 && x.line_step == 1 && x.k_step % 64 != 0; }

void gemm_in_spans(GemmOperand a, int64_t k, const GemmGroup& g, float alpha) {
  GemmOperand b = g.b;
  const int64_t kc = block_length(k), n = b.lines, span = ceil_div(ceil_div(k, spans_of(k, n)), kc) * kc, spans = ceil_div(k, span);
  const GemmTile tile = gemm_tile();
  a.width = panel_width(a.lines, tile.rows);
  b.width = columns_in_panel(a, tile);

  const GemmRead read_b = read_directly(b, a.lines, a.width) || spread(b) ? GemmRead::direct : GemmRead::panels;
  const GemmRead read_a = spread(a) ? GemmRead::direct : GemmRead::pack;
  Scratch packed(read_b == GemmRead::panels ? sizeof(float) * b.panels() * b.width * k : 1);
  if (read_b == GemmRead::panels) pack_shared(b, 0, k, kc, packed.as<float>());
  // Rows go by in slabs that bound the partial sums, and within a slab in equal groups of panels that a task can pack.
  const int64_t slab = std::min(a.lines, std::max<int64_t>(1, span_floats / (spans * n * a.width)) * a.width);
  const int64_t slab_panels = ceil_div(slab, a.width), most = gemm_task_floats / (kc * a.width);
  const int64_t lines = ceil_div(slab_panels, ceil_div(slab_panels, most)) * a.width, groups = ceil_div(slab, lines);
  Scratch partial(sizeof(float) * spans * slab * n);
  for (int64_t m = 0; m < a.lines; m += slab) {
    const int64_t rows = std::min(slab, a.lines - m);
    parallel_for(spans * groups, 1, work(lines, n, span), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t s = i / groups, first = i % groups * lines;
        if (first >= rows) continue;
        const GemmPart part{b, read_b, packed.as<float>() + s * span * b.panels() * b.width, 0, n,
                            partial.as<float>() + (s * slab - m) * n, n, false};
        gemm_task({a, read_a, nullptr, m + first, m + std::min(first + lines, rows), s * span,
                   std::min((s + 1) * span, k), kc, alpha, &part, 1});
      }
    });
    parallel_for(rows, ceil_div(4096, n), n * spans, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* c = g.c + (m + i) * g.c_step;
        const float* p = partial.as<float>() + i * n;
        for (int64_t j = 0; j < n; ++j) {
          float sum = g.accumulate ? c[j] + p[j] : p[j];
          for (int64_t s = 1; s < spans; ++s) sum += p[s * slab * n + j];
          c[j] = sum;
        }
      }
    });
  }
}

}  // namespace

void gemm_packed(GemmOperand a, int64_t k, std::span<const GemmGroup> groups, float alpha) {
  const GemmTile tile = gemm_tile();
  const int64_t kc = block_length(k);
  a.width = panel_width(a.lines, tile.rows);

  pool_vector<GemmPart> parts;
  parts.reserve(groups.size());
  int64_t columns = 0, panels = 0;
  for (const GemmGroup& g : groups) {
    if (spans_of(k, g.b.lines) > 1) {
      gemm_in_spans(a, k, g, alpha);
      continue;
    }
    GemmOperand b = g.b;
    b.width = columns_in_panel(a, tile);
    columns += b.lines;
    panels += b.panels();
    parts.push_back({b, read_directly(b, a.lines, a.width) ? GemmRead::direct : GemmRead::pack, nullptr, 0, b.lines, g.c, g.c_step, g.accumulate});
  }
  if (parts.empty()) return;
  GemmRead read_a = read_directly(a, columns, tile) ? GemmRead::direct : GemmRead::pack;

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
  // Columns side by side in a b that is read from memory: packed step by step of k, all columns of a step together, and used from
  // the cache at once. Left to the tasks, each would walk through all of memory for a few columns.
  int64_t floats = shared_floats;
  for (GemmPart& p : parts) {
    if (by_rows || p.b.line_step != 1 || p.b.lines * k <= streamed_floats) continue;
    p.read = GemmRead::panels;
    shared += p.b.panels() * p.b.width;
    floats = streamed_round;
  }
  const int64_t round = shared ? std::clamp<int64_t>(floats / (shared * kc), 1, ceil_div(k, kc)) * kc : k;
  Scratch packed(sizeof(float) * std::max<int64_t>(1, shared * std::min(round, k)));

  for (int64_t k0 = 0; k0 < k; k0 += round) {
    const int64_t k1 = std::min(k0 + round, k);
    float* to = packed.as<float>();
    if (read_a == GemmRead::panels) {
      pack_shared(a, k0, k1, kc, to);
      to += a.panels() * a.width * (k1 - k0);
    }
    for (GemmPart& p : parts) {
      if (p.read != GemmRead::panels) continue;
      pack_shared(p.b, k0, k1, kc, to);
      p.panels = to;
      to += p.b.panels() * p.b.width * (k1 - k0);
    }
    if (k0 > 0)
      for (GemmPart& p : parts) p.accumulate = true;
    GemmTask all{a, read_a, packed.as<float>(), 0, a.lines, k0, k1, kc, alpha, parts.data(), static_cast<int>(parts.size())};

    if (by_rows) {
      const int64_t lines = task_lines(a, a.panels(), kc);
      parallel_for(ceil_div(a.lines, lines), 1, work(lines, columns, k1 - k0), [&](int64_t begin, int64_t end) {
        GemmTask t = all;
        t.m0 = begin * lines, t.m1 = std::min(end * lines, a.lines);
        gemm_task(t);
      });
      continue;
    }
    const int64_t lines = task_lines(parts[0].b, panels, kc);
    int64_t tasks = 0;
    for (const GemmPart& p : parts) tasks += ceil_div(p.b.lines, lines);
    parallel_for(tasks, 1, work(a.lines, lines, k1 - k0), [&](int64_t begin, int64_t) {
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
