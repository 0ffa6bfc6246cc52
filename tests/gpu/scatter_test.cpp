// Kernels that follow integers: embedding, ring_write, and the sort beneath.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/sort_ids.h"
#include "tensor/kernels/embedding.h"
#include "tensor/kernels/ring_write.h"
#include "tests/gpu/kernel_check.h"
#include "tests/support/compare.h"

using namespace facet;
using namespace facet::test;

namespace {

Tensor ints(const std::vector<int32_t>& v, const Shape& shape) { return Tensor::from(v, shape); }

struct IdCase {
  int64_t n, v, d, distinct, extra;  ///< `distinct` ids occur, 0: any
};
constexpr IdCase id_cases[] = {{1, 1, 8, 0, 0},      {7, 5, 3, 0, 0},     {33, 100, 16, 0, 8},   {64, 9, 24, 1, 0},    {65, 9, 24, 1, 3},
                               {700, 2000, 8, 3, 0}, {300, 50, 640, 2, 0}, {0, 4, 8, 0, 0},       {2100, 4000, 1, 0, 0}, {40, 6, 2056, 3, 0},
                               {31, 1100, 32, 4, 0}};

Tensor ids_of(Random& r, const IdCase& c) {
  std::vector<int32_t> v(static_cast<size_t>(c.n));
  for (int32_t& id : v) id = static_cast<int32_t>(c.distinct ? r.below(c.distinct) * (c.v / c.distinct) : r.below(c.v));
  return ints(v, {c.n});
}

}  // namespace

TEST_CASE("sort_ids: ascending, equal ids in order, ids out of range last") {
  gpu::emulate(true);
  Random r(7);
  for (const int64_t n : {0, 1, 31, 256, 2048, 2049, 9000}) {
    for (const int64_t limit : {1, 5, 1000, 1024, 70000}) {
      std::vector<int32_t> ids(static_cast<size_t>(n));
      for (int32_t& id : ids) id = static_cast<int32_t>(r.below(limit + 2)) - 1;  // -1 and limit are out of range
      const Tensor t = ints(ids, {n}).to(Device::gpu);
      const gpu::SortedIds sorted("sort_ids", t.view().as<int32_t>(), n, limit);
      std::vector<int32_t> id(ids.size()), place(ids.size()), order(ids.size());
      gpu::copy_to_host(id.data(), sorted.id(), id.size() * 4);
      gpu::copy_to_host(place.data(), sorted.place(), place.size() * 4);
      for (int32_t& i : ids) i = i < 0 ? static_cast<int32_t>(limit) : i;
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return ids[static_cast<size_t>(a)] < ids[static_cast<size_t>(b)]; });
      INFO(n << " ids below " << limit);
      CHECK(place == order);
      bool same = true;
      for (size_t i = 0; i < ids.size(); ++i) same = same && id[i] == ids[static_cast<size_t>(order[i])];
      CHECK(same);
    }
  }
}

TEST_CASE("embedding: gpu as cpu") {
  Random r(5);
  int sample = 0;
  for (const IdCase& c : id_cases) {
    for (const DType w : {DType::f32, DType::bf16}) {
      for (const DType t : {DType::f32, DType::bf16}) {
        ++sample;
        const Tensor ids = ids_of(r, c);
        const std::string what = std::string(name_of(w)) + " to " + name_of(t) + to_string(Shape{c.n, c.v, c.d});
        KernelCheck k{"embedding " + what, {ids, wide_rows(r, {c.v, c.d}, w, c.extra)}, {{{c.n, c.d}, t}}};
        k.limits = t == DType::f32 ? f32_elementwise : bf16_forward;
        k.shift = sample % 5 == 4;
        if (sample % 3 == 1) k.out[0].start = r.normal({c.n, c.d}, t), k.out[0].add = true;
        k.body = [](const Views& in, const Outs& out) { embedding(in[0], in[1], 1.7, out[0]); };
        check_kernel(k);

        KernelCheck b{"embedding_backward " + what, {ids, wide_rows(r, {c.n, c.d}, t, c.extra)}, {{{c.v, c.d}, w, r.normal({c.v, c.d}, w)}}};
        // The CPU rounds a bf16 table at every addition: only ids that occur once can agree.
        if (w == DType::bf16) b.compare = false;
        b.limits = f32_sums;
        b.shift = sample % 7 == 6;
        b.body = [](const Views& in, const Outs& out) { embedding_backward(in[0], in[1], 1.7, out[0]); };
        const Tensor dtable = check_kernel(b)[0];
        if (w == DType::f32) continue;
        const Tensor exact = b.out[0].start.to(DType::f32), dy = b.in[1].window(b.in[1].base);
        embedding_backward(ids.view(), dy.clone().view(), 1.7, exact.out(true));
        CHECK(nmse_within(dtable, exact, bf16_backward.nmse));
      }
    }
  }
}

