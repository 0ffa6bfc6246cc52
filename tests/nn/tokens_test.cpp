#include <catch2/catch.hpp>

#include "nn/language_model.h"

using namespace facet;

TEST_CASE("tokens are plain when every row counts from 0 and is one document", "[tokens]") {
  const Tensor ids = Tensor::zeros({2, 3}, DType::i32);
  const auto plain = [&](const std::vector<int32_t>& p, const Tensor& segments = {}) { return Tokens{ids, Tensor::from(p, {2, 3}), segments}.is_plain(); };
  CHECK(plain_tokens(ids).is_plain());
  CHECK(plain({0, 1, 2, 0, 1, 2}));
  CHECK_FALSE(plain({0, 1, 2, 1, 2, 3}));
  CHECK_FALSE(plain({0, 1, -1, 0, 1, 2}));
  CHECK_FALSE(plain({0, 1, 2, 3, 4, 5}));
  CHECK_FALSE(plain({0, 1, 2, 0, 1, 2}, ids));
  Tokens claimed = plain_tokens(ids);
  claimed.segments = ids;
  CHECK_FALSE(claimed.is_plain());
}
