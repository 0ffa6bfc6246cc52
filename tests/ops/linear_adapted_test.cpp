#include <catch2/catch.hpp>

#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "tensor/kernels/place_blocks.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("linear_adapted: contract, in a panel and not", "[contract]") { check_contracts("linear_adapted"); }

TEST_CASE("linear_adapted: gradients only for those who want one, and none are recorded without") {
  Random random(1);
  const Tensor x = random.normal({20, 6}, DType::f32), w = random.normal({8, 6}, DType::f32), a = random.normal({2, 6}, DType::f32),
               b = random.normal({8, 2}, DType::f32);
  const auto apply = [](const Tensor& in, const Tensor& matrix, const Tensor& f, const Tensor& g) {
    const LowRankTerm terms[] = {{0, f, g, 0.5}};
    return linear_adapted(in, {&matrix, 1}, terms);
  };
  CHECK_FALSE(apply(x, w, a, b).slot());
  const Tensor all[] = {leaf(x), leaf(w), leaf(a), leaf(b)};
  backward(sum(apply(all[0], all[1], all[2], all[3])));
  for (int wanted = 0; wanted < 16; ++wanted) {
    Tensor in[4] = {x, w, a, b};
    for (int i = 0; i < 4; ++i)
      if (wanted >> i & 1) in[i] = leaf(in[i]);
    const Tensor y = apply(in[0], in[1], in[2], in[3]);
    CHECK(static_cast<bool>(y.slot()) == (wanted != 0));
    if (!wanted) continue;
    backward(sum(y));
    for (int i = 0; i < 4; ++i)
      if (wanted >> i & 1) CHECK(close(grad_of(in[i]), grad_of(all[i]), 1e-6));
  }
}

TEST_CASE("linear_adapted: errors name factors and columns") {
  const Tensor x = Tensor::zeros({20, 6}), w = Tensor::zeros({8, 6}), a = Tensor::zeros({2, 6}), b = Tensor::zeros({5, 2});
  const auto message = [&](std::vector<LowRankTerm> terms) -> std::string {
    try {
      linear_adapted(x, {&w, 1}, terms);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(message({{3, a, b}}) == "");
  CHECK_THAT(message({{4, a, b}}), Catch::Contains("a [2, 6] and b [5, 2] at column 4 of 8"));
  CHECK_THAT(message({{0, a, b}, {3, a, Tensor::zeros({3, 2})}}), Catch::Contains("columns from 5 on"));
  CHECK_THAT(message({{0, Tensor::zeros({3, 6}), b}}), Catch::Contains("a [3, 6] and b [5, 2]"));
  CHECK_THAT(message({{0, Tensor::zeros({2, 5}), b}}), Catch::Contains("linear_adapted: x [20, 6] and a [2, 5]"));
}

TEST_CASE("tensor: room behind rows is there once, for rows of any number, and not behind some of their columns") {
  const Tensor t = Tensor::with_room({2, 3, 4}, 8);
  CHECK(t.room() == 8);
  CHECK(t.stride()[1] == 12);
  CHECK(t.reshape({6, 4}).room() == 8);
  CHECK(t.slice(1, 1, 2).room() == 8);
  CHECK(t.slice(2, 0, 3).room() == 0);
  CHECK(t.clone().room() == 0);
  t.set(Tensor::full({2, 3, 4}, 5));
  const Tensor behind = t.take_room(3);
  CHECK((t.room() == 0 && behind.room() == 0));
  CHECK(behind.shape() == Shape{2, 3, 3});
  behind.set(Tensor::full({2, 3, 3}, 7));
  CHECK(t.to_vector() == std::vector<double>(24, 5));
  CHECK(behind.view().as<float>() == t.view().as<float>() + 4);
  CHECK_THROWS_WITH(t.take_room(1), Catch::Contains("there is room for 0"));
}

TEST_CASE("place_blocks: a matrix of blocks, of zeros elsewhere, whatever was there") {
  Random random(3);
  for (int sample = 0; sample < 8; ++sample) {
    const int64_t n = 1 + sample % 5, width = 3 + 7 * sample;
    const Tensor whole = Tensor::full({40, 90}, 9), to = whole.slice(0, 1, 39).slice(1, 2, 88);
    Tensor want = Tensor::zeros(to.shape());
    std::vector<Block> blocks;
    std::vector<Tensor> kept;
    for (int64_t i = 0; i < n; ++i) {
      kept.push_back(with_layout(random.normal({5, std::min<int64_t>(width, 20)}, DType::f32), all_layouts[(sample + i) % 4]));
      blocks.push_back({kept.back().view(), 7 * i, 11 * i});
      want.slice(0, 7 * i, 7 * i + 5).slice(1, 11 * i, 11 * i + kept.back().dim(1)).set(kept.back());
    }
    place_blocks(blocks, to.out());
    CHECK(bitwise_equal(to.clone(), want));
    CHECK(whole.at({0, 5}) == 9);
    CHECK(whole.at({5, 1}) == 9);
    CHECK(whole.at({5, 88}) == 9);
  }
}
