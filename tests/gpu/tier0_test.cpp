// Tier-0 kernels against the CPU's, on awkward shapes and layouts, under several schedules.
#include <cmath>

#include "tensor/kernels/copy.h"
#include "tensor/kernels/elementwise.h"
#include "tensor/kernels/gather.h"
#include "tensor/kernels/select.h"
#include "tensor/kernels/softmax.h"
#include "tensor/kernels/sum_to.h"
#include "tests/gpu/device.h"

using namespace facet;
using namespace facet::test;

namespace {

const std::vector<Shape> shapes = {{1}, {17}, {1031}, {3, 40}, {5, 7, 9}, {64, 33}, {2, 3, 1, 5, 16}, {70, 128}};

// A destination with sentinels around it.
struct Guarded {
  Tensor whole, inside;
  Guarded(const Shape& shape, DType d, bool strided) {
    Shape wide = shape;
    for (int i = 0; i < wide.rank; ++i) wide[i] += i + 1 == wide.rank ? (strided ? 5 : 0) : 0;
    whole = Tensor::full({wide.numel() + 64}, 77, d, Device::gpu);
    inside = whole.slice(0, 32, 32 + wide.numel()).reshape(wide);
    if (strided) inside = inside.slice(shape.rank - 1, 1, 1 + shape[-1]);
  }
  bool intact() const {
    const Tensor t = whole.to(Device::cpu);
    int64_t others = 0;
    for (const double v : t.to_vector()) others += v == 77;
    return others >= t.numel() - inside.numel();
  }
};

Tensor cpu_copy(const Tensor& t) { return t.to(Device::cpu); }

}  // namespace

TEST_CASE("gpu copy: every pair of dtypes and layouts, into dense, strided and transposed windows", "[emulated]") {
  gpu::emulate(true);
  Random r(1);
  int n = 0;
  for (const Shape& shape : shapes)
    for (const DType from : {DType::f32, DType::bf16, DType::f64, DType::i32})
      for (const DType to : {DType::f32, DType::bf16, DType::f64, DType::i32}) {
        const Layout layout = all_layouts[n++ % 5];
        const bool accumulate = n % 3 == 0;
        INFO(to_string(shape) << " " << name_of(from) << " to " << name_of(to) << " " << name_of(layout) << " accumulate " << accumulate);
        const Tensor x = r.normal(shape, DType::f64, 40).to(from).clone();
        const Tensor there = on_device(x, layout), before = r.normal(shape, DType::f64, 9).to(to).clone();
        const Tensor expected = before.clone();
        copy(there.to(Device::cpu).view(), expected.out(accumulate));
        Guarded y(shape, to, n % 2 == 0);
        const Tensor b = before.to(Device::gpu);
        copy(b.view(), y.inside.out());
        copy(there.view(), y.inside.out(accumulate));
        CHECK(bitwise_equal(cpu_copy(y.inside), expected));
        CHECK(y.intact());
        if (shape.rank > 1 && !accumulate) {  // a transposed destination
          const int k = shape.rank;
          Shape swapped = shape;
          std::swap(swapped[k - 1], swapped[k - 2]);
          const Tensor t = Tensor::empty(swapped, to, Device::gpu).transpose(k - 2, k - 1);
          copy(there.view(), t.out());
          CHECK(bitwise_equal(cpu_copy(t), expected));
        }
      }
}

TEST_CASE("gpu fill: every dtype, dense and strided, accumulating too", "[emulated]") {
  gpu::emulate(true);
  for (const Shape& shape : shapes)
    for (const DType d : {DType::f32, DType::bf16, DType::f64, DType::i32})
      for (const double value : {0.0, 3.0, -2.625})
        for (const bool strided : {false, true}) {
          INFO(to_string(shape) << " " << name_of(d) << " " << value << " strided " << strided);
          Guarded y(shape, d, strided);
          fill(y.inside.out(), value);
          const Tensor expected = Tensor::full(shape, value, d);
          CHECK(bitwise_equal(cpu_copy(y.inside), expected));
          CHECK(y.intact());
          fill(y.inside.out(true), 2);
          fill(expected.out(true), 2);
          CHECK(bitwise_equal(cpu_copy(y.inside), expected));
        }
}

