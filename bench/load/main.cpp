// Loading a model's folder against reading its files, both from the page cache: bench_load DIR. They take turns; the best round of each
// counts.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>

#include "models/gemma/load.h"
#include "tensor/io/durable.h"
#include "tensor/io/tensor_files.h"

using namespace facet;

namespace {

double seconds_of(const std::function<void()>& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: bench_load DIR\n");
    return 2;
  }
  try {
    const std::string folder = argv[1];
    const TensorFiles files(folder);
    uint64_t bytes = 0;
    for (const std::string& f : files.files()) bytes += InputFile(f).size();
    // What loading cannot do without: the bytes, once. Both sides ask the system for fresh memory, as a program that starts does.
    const auto read = [&] {
      const auto memory = std::make_unique_for_overwrite<uint8_t[]>(bytes);
      uint64_t at = 0;
      for (const std::string& f : files.files()) {
        const InputFile in(f);
        in.read(0, {memory.get() + at, static_cast<size_t>(in.size())});
        at += in.size();
      }
    };
    const DType stored = files.tensors().begin()->second.dtype == "BF16" ? DType::bf16 : DType::f32;
    double reading = std::numeric_limits<double>::infinity(), loading = reading;
    for (int round = 0; round < 5; ++round) {
      pool_trim();
      reading = std::min(reading, seconds_of(read));
      loading = std::min(loading, seconds_of([&] { load_gemma(folder, stored); }));
    }
    fmt::print("{} in {}: read {:.3f} s, loaded as {} {:.3f} s, ratio {:.2f}\n", human_bytes(bytes), folder, reading, name_of(stored), loading, loading / reading);
    return 0;
  } catch (const Error& e) {
    fmt::print(stderr, "bench_load: {}\n", e.what());
    return 1;
  }
}