TEST_CASE("embedding: ids out of range read NaN and write nothing") {
  gpu::emulate(true);
  for (const int64_t d : {8, 3}) {
    const Tensor ids = ints({2, -1, 3, 0, INT32_MAX}, {5}).to(Device::gpu), table = Tensor::full({3, d}, 2).to(Device::gpu);
    const Tensor y = Tensor::empty({5, d}, DType::f32, Device::gpu), dtable = Tensor::zeros({3, d}, DType::f32, Device::gpu);
    embedding(ids.view(), table.view(), 1, y.out());
    embedding_backward(ids.view(), Tensor::full({5, d}, 1).to(Device::gpu).view(), 1, dtable.out(true));
    const Tensor seen = y.to(Device::cpu), grad = dtable.to(Device::cpu);
    for (int64_t i = 0; i < d; ++i) {
      CHECK(seen.at({0, i}) == 2);
      CHECK(std::isnan(seen.at({1, i})));
      CHECK(std::isnan(seen.at({2, i})));
      CHECK(seen.at({3, i}) == 2);
      CHECK(std::isnan(seen.at({4, i})));
      CHECK(grad.at({0, i}) == 1);
      CHECK(grad.at({1, i}) == 0);
      CHECK(grad.at({2, i}) == 1);
    }
  }
}

TEST_CASE("ring_write: gpu as cpu") {
  Random r(6);
  struct Case {
    int64_t b, t, ring;
    Shape tail;
  };
  int sample = 0;
  for (const Case& c : {Case{1, 1, 4, {1, 8}}, Case{2, 3, 5, {2, 16}}, Case{3, 4, 4, {3}}, Case{2, 7, 9, {1, 257}}, Case{1, 16, 16, {1, 640}},
                        Case{2, 0, 3, {4}}}) {
    for (const DType from : {DType::f32, DType::bf16}) {
      for (const DType to : {DType::f32, DType::bf16}) {
        ++sample;
        Shape rows{c.b, c.t}, ring{c.b, c.ring};
        for (const int64_t s : c.tail) rows.push(s), ring.push(s);
        std::vector<int32_t> where;
        for (int64_t b = 0; b < c.b; ++b)
          for (int64_t t = 0; t < c.t; ++t) where.push_back(t < b ? -1 : static_cast<int32_t>(100 * b + t));  // padding on the left
        // rows cut from longer sequences, a ring among others
        const Input x{r.normal([&] { Shape s = rows; s[1] += 3; return s; }(), from), [c](const Tensor& t) { return t.slice(1, 2, 2 + c.t); }};
        KernelCheck k{std::string("ring_write ") + name_of(from) + " to " + name_of(to) + to_string(rows), {x, ints(where, {c.b, c.t})}, {{ring, to}, {{c.b, c.ring}, DType::i32}}};
        k.limits = same_bits;
        k.out[0].start = r.normal(ring, to);
        k.out[1].absent = sample % 4 == 3;
        k.shift = sample % 5 == 4;
        k.body = [](const Views& in, const Outs& out) { ring_write(in[0], in[1], out[0], out[1]); };
        check_kernel(k);
      }
    }
  }
}
