#include <algorithm>
#include <numeric>
#include <utility>

#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "autograd/ops/check.h"
#include "autograd/ops/joined.h"
#include "autograd/ops/room.h"
#include "tensor/kernels/adapter_gradients.h"
#include "tensor/kernels/place_blocks.h"

namespace facet {
namespace {

thread_local int64_t row_room = 0;

/// A window that grows over what lies behind its rows and below them: a panel's.
View grown(View v, int64_t more_rows, int64_t more_columns) {
  v.shape[0] += more_rows, v.shape[1] += more_columns;
  return v;
}
/// The part of a panel that begins there, to write. Its weights' version stays: they do not change.
Out part_of(const View& panel, int64_t row, int64_t column, int64_t rows, int64_t columns) {
  Out o;
  static_cast<View&>(o) = panel;
  o.data = panel.as<char>() + (row * panel.stride[0] + column) * size_of(panel.dtype);
  o.shape = {rows, columns};
  return o;
}
/// To write what lies in room that was taken; the version of the values before it stays.
Out fresh(const Tensor& taken) {
  Out o;
  static_cast<View&>(o) = as_rows(taken.view());
  return o;
}

Shape with_last(Shape s, int64_t n) {
  s[-1] = n;
  return s;
}

struct Term {
  Saved a, b;
  double scale;
  int64_t column, outputs;  ///< of y
  int64_t begin, end;       ///< of t

  template <class V>
  V of_y(const V& y) const {
    return columns(y, column, column + outputs);
  }
  template <class V>
  V of_t(const V& t) const {
    return columns(t, begin, end);
  }
};
using Terms = pool_vector<Term>;

int64_t rank_of(const Terms& terms) { return terms.empty() ? 0 : terms.back().end; }

pool_vector<View> all_a(const Terms& terms) {
  pool_vector<View> list;
  for (const Term& t : terms) list.push_back(t.a.view());
  return list;
}

/// [W; ..] as rows of the panel: absent unless W is its upper left part.
View within(const Tensor& panel, std::span<const View> w, int64_t rank) {
  const View all = stacked<View>(w);
  if (!panel || !all || panel.room() < rank) return {};
  const View p = panel.view();
  return p.data == all.data && p.dtype == all.dtype && p.stride[0] == all.stride[0] && p.shape[0] >= all.shape[0] + rank ? all : View{};
}

/// to = scale x A^T.
void narrow(const View& x, const Terms& terms, const Out& to) {
  const pool_vector<View> a = all_a(terms);
  const bool alike = std::ranges::all_of(terms, [&](const Term& t) { return t.scale == terms[0].scale; });
  if (const View all = stacked<View>(a); all && alike) return gemm(x, transposed(all), to, terms[0].scale);
  for (const Term& t : terms) gemm(x, transposed(t.a.view()), t.of_t(to), t.scale);
}

// Inputs: x, w_0, w_1, ..., a_0, b_0, a_1, b_1, ...
struct LinearAdaptedGrad {
  Kept x;   // when some w or a trains
  Saved t;  // when some b trains
  pool_vector<Saved> w;
  Terms terms;
  Tensor panel;
  bool given = false;  // memory for dy with room for dt

  bool placed() const { return given; }
  Tensor place(uint16_t, const Node& n) {
    const GradSlot& y = n.outputs[0];
    if (given || !panel || !n.inputs[0].node) return {};
    given = true;
    return Tensor::with_room(y.shape, panel.room(), y.dtype, y.device);
  }

