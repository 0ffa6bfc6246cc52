#include "tensor/tensor.h"

#include <catch2/catch.hpp>

#include "tensor/kernels/copy.h"

using namespace facet;

TEST_CASE("tensor: windows share storage and know their layout") {
  Tensor a = Tensor::from({1, 2, 3, 4, 5, 6}, {2, 3});
  Tensor t = a.transpose(0, 1);
  CHECK(t.shape() == Shape{3, 2});
  CHECK(t.shares_storage(a));
  CHECK_FALSE(t.contiguous());
  CHECK(t.to_vector() == std::vector<double>{1, 4, 2, 5, 3, 6});
  CHECK(t.dense().reshape({6}).to_vector() == std::vector<double>{1, 4, 2, 5, 3, 6});
  CHECK_THROWS_AS(t.reshape({6}), Error);
  CHECK(a.slice(1, 1, 3).to_vector() == std::vector<double>{2, 3, 5, 6});
  CHECK(a.slice(1, 0, 3, 2).to_vector() == std::vector<double>{1, 3, 4, 6});
  CHECK(a.slice(1, 0, 2).reshape({2, 2, 1}).to_vector() == std::vector<double>{1, 2, 4, 5});
  CHECK_THROWS_AS(a.slice(1, 0, 2).reshape({4}), Error);
  CHECK(a.reshape({-1}).dim(0) == 6);
  CHECK(Tensor::from({1, 2}, {2, 1}).expand({3, 2, 2}).to_vector() == std::vector<double>{1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2});
}

TEST_CASE("tensor: dtypes convert with round to nearest even") {
  Tensor a = Tensor::from({1.0f, 1.00390625f, 1.01171875f, -3.5f}, {4});
  CHECK(a.to(DType::bf16).to(DType::f32).to_vector() == std::vector<double>{1, 1, 1.015625, -3.5});
  CHECK(a.to(DType::i32).to_vector() == std::vector<double>{1, 1, 1, -3});
  CHECK_THROWS_AS(a.data<double>(), Error);
}

TEST_CASE("tensor: accumulate adds, writes bump the version") {
  Tensor a = Tensor::full({3}, 2), b = Tensor::full({3}, 5);
  const uint32_t v = b.version();
  copy(a.view(), b.out(true));
  CHECK(b.to_vector() == std::vector<double>{7, 7, 7});
  CHECK(b.version() == v + 1);
  Saved s(b);
  CHECK(s.get().shares_storage(b));
  fill(b.out(), 1);
  CHECK_THROWS_AS(s.get(), Error);
}

TEST_CASE("tensor: prints shape, dtype and shortened values") {
  CHECK(to_string(Tensor::from({1, 2.5, 3, 4}, {2, 2})) == "f32[2, 2] [[1, 2.5], [3, 4]]");
  CHECK(to_string(Tensor::arange(100)) == "i32[100] [0, 1, 2, 3, ..., 96, 97, 98, 99]");
  CHECK(to_string(Tensor{}) == "(absent)");
}

TEST_CASE("pool: freed blocks come back without a system allocation") {
  { Tensor a = Tensor::empty({1000, 1000}); }
  const PoolStats before = pool_stats();
  { Tensor a = Tensor::empty({1000, 990}); }
  const PoolStats after = pool_stats();
  CHECK(after.sys_allocs == before.sys_allocs);
  CHECK(after.live_bytes == before.live_bytes);
  CHECK(after.peak_bytes >= before.live_bytes + 4 * 990 * 1000);
  CHECK_THROWS_AS(Tensor::empty({int64_t{1} << 40, int64_t{1} << 40}), Error);
}
