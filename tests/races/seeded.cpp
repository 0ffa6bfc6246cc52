// Chunks of a kernel that get into each other's way, and their twins that do not. One of them a run: the detector tells of each race once.
#include <cstdio>
#include <string>
#include <string_view>

#include "tensor/parallel.h"
#include "tensor/scratch.h"
#include "tensor/tensor.h"

using namespace facet;

namespace {

constexpr int64_t n = 64, chunk = 16;

// Every chunk writes one element too many, which is the next one's first.
void overlaps(float* y, bool wrong) {
  parallel_for(n, chunk, 1, [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b + (wrong && b < n); ++i) y[i] = static_cast<float>(i);
  });
}

// All chunks add to one sum, each with a buffer of its own, whose memory the next may get.
void shared_sum(float* y, bool wrong) {
  parallel_for(n, chunk, 1, [&](int64_t a, int64_t b) {
    const Scratch scratch(chunk * sizeof(float));
    float* x = scratch.as<float>();
    for (int64_t i = a; i < b; ++i) x[i - a] = static_cast<float>(i);
    for (int64_t i = a; i < b; ++i) y[wrong ? 0 : a] += x[i - a];
  });
}

// What one call wrote is read by the next, cut otherwise; or by the same.
void reads_neighbours(float* y, bool wrong) {
  const auto write = [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) y[i] = 1;
    if (wrong && a > 0) y[a] = y[a - 1];
  };
  parallel_for(n, chunk, 1, write);
  parallel_for(n, chunk / 2, 1, [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) y[n + i] = y[n - 1 - i];
  });
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) return std::fputs("seeded_races overlaps|shared_sum|reads_neighbours wrong|right\n", stderr), 2;
  const std::string_view which = words[1];
  const bool wrong = std::string_view(words[2]) == "wrong";
  Tensor y = Tensor::zeros({2 * n}, DType::f32);
  const auto run = which == "overlaps" ? overlaps : which == "shared_sum" ? shared_sum : reads_neighbours;
  run(y.out().as<float>(), wrong);
}