TEST_CASE("gpu elementwise: all formulas and their slopes", "[emulated]") {
  gpu::emulate(true);
  Random r(2);
  int n = 0;
  for (int op = 0; op <= static_cast<int>(Unary::softcap); ++op)
    for (const DType d : {DType::f32, DType::bf16})
      for (int k = 0; k < 3; ++k) {
        const Shape shape = shapes[static_cast<size_t>(n % 8)];
        const Layout layout = all_layouts[n++ % 5];
        const auto u = static_cast<Unary>(op);
        const bool positive = u == Unary::log || u == Unary::sqrt || u == Unary::rsqrt || u == Unary::pow;
        const Tensor x = (positive ? r.uniform(shape, 0.1, 4) : r.normal(shape, DType::f64, 2)).to(d).clone(), g = r.normal(shape, d).clone();
        const double s = u == Unary::pow ? 1.7 : 2.5;
        INFO("unary " << op << " " << name_of(d) << " " << to_string(shape) << " " << name_of(layout));
        const Tensor there = on_device(x, layout), back = there.to(Device::cpu);
        const double limit = d == DType::f32 ? 1e-12 : 1e-5;
        const Tensor expected = Tensor::empty(shape, d), slope = r.normal(shape, d).clone(), slope_there = slope.to(Device::gpu);
        unary(u, back.view(), s, expected.out());
        const Tensor y = under_schedules([&] {
          const Tensor y = Tensor::empty(shape, d, Device::gpu);
          unary(u, there.view(), s, y.out());
          return y;
        });
        CHECK(nmse_within(y, expected, limit));
        const Tensor saved = saved_by(u) == Saves::output ? expected : back;
        unary_grad(u, g.view(), saved.view(), s, slope.out(true));
        unary_grad(u, g.to(Device::gpu).view(), saved.to(Device::gpu).view(), s, slope_there.out(true));
        CHECK(nmse_within(cpu_copy(slope_there), slope, limit));
      }
}

TEST_CASE("gpu elementwise: two operands, broadcast", "[emulated]") {
  gpu::emulate(true);
  Random r(3);
  struct Case {
    Shape a, b, y;
  };
  const std::vector<Case> cases = {{{5, 40}, {40}, {5, 40}},       {{5, 40}, {5, 1}, {5, 40}},    {{3, 1, 8}, {2, 8}, {3, 2, 8}}, {{1}, {1037}, {1037}},
                                   {{7, 3, 16}, {7, 3, 16}, {7, 3, 16}}, {{4, 1, 6}, {1, 5, 1}, {4, 5, 6}}, {{}, {9}, {9}},             {{2048}, {2048}, {2048}}};
  int n = 0;
  for (const Case& c : cases)
    for (int op = 0; op <= static_cast<int>(Binary::pow); ++op)
      for (const DType d : {DType::f32, DType::bf16}) {
        const auto o = static_cast<Binary>(op);
        const Tensor a = r.uniform(c.a, 0.2, 3).to(d).clone(), b = r.uniform(c.b, 0.2, 3).to(d).clone();
        const Layout la = c.a.rank ? all_layouts[n % 4] : Layout::dense, lb = c.b.rank ? all_layouts[n / 2 % 4] : Layout::dense;
        ++n;
        INFO("binary " << op << " " << name_of(d) << to_string(c.a) << to_string(c.b));
        const Tensor ga = on_device(a, la), gb = on_device(b, lb), expected = Tensor::empty(c.y, d), y = Tensor::empty(c.y, d, Device::gpu);
        binary(o, a.view(), b.view(), expected.out());
        binary(o, ga.view(), gb.view(), y.out());
        const double limit = d == DType::f32 ? 1e-12 : 1e-5;
        CHECK(nmse_within(cpu_copy(y), expected, limit));
        if (o == Binary::add || o == Binary::sub) continue;
        const Tensor dy = r.normal(c.y, d).clone(), gdy = dy.to(Device::gpu);
        for (const int which : {0, 1}) {
          binary_grad(o, which, dy.view(), a.view(), b.view(), expected.out(which == 1));
          binary_grad(o, which, gdy.view(), ga.view(), gb.view(), y.out(which == 1));
          CHECK(nmse_within(cpu_copy(y), expected, limit * 2));
        }
      }
}