  void operator()(Grads grads, Sinks dx) {
    const Tensor dy = as_rows(grads[0].view()) ? std::move(grads[0]) : grads[0].dense();
    const View d = as_rows(dy.view());
    const Sinks of_w = dx.subspan(1, w.size()), of_terms = dx.subspan(1 + w.size());
    const int64_t rank = rank_of(terms);
    pool_vector<View> ws;
    for (const Saved& s : w) ws.push_back(s.view());
    const View in_panel = dx[0] && dy.room() >= rank ? within(panel, ws, rank) : View{};

    bool a_trains = false;
    for (size_t i = 0; i < terms.size(); ++i) a_trains = a_trains || of_terms[2 * i];
    Tensor dt;
    if (in_panel) dt = dy.take_room(rank);
    else if (dx[0] || a_trains) dt = Tensor::empty(with_last(dy.shape(), rank), dy.dtype(), dy.device());
    const Out to_t = dt ? fresh(dt) : Out{};
    for (size_t i = 0; i < terms.size(); ++i) {
      const Term& term = terms[i];
      const View ts = t ? term.of_t(as_rows(t.view())) : View{};
      const Out db = of_terms[2 * i + 1].dst();
      if (to_t || db) adapter_gradients(term.of_y(d), term.b.view(), ts, term.scale, to_t ? term.of_t(to_t) : to_t, db);
    }

    if (dx[0]) {
      Out to = as_rows(dx[0].dst());
      if (in_panel) {
        pool_vector<Block> blocks;
        for (const Term& term : terms) blocks.push_back({term.a.view(), term.begin, 0});
        place_blocks(blocks, part_of(in_panel, in_panel.shape[0], 0, rank, in_panel.shape[1]));
        const View both = grown(d, 0, rank), under = grown(in_panel, rank, 0);
        linear_dx({&both, 1}, {&under, 1}, to);
      } else {  // in bf16 the small part is rounded on its own, and the base's product adds to it
        for (const Term& term : terms) {
          gemm(term.of_t(View(to_t)), term.a.view(), to);
          to.accumulate = true;
        }
        joined_dx(d, ws, to);
      }
    }
    if (!x) return;
    const RowsOf rows(x.get());
    pool_vector<Sink*> sinks;
    for (Sink& s : of_w) sinks.push_back(&s);
    if (std::ranges::any_of(of_w, [](const Sink& s) { return static_cast<bool>(s); })) joined_dw(d, rows.view, ws, sinks);
    sinks.clear();
    for (size_t i = 0; i < terms.size(); ++i) sinks.push_back(&of_terms[2 * i]);
    if (a_trains) joined_dw(to_t, rows.view, all_a(terms), sinks);
  }
};

Terms checked(std::span<const LowRankTerm> terms, const Tensor& x, int64_t outputs) {
  Terms list;
  int64_t column = 0, begin = 0;
  for (const LowRankTerm& t : terms) {
    check_projection("linear_adapted", x, "a", t.a);
    check_same_dtype("linear_adapted", "a", t.a, "b", t.b);
    if (t.b.rank() != 2 || t.b.dim(1) != t.a.dim(0) || t.column < column || t.column + t.b.dim(0) > outputs)
      fail(Kind::usage, "linear_adapted: a {} and b {} at column {} of {}: expected a [r, I], b [O, r], and columns from {} on", to_string(t.a.shape()),
           to_string(t.b.shape()), t.column, outputs, column);
    list.push_back({t.a, t.b, t.scale, t.column, t.b.dim(0), begin, begin + t.a.dim(0)});
    column = t.column + t.b.dim(0);
    begin += t.a.dim(0);
  }
  return list;
}

}  // namespace

RowRoom::RowRoom(int64_t room) : before_(std::exchange(row_room, room)) {}
RowRoom::~RowRoom() { row_room = before_; }

Tensor empty_rows(const Shape& shape, DType dtype, Device device) {
  return row_room > 0 && device == Device::gpu ? Tensor::with_room(shape, row_room, dtype, device) : Tensor::empty(shape, dtype, device);
}

Tensor panel_for(int64_t outputs, int64_t inputs, int64_t ranks, DType dtype, Device device) {
  const int64_t aligned = std::max<int64_t>(8, std::gcd(inputs, 64));  // elements: 16 bytes of bf16, or what rows of W began on, up to 128 bytes
  return Tensor::with_room({outputs + ranks, inputs}, (ranks + aligned - 1) / aligned * aligned, dtype, device);
}

Tensor linear_adapted(const Tensor& x, std::span<const Tensor> w, std::span<const LowRankTerm> given, const Tensor& panel) {
  if (given.empty()) return linear_joined(x, w);
  const OpScope scope("linear_adapted");
  if (w.empty()) fail(Kind::usage, "linear_adapted: no weights");
  pool_vector<View> ws;
  pool_vector<const Tensor*> inputs{&x};
  int64_t outputs = 0;
  bool matrix_trains = false, b_trains = false;  // of x times a matrix: w and a
  for (const Tensor& t : w) {
    check_projection("linear_adapted", x, "w", t);
    ws.push_back(t.view());
    inputs.push_back(&t);
    outputs += t.dim(0);
    matrix_trains = matrix_trains || t.slot();
  }
  Terms terms = checked(given, x, outputs);
  for (const LowRankTerm& t : given) {
    inputs.push_back(&t.a), inputs.push_back(&t.b);
    matrix_trains = matrix_trains || t.a.slot();
    b_trains = b_trains || t.b.slot();
  }
  const int64_t rank = rank_of(terms), I = x.dim(-1);
  const RowsOf rows(x.detach());
  const View in_panel = x.room() >= rank && x.dtype() == given[0].a.dtype() ? within(panel, ws, rank) : View{};

  Tensor y = Tensor::empty(with_last(x.shape(), outputs), x.dtype(), x.device());
  const Out to = as_rows(y.out());
  Tensor t = in_panel ? x.take_room(rank) : Tensor::empty(with_last(x.shape(), rank), x.dtype(), x.device());
  const Out to_t = fresh(t);
  narrow(rows.view, terms, to_t);
  if (in_panel) {
    pool_vector<Block> blocks;
    for (const Term& term : terms) blocks.push_back({term.b.view(), term.column, term.begin});
    place_blocks(blocks, part_of(in_panel, 0, I, outputs, rank));
    const View beside = grown(in_panel, 0, rank);
    linear(grown(rows.view, 0, rank), {&beside, 1}, {&to, 1});
  } else {
    linear(rows.view, ws, parts_of(to, ws));  // which joins them, but for a few rows, whose bits are those of a product each
    for (const Term& term : terms) {
      Out part = term.of_y(to);
      part.accumulate = true;
      gemm(term.of_t(View(to_t)), transposed(term.b.view()), part);
    }
  }
  if (grad_enabled() && (x.slot() || matrix_trains || b_trains)) {
    LinearAdaptedGrad grad;
    if (matrix_trains) grad.x = x;
    if (b_trains) grad.t = in_panel && recomputing() ? t.clone() : t;  // which would keep all of an x that is not kept
    grad.w.assign(w.begin(), w.end());
    grad.terms = std::move(terms);
    grad.panel = panel;
    Tensor* out[] = {&y};
    attach<LinearAdaptedGrad>("linear_adapted", out, inputs, std::move(grad));
  }
  return y;
}

}  // namespace facet
