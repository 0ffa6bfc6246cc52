// docs/kernel_shapes.md: what every contract of an operation is computed on, GPU against CPU. The page is written here, so it cannot say what is
// not so.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/contracts/contract.h"

using namespace facet;
using namespace facet::test;

namespace {

const std::string page_file = FACET_SOURCE "/docs/kernel_shapes.md";

const char head[] =
    R"(# What kernels are tested on

The inputs of every operation's contract, shape by shape and with their layout where they are not dense. On a GPU, real or emulated, each is computed in
f32 and in bf16, forward and backward, three times, and compared with the CPU (tests/contracts/device.h); on the emulator with the threads of a block in
forward, reverse and random order. Written by `FACET_WRITE=1 build/tests/test_gpu "shapes*"`.

What no operation's gradient reaches has tests of its own in tests/gpu: optimizers and norms of gradients (update), sampling (sample, logits), caches
and rows of decoding (fused, scatter, decode_rows), paths of products (gemm) and of attention (attention).

| operation | inputs |
|---|---|
)";

/// The words of a sample behind its name and number.
std::string inputs_of(const Contract& c, int sample) {
  const std::string what = make_sample(c, sample).what;
  return what.substr(what.find(": ", c.name.size()) + 2);
}

}  // namespace

TEST_CASE("shapes: the page says what every operation is tested on, and that is enough") {
  std::string page = head;
  std::map<std::string, std::set<std::string>> of_operation;  // of all its variants
  for (const Contract& c : contracts()) {
    std::set<std::string> seen;
    std::string list;
    for (int i = 0; i < c.samples; ++i) {
      const std::string inputs = inputs_of(c, i);
      if (seen.insert(inputs).second) list += (list.empty() ? "" : "; ") + inputs;
    }
    if (c.kind != Arithmetic::none) of_operation[c.name.substr(0, c.name.find(": "))].merge(seen);  // what only moves values may be about one shape
    page += "| " + c.name + " | " + list + " |\n";
  }
  for (const auto& [operation, seen] : of_operation) {
    INFO(operation);
    CHECK(seen.size() >= 6);
  }
  if (std::getenv("FACET_WRITE")) std::ofstream(page_file) << page;
  std::stringstream now;
  now << std::ifstream(page_file).rdbuf();
  INFO("FACET_WRITE=1 build/tests/test_gpu \"shapes*\" writes docs/kernel_shapes.md");
  CHECK(now.str() == page);
}