TEST_CASE("gpu compare and where: every dtype, NaN, broadcast, in place", "[emulated]") {
  gpu::emulate(true);
  Random r(4);
  for (const Shape& shape : shapes)
    for (const DType d : {DType::f32, DType::bf16, DType::i32})
      for (int op = 0; op < 3; ++op) {
        const Tensor a = r.uniform(shape, -2, 2).to(DType::i32).to(d).clone(), b = r.uniform({1}, -2, 2).to(DType::i32).to(d).clone();
        if (d == DType::f32) a.out().as<float>()[0] = NAN;
        const Tensor ga = on_device(a, all_layouts[op % 4]), gb = b.to(Device::gpu);
        const Tensor y = Tensor::empty(shape, DType::i32), gy = Tensor::empty(shape, DType::i32, Device::gpu);
        compare(static_cast<Compare>(op), a.view(), b.view(), y.out());
        compare(static_cast<Compare>(op), ga.view(), gb.view(), gy.out());
        CHECK(bitwise_equal(cpu_copy(gy), y));
        const Tensor chosen = Tensor::empty(shape, d);
        where(y.view(), a.view(), b.view(), chosen.out());
        where(gy.view(), ga.view(), gb.view(), ga.out());
        CHECK(close(cpu_copy(ga), chosen, 0));
        if (d == DType::i32) continue;
        where(y.view(), b.view(), a.view(), chosen.out(true));
        where(gy.view(), gb.view(), on_device(a).view(), ga.out(true));
        CHECK(close(cpu_copy(ga), chosen, 0));
      }
}

TEST_CASE("gpu sum_to: rows, columns, mixtures; the same bits under every schedule", "[emulated]") {
  gpu::emulate(true);
  Random r(5);
  struct Case {
    Shape x, y;
  };
  const std::vector<Case> cases = {{{7}, {}},           {{3, 1200}, {3, 1}},   {{300, 5}, {5}},       {{700, 33}, {33}},       {{2, 9000}, {2, 1}},
                                   {{5, 6, 7}, {1, 6, 1}}, {{4, 3, 8}, {4, 1, 8}}, {{11, 13}, {11, 13}}, {{2, 5, 3, 4}, {5, 1, 4}}, {{70000}, {1}},
                                   {{3, 4, 6}, {3, 1, 1}}, {{9000, 2}, {2}},       {{1, 1}, {}},         {{0, 4}, {4}}};
  int n = 0;
  for (const Case& c : cases)
    for (const DType d : {DType::f32, DType::bf16})
      for (const Layout layout : {Layout::dense, Layout::transposed, Layout::offset, Layout::strided}) {
        if (c.x.numel() == 0 && layout != Layout::dense) continue;
        const bool accumulate = ++n % 2;
        INFO(to_string(c.x) << " to " << to_string(c.y) << " " << name_of(d) << " " << name_of(layout));
        const Tensor x = r.normal(c.x, d).clone(), there = on_device(x, layout), before = r.normal(c.y, DType::f32).clone(), expected = before.to(DType::f64).clone();
        sum_to(x.to(DType::f64).view(), expected.out(accumulate));
        const Tensor y = under_schedules([&] {
          const Tensor y = before.clone().to(Device::gpu);
          sum_to(there.view(), y.out(accumulate));
          return y;
        });
        CHECK(nmse_within(y, expected, 1e-10));
        if (layout == Layout::dense && c.x.numel() > 0) {  // alignment does not choose the order
          const Tensor wide = Tensor::empty({c.x.numel() + 1}, d, Device::gpu), shifted = wide.slice(0, 1, c.x.numel() + 1).reshape(c.x);
          const Tensor z = before.clone().to(Device::gpu);
          copy(there.view(), shifted.out());
          sum_to(shifted.view(), z.out(accumulate));
          CHECK(bitwise_equal(cpu_copy(z), y));
        }
      }
}

