// Attention with heads of 64, 128 and 256, and the operations of a small model at its own sizes, against the CPU: the contracts that conformance
// runs at the sizes of real models.
#include <catch2/catch.hpp>

#include "tensor/gpu/emulator/emulator.h"
#include "tests/contracts/device.h"
#include "tests/contracts/sizes.h"

using namespace facet;
using namespace facet::test;

namespace {

void check(const Contracts& list) {
  gpu::emulate(true);
  for (const Contract& c : list) {
    const DeviceResult r = run_on_device(c, {.runs = 2});
    INFO(c.name);
    CHECK(r.ran == static_cast<int>(c.dtypes.size() == 1 ? 1 : 2));
    for (const std::string& what : r.failures) FAIL_CHECK(what);
  }
}

}  // namespace

// A window of 20 hides whole tiles of 64 keys from every query behind the second.
TEST_CASE("sizes: attention with heads of 64, eight of them on two, behind a window, packed, branched, capped", "[full]") {
  check(attention_at({"heads of 64", 150, 0, 0, 8, 2, 64, 0, 20}));
}
TEST_CASE("sizes: attention with heads of 128, two on one", "[full]") { check(attention_at({"heads of 128", 140, 0, 0, 2, 1, 128, 0, 20})); }
TEST_CASE("sizes: attention with heads of 256, four on one, as Gemma's", "[full]") { check(attention_at({"heads of 256", 140, 0, 0, 4, 1, 256, 0, 20})); }

TEST_CASE("sizes: the operations of a model at its own sizes") { check(contracts_at({"a small model", 40, 72, 200, 4, 1, 32, 1000, 11})); }

TEST_CASE("sizes: products of a library, a vocabulary of many blocks", "[full]") { check(contracts_at({"a larger model", 26, 160, 264, 4, 2, 64, 20'000, 9})); }
