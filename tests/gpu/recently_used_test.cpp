#include "tensor/gpu/recently_used.h"

#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <vector>

using namespace facet;

namespace {
using Kept = gpu::RecentlyUsed<int, std::unique_ptr<int>, std::hash<int>>;
std::unique_ptr<int> value(int v) { return std::make_unique<int>(v); }
}  // namespace

TEST_CASE("recently used: a new one takes the place of what was not used for longest") {
  Kept k(3);
  for (int i = 1; i <= 3; ++i) CHECK(*k.add(i, value(10 * i)) == 10 * i);
  CHECK(**k.find(1) == 10);
  k.add(4, value(40));  // in the place of 2
  CHECK(k.size() == 3);
  CHECK_FALSE(k.find(2));
  for (const int i : {1, 3, 4}) CHECK(**k.find(i) == 10 * i);
}

TEST_CASE("recently used: one that may not go stays, and so does all where none may") {
  Kept k(3);
  for (int i = 1; i <= 3; ++i) k.add(i, value(i));
  std::vector<int> asked;
  const auto odd_stay = [&](const std::unique_ptr<int>& v) { return asked.push_back(*v), *v % 2 == 0; };
  k.add(5, value(5), odd_stay);
  CHECK(asked == std::vector<int>{1, 2});
  CHECK(k.size() == 3);
  CHECK_FALSE(k.find(2));
  asked.clear();
  k.add(7, value(7), odd_stay);
  CHECK(asked == std::vector<int>{1, 3, 5});
  CHECK(k.size() == 4);
  k.add(8, value(8));  // now all may: down to three again
  CHECK(k.size() == 3);
  for (const int i : {5, 7, 8}) CHECK(k.find(i));
}

TEST_CASE("recently used: as a list that is searched") {
  constexpr size_t most = 7;
  Kept k(most);
  std::vector<int> want;  // the last used first
  std::mt19937 draw(1);
  for (int i = 0; i < 3000; ++i) {
    const int key = static_cast<int>(draw() % 12);
    const auto at = std::find(want.begin(), want.end(), key);
    const auto* const found = k.find(key);
    CHECK((found != nullptr) == (at != want.end()));
    if (found) CHECK(**found == key);
    else k.add(key, value(key));
    if (at != want.end()) want.erase(at);
    else if (want.size() == most) want.pop_back();
    want.insert(want.begin(), key);
    CHECK(k.size() == want.size());
  }
}