TEST_CASE("gpu softmax family: short and long rows, infinities, in place, accumulating", "[emulated]") {
  gpu::emulate(true);
  Random r(6);
  int k = 0;
  for (const Shape& shape : {Shape{1}, Shape{3, 7}, Shape{2, 3, 33}, Shape{9, 257}, Shape{2, 1100}, Shape{3, 2049}})
    for (const DType d : {DType::f32, DType::bf16})
      for (int form = 0; form < 3; ++form) {
        const Layout layout = all_layouts[k++ % 4];
        INFO(to_string(shape) << " " << name_of(d) << " form " << form << " " << name_of(layout));
        const Tensor x = r.normal(shape, DType::f64, 5).to(d).clone();
        if (d == DType::f32 && shape.numel() > 5 && form != 2) x.out().as<float>()[4] = -INFINITY;
        Shape one = shape;
        one[-1] = 1;
        const Tensor gx = on_device(x, layout), y = Tensor::empty(shape, d), lse = Tensor::empty(one), glse = Tensor::empty(one, DType::f32, Device::gpu);
        const Tensor start = r.normal(shape, d).clone(), dy = r.normal(form == 2 ? one : shape, d).clone(), gdy = on_device(dy, all_layouts[k % 4]);
        const Tensor dx = r.normal(shape, d).clone(), gdx = dx.to(Device::gpu);
        const double limit = d == DType::f32 ? 1e-12 : 1e-5;
        const Tensor gy = under_schedules([&] {
          const Tensor y = start.to(Device::gpu);
          if (form == 0) softmax(gx.view(), y.out(true));
          else if (form == 1) log_softmax(gx.view(), y.out(true), glse.out());
          else logsumexp(gx.view(), glse.out());
          return y;
        });
        copy(start.view(), y.out());
        if (form == 0) softmax(x.view(), y.out(true));
        else if (form == 1) log_softmax(x.view(), y.out(true), lse.out());
        else logsumexp(x.view(), lse.out());
        if (form == 1) CHECK(close(gy, y, d == DType::f32 ? 1e-5 : 1e-2, 1e-5));
        else CHECK(nmse_within(gy, y, limit));
        if (form != 0) CHECK(nmse_within(cpu_copy(glse), lse, 1e-12));
        if (form == 0) {
          softmax(x.view(), y.out());
          softmax_grad(dy.view(), y.view(), dx.out(true));
          softmax_grad(gdy.view(), y.to(Device::gpu).view(), gdx.out(true));
          softmax(gx.view(), gx.out());
          CHECK(nmse_within(cpu_copy(gx), y, limit));
        } else if (form == 1) {
          log_softmax_grad(dy.view(), x.view(), lse.view(), dx.out());
          log_softmax_grad(gdy.view(), gx.view(), glse.view(), gdx.out());
        } else {
          logsumexp_grad(dy.view(), x.view(), lse.view(), dx.out());
          logsumexp_grad(gdy.view(), gx.view(), glse.view(), gdx.out());
        }
        CHECK(nmse_within(cpu_copy(gdx), dx, limit * 4));
      }
  // Rows of nothing but -inf, and +inf.
  const float inf = INFINITY;
  const Tensor odd = Tensor::from({-inf, -inf, 1, inf, NAN, 2}, {3, 2}), godd = odd.to(Device::gpu);
  for (int form = 0; form < 3; ++form) {
    const Tensor y = Tensor::zeros({3, 2}), lse = Tensor::zeros({3, 1}), gy = Tensor::zeros({3, 2}, DType::f32, Device::gpu), glse = Tensor::zeros({3, 1}, DType::f32, Device::gpu);
    const auto run = [&](const Tensor& x, const Tensor& to, const Tensor& l) {
      if (form == 0) softmax(x.view(), to.out());
      else if (form == 1) log_softmax(x.view(), to.out(), l.out());
      else logsumexp(x.view(), l.out());
    };
    run(odd, y, lse);
    run(godd, gy, glse);
    INFO("form " << form);
    CHECK(close(cpu_copy(gy), y, 0));
    CHECK(close(cpu_copy(glse), lse, 0));
  }
}

