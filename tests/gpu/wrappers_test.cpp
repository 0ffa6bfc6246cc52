// Each wrapper of tensor/gpu/device.h against its definition: CUDA's guide for shuffles and votes, the PTX manual for the rest.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/launch.h"

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

// ---- shuffles: in the words of the CUDA guide, 10.22

enum Kind { index, up, down, exclusive_or };
template <class T>
__global__ void shuffle_kernel(Kind kind, int operand, int width, const T* x, T* y) {
  const T v = x[threadIdx.x];
  switch (kind) {
    case index: y[threadIdx.x] = shfl(v, operand, width); break;
    case up: y[threadIdx.x] = shfl_up(v, static_cast<unsigned>(operand), width); break;
    case down: y[threadIdx.x] = shfl_down(v, static_cast<unsigned>(operand), width); break;
    case exclusive_or: y[threadIdx.x] = shfl_xor(v, operand, width); break;
  }
}
int source(Kind kind, int lane, int operand, int width) {
  const int segment = lane / width * width;
  switch (kind) {
    case index: return segment + operand % width;  // "if srcLane is outside [0:width-1], the value of srcLane modulo width"
    case up: return lane - operand >= segment ? lane - operand : lane;
    case down: return lane + operand < segment + width ? lane + operand : lane;
    case exclusive_or: return (lane ^ operand) < segment + width ? lane ^ operand : lane;  // later groups are out of reach, earlier are not
  }
  return -1;
}
template <class T>
void check_shuffles() {
  std::vector<T> x(64);
  std::iota(x.begin(), x.end(), static_cast<T>(1000));
  const OnDevice<T> dx(x), dy(x);
  for (const Kind kind : {index, up, down, exclusive_or})
    for (const int width : {2, 4, 8, 16, 32})
      for (int operand = 0; operand < 32; operand += kind == index ? 1 : 3) {
        launch("shuffle", shuffle_kernel<T>, 1, 64, 0, kind, operand, width, dx.data, dy.data);
        const std::vector<T> y = dy.back();
        for (int i = 0; i < 64; ++i) {
          const T expected = x[static_cast<size_t>(i / 32 * 32 + source(kind, i % 32, operand, width))];
          if (y[static_cast<size_t>(i)] != expected) FAIL_CHECK("kind " << kind << ", width " << width << ", operand " << operand << ", lane " << i);
        }
      }
}
TEST_CASE("wrappers: shuffles of 4 and 8 bytes, all widths") {
  under_all_settings([] {
    check_shuffles<float>();
    check_shuffles<int64_t>();
  });
}

