// The wrappers of tensor/gpu/device.h: against their definitions by tensor/gpu/wrapper_check.h, and here what only an emulator lets one see.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/launch.h"
#include "tensor/gpu/wrapper_check.h"

namespace facet::gpu {
namespace {

/// Device memory that starts as a copy of a vector and can be read back.
template <class T>
struct OnDevice {
  size_t n;
  T* data;
  explicit OnDevice(const std::vector<T>& v) : n(v.size()), data(static_cast<T*>(device_malloc(n * sizeof(T)))) {
    copy_to_device(data, v.data(), n * sizeof(T));
  }
  ~OnDevice() { device_free(data); }
  OnDevice(const OnDevice&) = delete;
  std::vector<T> back() const {
    std::vector<T> v(n);
    copy_to_host(v.data(), data, n * sizeof(T));
    return v;
  }
};

/// f() under forward, reverse, random and the two ways of asynchronous copies.
template <class F>
void under_all_settings(F f) {
  const emulator::Settings before = emulator::settings();
  emulate(true);
  for (const char* words : {"forward", "reverse", "forward,eager", "random,seed=1", "random,seed=2", "random,seed=3"}) {
    INFO(words);
    emulator::set_settings(emulator::parse_settings(words));
    f();
  }
  emulator::set_settings(before);
}

TEST_CASE("wrappers: random operands, as conformance gives them to a GPU") {
  under_all_settings([] {
    for (const WrapperResult& r : check_wrappers(5, 60)) {
      INFO(r.name << ": " << r.first);
      CHECK(r.compared >= 64);
      CHECK(r.wrong == 0);
    }
  });
}

__global__ void masked_kernel(int32_t* y) {
  FACET_SHARED(int32_t, box, [32]);
  const uint32_t half = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
  for (int round = 0; round < 3; ++round) {
    box[threadIdx.x] = static_cast<int>(threadIdx.x) + 100 * round;
    sync_warp(half);
    y[round * 32 + static_cast<int>(threadIdx.x)] = box[threadIdx.x ^ 15];
    sync_warp(half);
  }
}
TEST_CASE("wrappers: sync_warp of two halves") {
  under_all_settings([] {
    const OnDevice<int32_t> dy(std::vector<int32_t>(96));
    launch("masked", masked_kernel, 1, 32, 0, dy.data);
    const std::vector<int32_t> y = dy.back();
    for (int i = 0; i < 96; ++i) CHECK(y[static_cast<size_t>(i)] == (i % 32 ^ 15) + 100 * (i / 32));
  });
}

// ---- waiting

__global__ void relay_kernel(int32_t* y) {
  FACET_SHARED(int32_t, turn, );
  if (threadIdx.x == 0) turn = 0;
  sync_block();
  // Thread 63 - k goes k-th: whatever the schedule, somebody must wait.
  while (atomic_add(&turn, 0) != static_cast<int32_t>(63 - threadIdx.x)) spin_pause();
  y[threadIdx.x] = atomic_add(&turn, 1);
}
TEST_CASE("wrappers: spin_pause lets the others come first") {
  under_all_settings([] {
    const OnDevice<int32_t> dy(std::vector<int32_t>(64));
    launch("relay", relay_kernel, 1, 64, 0, dy.data);
    const std::vector<int32_t> y = dy.back();
    for (int i = 0; i < 64; ++i) CHECK(y[static_cast<size_t>(i)] == 63 - i);
  });
}

// ---- cp.async: groups come in order; what is not valid is zeros

__global__ void copies_kernel(const int32_t* x, int32_t* y) {
  FACET_SHARED(int32_t, stage, [3][4]);
  for (int group = 0; group < 3; ++group) {
    copy_async16(stage[group], x + 4 * group, group != 1);
    copy_async_commit();
  }
  copy_async_wait<2>();
  for (int i = 0; i < 4; ++i) y[i] = stage[0][i];
  copy_async_wait<1>();
  for (int i = 0; i < 4; ++i) y[4 + i] = stage[1][i];
  for (int i = 0; i < 4; ++i) y[12 + i] = stage[2][i];  // not waited for: late copies have not come
  copy_async_wait<0>();
  for (int i = 0; i < 4; ++i) y[8 + i] = stage[2][i];
}
TEST_CASE("wrappers: asynchronous copies land by the wait of their group, not before it where they are late") {
  std::vector<int32_t> x(12);
  std::iota(x.begin(), x.end(), 1);
  under_all_settings([&] {
    const OnDevice<int32_t> dx(x), dy(std::vector<int32_t>(16));
    launch("copies", copies_kernel, 1, 1, 0, dx.data, dy.data);
    const std::vector<int32_t> y = dy.back();
    for (size_t i = 0; i < 12; ++i) CHECK(y[i] == (i / 4 == 1 ? 0 : x[i]));
    for (size_t i = 0; i < 4; ++i) {
      if (emulator::settings().copies == emulator::Copies::late) CHECK(y[12 + i] == -1);
      if (emulator::settings().copies == emulator::Copies::eager) CHECK(y[12 + i] == x[8 + i]);
    }
  });
}

// ---- mma

/// C [16, 8] = A [16, 16] B [16, 8] + C with fragments that each lane takes from memory by the manual's table (PTX 9.7.14.5.8, m16n8k16 of .bf16): no ldmatrix between.
__global__ void mma_by_table_kernel(const bf16* a, const bf16* b, float* c) {
  const unsigned group = threadIdx.x >> 2, in_group = threadIdx.x % 4;
  uint32_t fa[4] = {}, fb[2] = {};
  for (unsigned i = 0; i < 8; ++i) {  // a0 .. a7
    const unsigned row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
    const unsigned column = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
    fa[i / 2] |= static_cast<uint32_t>(a[16 * row + column].bits) << 16 * (i % 2);
  }
  for (unsigned i = 0; i < 4; ++i) {  // b0 .. b3
    const unsigned row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
    fb[i / 2] |= static_cast<uint32_t>(b[8 * row + group].bits) << 16 * (i % 2);
  }
  float fc[4];
  for (unsigned i = 0; i < 4; ++i) fc[i] = c[8 * (i < 2 ? group : group + 8) + in_group * 2 + (i & 1)];
  mma_bf16(fc, fa, fb);
  for (unsigned i = 0; i < 4; ++i) c[8 * (i < 2 ? group : group + 8) + in_group * 2 + (i & 1)] = fc[i];
}
TEST_CASE("wrappers: the fragments of mma lie as the manual's table says") {
  std::vector<bf16> a(256), b(128);
  std::vector<float> c(128, 0.0f);
  for (size_t i = 0; i < a.size(); ++i) a[i] = narrow<bf16>(static_cast<float>(i * 7 % 23) - 11);
  for (size_t i = 0; i < b.size(); ++i) b[i] = narrow<bf16>(static_cast<float>(i * 5 % 19) - 9);
  const OnDevice<bf16> da(a), db(b);
  const OnDevice<float> dc(c);
  launch("mma", mma_by_table_kernel, 1, 32, 0, da.data, db.data, dc.data);
  const std::vector<float> y = dc.back();
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j) {
      float sum = 0;
      for (size_t k = 0; k < 16; ++k) sum += widen(a[16 * i + k]) * widen(b[8 * k + j]);
      CHECK(y[8 * i + j] == sum);
    }
}

// ---- what device.h builds from them

template <int threads>
__global__ void block_kernel(const float* x, float* y) {
  FACET_SHARED(float, slots, [32]);
  const float v = x[threadIdx.x];
  y[threadIdx.x] = block_sum<threads>(v, slots);
  y[threads + threadIdx.x] = block_max<threads>(v, slots);
  y[2 * threads + threadIdx.x] = block_sum<threads>(1.0f, slots);
}
template <int threads>
void check_block() {
  std::vector<float> x(threads);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101);
  const OnDevice<float> dx(x), dy(std::vector<float>(3 * threads));
  launch("block", block_kernel<threads>, 1, threads, 0, dx.data, dy.data);
  const std::vector<float> y = dy.back();
  const float sum = std::accumulate(x.begin(), x.end(), 0.0f), most = *std::max_element(x.begin(), x.end());
  for (size_t i = 0; i < threads; ++i) CHECK((y[i] == sum && y[threads + i] == most && y[2 * threads + i] == threads));
}
TEST_CASE("wrappers: block_sum and block_max, slots used again at once") {
  under_all_settings([] {
    check_block<32>();
    check_block<96>();
    check_block<1024>();
  });
}

TEST_CASE("wrappers: narrow rounds to nearest even and keeps NaN") {
  CHECK(narrow<bf16>(1.0f).bits == 0x3f80);
  CHECK(narrow<bf16>(1.00390625f).bits == 0x3f80);  // half way: to even
  CHECK(narrow<bf16>(1.01171875f).bits == 0x3f82);
  CHECK(narrow<bf16>(3.4e38f).bits == 0x7f80);
  CHECK(narrow<bf16>(-__builtin_inff()).bits == 0xff80);
  CHECK(narrow<bf16>(__builtin_nanf("")).bits == 0x7fff);
  CHECK(fast_exp2(10) == 1024);
  CHECK(add_apart(0x1.000002p0f * 0x1.000002p0f, -1.f) == 0x1p-22f);  // the product was rounded first
  CHECK(fast_reciprocal(4) == 0.25f);
  CHECK(fast_rsqrt(16) == 0.25f);
}

}  // namespace
}  // namespace facet::gpu