TEST_CASE("gpu max, argmax, max_grad, top_k, cumsum: ties, NaN, strides", "[emulated]") {
  gpu::emulate(true);
  Random r(7);
  int n = 0;
  for (const Shape& shape : {Shape{1}, Shape{4, 5}, Shape{3, 2, 31}, Shape{9, 257}, Shape{2, 1500}, Shape{1, 5000}})
    for (const DType d : {DType::f32, DType::bf16})
      for (int kind = 0; kind < 3; ++kind) {
        const Layout layout = all_layouts[n++ % 4];
        INFO(to_string(shape) << " " << name_of(d) << " kind " << kind << " " << name_of(layout));
        // many ties; distinct; negative with a NaN
        Tensor x = (kind == 0 ? r.uniform(shape, 0, 4).to(DType::i32).to(d) : kind == 1 ? r.normal(shape, d) : r.uniform(shape, -3, -0.0).to(d)).clone();
        if (kind == 2 && d == DType::f32 && shape.numel() > 3) x.out().as<float>()[3] = NAN;
        Shape one = shape;
        one[-1] = 1;
        const Tensor gx = on_device(x, layout), y = Tensor::empty(one, d), gy = Tensor::empty(one, d, Device::gpu);
        const Tensor id = Tensor::empty(one, DType::i32), gid = Tensor::empty(one, DType::i32, Device::gpu);
        max(x.view(), y.out());
        max(gx.view(), gy.out());
        CHECK(close(cpu_copy(gy), y, 0));
        argmax(x.view(), id.out());
        argmax(gx.view(), gid.out());
        CHECK(bitwise_equal(cpu_copy(gid), id));
        const Tensor dy = r.normal(one, d).clone(), dx = r.normal(shape, d).clone(), gdx = dx.to(Device::gpu);
        max_grad(dy.view(), x.view(), y.view(), dx.out(true));
        max_grad(dy.to(Device::gpu).view(), gx.view(), gy.view(), gdx.out(true));
        CHECK(close(cpu_copy(gdx), dx, d == DType::f32 ? 1e-6 : 1e-2));
        for (const int64_t k : {int64_t{1}, std::min<int64_t>(3, shape[-1]), std::min<int64_t>(100, shape[-1]), shape[-1]}) {
          Shape some = shape;
          some[-1] = k;
          const Tensor v = Tensor::empty(some, d), i = Tensor::empty(some, DType::i32), gv = Tensor::empty(some, d, Device::gpu);
          top_k(x.view(), v.out(), i.out());
          const Tensor gi = under_schedules([&] {
            const Tensor gi = Tensor::empty(some, DType::i32, Device::gpu);
            top_k(gx.view(), gv.out(), gi.out());
            return gi;
          });
          CHECK(bitwise_equal(gi, i));
          CHECK(close(cpu_copy(gv), v, 0));
        }
        if (kind == 2) continue;
        for (const bool reverse : {false, true}) {
          const Tensor exact = Tensor::zeros(shape, DType::f64), start = r.normal(shape, d).clone();
          copy(start.view(), exact.out());
          cumsum(x.to(DType::f64).view(), reverse, exact.out(true));
          const Tensor sums = under_schedules([&] {
            const Tensor s = start.to(Device::gpu);
            cumsum(gx.view(), reverse, s.out(true));
            return s;
          });
          CHECK(nmse_within(sums, exact, d == DType::f32 ? 1e-10 : 2e-5));
        }
      }
}