__global__ void votes_kernel(uint32_t pattern, uint32_t* y) {
  const bool mine = pattern >> lane_id() & 1;
  y[3 * threadIdx.x] = ballot(mine);
  y[3 * threadIdx.x + 1] = any(mine);
  y[3 * threadIdx.x + 2] = all(mine);
}
TEST_CASE("wrappers: ballot, any, all") {
  under_all_settings([] {
    const OnDevice<uint32_t> dy(std::vector<uint32_t>(96));
    for (const uint32_t pattern : {0u, 1u, 0x80000000u, 0x12345678u, 0xfffffffeu, 0xffffffffu}) {
      launch("votes", votes_kernel, 1, 32, 0, pattern, dy.data);
      const std::vector<uint32_t> y = dy.back();
      for (size_t i = 0; i < 32; ++i) {
        CHECK(y[3 * i] == pattern);
        CHECK(y[3 * i + 1] == (pattern != 0));
        CHECK(y[3 * i + 2] == (pattern == 0xffffffffu));
      }
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

// ---- atomics, fences, waiting

__global__ void atomics_kernel(int32_t* y) {
  FACET_SHARED(int32_t, last, );
  const auto i = static_cast<int32_t>(blockIdx.x * 64u + threadIdx.x);  // a small number
  atomic_add(&y[0], i);
  atomic_max(&y[1], i);
  atomic_min(&y[2], -i);
  if (atomic_cas(&y[3], 0, i + 1) == 0) y[4] = i + 1;  // one thread wins
  y[8 + atomic_add(&y[5], 1)] = i;                     // each gets a place of its own
  if (threadIdx.x == 0) {
    fence();
    last = atomic_add(&y[6], 1) == static_cast<int32_t>(gridDim.x) - 1;  // the last block to come
  }
  sync_block();
  if (last && threadIdx.x == 5) y[7] = atomic_exchange(&y[0], -1);
}
TEST_CASE("wrappers: atomics between threads and blocks") {
  under_all_settings([] {
    const OnDevice<int32_t> dy(std::vector<int32_t>(8 + 192));
    launch("atomics", atomics_kernel, 3, 64, 0, dy.data);
    std::vector<int32_t> y = dy.back();
    CHECK(y[0] == -1);
    CHECK(y[7] == 191 * 192 / 2);
    CHECK(y[1] == 191);
    CHECK(y[2] == -191);
    CHECK(y[3] == y[4]);
    CHECK(y[5] == 192);
    std::sort(y.begin() + 8, y.end());
    for (int i = 0; i < 192; ++i) CHECK(y[static_cast<size_t>(8 + i)] == i);
  });
}

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

// ---- ldmatrix, mma

__global__ void ldmatrix_kernel(const uint16_t* x, uint32_t* y) {
  FACET_SHARED(uint16_t, tile, [4][8][8]);
  for (unsigned i = threadIdx.x; i < 256; i += 32) tile[i / 64][i / 8 % 8][i % 8] = x[i];
  sync_warp();
  uint32_t plain[4], transposed[4];
  const uint16_t* row = tile[threadIdx.x / 8][threadIdx.x % 8];
  ldmatrix_x4(plain, row);
  ldmatrix_x4_trans(transposed, row);
  for (int j = 0; j < 4; ++j) {
    y[threadIdx.x * 8 + static_cast<unsigned>(j)] = plain[j];
    y[threadIdx.x * 8 + 4 + static_cast<unsigned>(j)] = transposed[j];
  }
}
TEST_CASE("wrappers: ldmatrix hands each lane two neighbours of a row, transposed of a column") {
  std::vector<uint16_t> x(256);
  std::iota(x.begin(), x.end(), uint16_t{0});
  under_all_settings([&] {
    const OnDevice<uint16_t> dx(x);
    const OnDevice<uint32_t> dy(std::vector<uint32_t>(256));
    launch("ldmatrix", ldmatrix_kernel, 1, 32, 0, dx.data, dy.data);
    const std::vector<uint32_t> y = dy.back();
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned j = 0; j < 4; ++j) {
        // PTX 9.7.14.5.15: thread T holds row T / 4, elements 2 (T % 4) and the next
        const unsigned r = lane / 4, c = lane % 4 * 2;
        CHECK(y[lane * 8 + j] == ((64 * j + 8 * r + c) | (64 * j + 8 * r + c + 1) << 16));
        CHECK(y[lane * 8 + 4 + j] == ((64 * j + 8 * c + r) | (64 * j + 8 * (c + 1) + r) << 16));
      }
  });
}

/// C [16, 8] = A [16, 16] B [16, 8] + C, loaded as kernels do it.
__global__ void mma_kernel(const bf16* a, const bf16* b, float* c) {
  FACET_SHARED(bf16, sa, [16][16]);
  FACET_SHARED(bf16, sb, [16][8]);
  for (unsigned i = threadIdx.x; i < 256; i += 32) sa[i / 16][i % 16] = a[i];
  for (unsigned i = threadIdx.x; i < 128; i += 32) sb[i / 8][i % 8] = b[i];
  sync_warp();
  const auto lane = static_cast<unsigned>(lane_id());
  uint32_t fa[4], fb[4];
  ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
  ldmatrix_x4_trans(fb, sb[lane % 16]);  // lanes 16 .. 31 bring the same rows again
  const uint32_t two[2] = {fb[0], fb[1]};
  float fc[4];
  for (unsigned i = 0; i < 4; ++i) fc[i] = c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  mma_bf16(fc, fa, two);
  for (unsigned i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = fc[i];
}
TEST_CASE("wrappers: ldmatrix and mma make a product of matrices") {
  std::vector<bf16> a(256), b(128);
  std::vector<float> c(128);
  for (size_t i = 0; i < a.size(); ++i) a[i] = narrow<bf16>(static_cast<float>(i * 7 % 23) - 11);  // small integers: sums are exact
  for (size_t i = 0; i < b.size(); ++i) b[i] = narrow<bf16>(static_cast<float>(i * 5 % 19) - 9);
  for (size_t i = 0; i < c.size(); ++i) c[i] = static_cast<float>(i);
  under_all_settings([&] {
    const OnDevice<bf16> da(a), db(b);
    const OnDevice<float> dc(c);
    launch("mma", mma_kernel, 1, 32, 0, da.data, db.data, dc.data);
    const std::vector<float> y = dc.back();
    for (size_t i = 0; i < 16; ++i)
      for (size_t j = 0; j < 8; ++j) {
        float sum = c[8 * i + j];
        for (size_t k = 0; k < 16; ++k) sum += widen(a[16 * i + k]) * widen(b[8 * k + j]);
        CHECK(y[8 * i + j] == sum);
      }
  });
}

/// The same with fragments that each lane takes from memory by the manual's table (PTX 9.7.14.5.8, m16n8k16 of .bf16): no ldmatrix between.
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