TEST_CASE("gpu argmax and top_k: zeros of both signs are equal", "[emulated]") {
  gpu::emulate(true);
  const Tensor x = Tensor::from({-0.0f, 0.0f, -1.0f, -0.0f}, {1, 4}).to(Device::gpu);
  const Tensor id = Tensor::empty({1, 1}, DType::i32, Device::gpu), ids = Tensor::empty({1, 4}, DType::i32, Device::gpu), values = Tensor::empty({1, 4}, DType::f32, Device::gpu);
  argmax(x.view(), id.out());
  top_k(x.view(), values.out(), ids.out());
  CHECK(id.item() == 0);
  CHECK(ids.to_vector() == std::vector<double>{0, 1, 3, 2});
}

TEST_CASE("gpu gather, scatter_add: elements and slices, every destination in index order, indices out of range", "[emulated]") {
  gpu::emulate(true);
  Random r(8);
  struct Case {
    Shape x, index;
    int dim;
    bool slices;
  };
  const std::vector<Case> cases = {{{5}, {9}, 0, false},           {{6, 7}, {6, 1}, 1, false},      {{6, 7}, {300, 7}, 0, false}, {{9, 16}, {20, 16}, 0, true},
                                   {{40, 130}, {150, 130}, 0, true}, {{3, 5, 8}, {3, 12, 8}, 1, true}, {{3, 5, 8}, {3, 5, 140}, 2, false}, {{200}, {300}, 0, false},
                                   {{1, 3}, {257, 3}, 0, true}};
  int n = 0;
  for (const Case& c : cases)
    for (const DType d : {DType::f32, DType::bf16, DType::i32})
      for (const DType to : {DType::f32, DType::bf16}) {
        INFO(to_string(c.x) << " by " << to_string(c.index) << " dim " << c.dim << " " << name_of(d) << " to " << name_of(to));
        const Layout layout = all_layouts[n++ % 4];
        const Tensor x = r.normal(c.x, DType::f64, 9).to(d).clone(), gx = on_device(x, layout);
        Shape narrow = c.index;
        if (c.slices) narrow[-1] = 1;
        const Tensor index = r.ids(narrow, c.x.dim[c.dim]).expand(c.index);
        const Tensor gindex = index.slice(c.index.rank - 1, 0, narrow[-1]).clone().to(Device::gpu).expand(c.index);
        const Tensor y = Tensor::empty(c.index, d), gy = on_device(y, layout);
        gather(x.view(), c.dim, index.view(), y.out());
        gather(gx.view(), c.dim, gindex.view(), gy.out());
        CHECK(bitwise_equal(cpu_copy(gy), y));
        if (d == DType::i32) continue;
        const Tensor sum = r.normal(c.x, to).clone(), source = r.normal(c.index, d).clone(), gsource = on_device(source, layout);
        const Tensor gsum = under_schedules([&] {
          const Tensor s = on_device(sum, layout);
          scatter_add(gsource.view(), c.dim, gindex.view(), s.out(true));
          return s;
        });
        scatter_add(source.view(), c.dim, index.view(), sum.out(true));
        CHECK(bitwise_equal(gsum, sum));
      }
  const Tensor x = Tensor::from({1, 2, 3, 4, 5, 6, 7, 8}, {2, 4}).to(Device::gpu), index = Tensor::from(std::vector<int32_t>{1, -1, 2}, {3, 1}).to(Device::gpu).expand({3, 4});
  const Tensor y = Tensor::empty({3, 4}, DType::f32, Device::gpu), sum = Tensor::zeros({2, 4}, DType::f32, Device::gpu);
  gather(x.view(), 0, index.view(), y.out());
  CHECK(close(cpu_copy(y), Tensor::from({5, 6, 7, 8, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN}, {3, 4}), 0));
  scatter_add(Tensor::full({3, 4}, 2, DType::f32, Device::gpu).view(), 0, index.view(), sum.out(true));
  CHECK(cpu_copy(sum).to_vector() == std::vector<double>{0, 0, 0, 0, 2, 2, 2, 2});
}
