// What the hardware does for a warp at once, and its asynchronous copies. Layouts and rules are those of the PTX manual (9.7.14 for mma and
// ldmatrix, 9.7.9.25 for cp.async), written out literally.
#include <cstring>

#include "tensor/error.h"
#include "tensor/gpu/emulator/sanitizers.h"
#include "tensor/gpu/emulator/scheduler.h"

namespace facet::gpu::emulator {
namespace {

constexpr uint32_t full = 0xffffffffu;

bool aligned(const void* p, size_t to) { return reinterpret_cast<uintptr_t>(p) % to == 0; }

}  // namespace

// ---- shuffles and votes

namespace {
struct Exchange {
  uint64_t value, result;
  int from;  // lane
};
/// PTX shfl.sync: which lane's value lane `me` gets. Lanes form segments of `width`.
int source_lane(Shuffle kind, int me, int operand, int width) {
  const int b = operand & 31, first = me & ~(width - 1), last = first + width - 1;
  int from = me;
  switch (kind) {
    case Shuffle::index: from = first | (b & (width - 1)); break;
    case Shuffle::up: from = me - b < first ? me : me - b; break;
    case Shuffle::down: from = me + b > last ? me : me + b; break;
    case Shuffle::exclusive_or: from = (me ^ b) > last ? me : me ^ b; break;
  }
  return from;
}
}  // namespace

uint64_t shuffle(Shuffle kind, uint64_t value, int operand, int width, Site site) {
  static constexpr const char* names[] = {"shfl", "shfl_up", "shfl_down", "shfl_xor"};
  const char* name = names[static_cast<int>(kind)];
  if (width < 1 || width > 32 || (width & (width - 1))) report(site, [&] { return fmt::format("{}: width {} is not a power of two up to 32", name, width); });
  Exchange mine{value, 0, source_lane(kind, current().linear % 32, operand, width)};
  meet(name, full, site, &mine, [](Thread* lanes, uint32_t) {
    for (int i = 0; i < 32; ++i) {
      auto* e = static_cast<Exchange*>(lanes[i].argument);
      e->result = static_cast<Exchange*>(lanes[e->from].argument)->value;
    }
  });
  return mine.result;
}

uint32_t vote(const char* name, bool mine, Site site) {
  uint32_t v = mine;
  meet(name, full, site, &v, [](Thread* lanes, uint32_t) {
    uint32_t all = 0;
    for (int i = 0; i < 32; ++i) all |= *static_cast<uint32_t*>(lanes[i].argument) << i;
    for (int i = 0; i < 32; ++i) *static_cast<uint32_t*>(lanes[i].argument) = all;
  });
  return v;
}

// ---- cp.async

namespace {
void land(const AsyncCopy& c) {
  touched(c.to, 16, true);
  if (c.from) touched(c.from, 16, false);
  const Unseen unseen;
  if (c.from) std::memcpy(c.to, c.from, 16);
  else std::memset(c.to, 0, 16);
}
bool choose_late() {
  switch (active().copies) {
    case Copies::eager: return false;
    case Copies::late: return true;
    case Copies::mixed: break;
  }
  return random_below(2) == 0;
}
/// Lets the copies of all groups before `group` land.
void land_before(Thread& t, int group) {
  size_t n = 0;
  while (n < t.copies.size() && t.copies[n].group < group) land(t.copies[n++]);
  const Unseen unseen;
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<ptrdiff_t>(n));
}
}  // namespace

void copy_async(void* shared, const void* global, bool valid, Site site) {
  const Frame frame(__builtin_return_address(0));
  if (!in_shared(shared, 16)) report(site, [&] { return std::string("copy_async16: the destination does not lie in a shared array of this block"); });
  if (!aligned(shared, 16)) report(site, [&] { return std::string("copy_async16: the destination is not aligned to 16 bytes"); });
  if (valid && !aligned(global, 16)) report(site, [&] { return std::string("copy_async16: the source is not aligned to 16 bytes"); });
  Thread& t = current();
  if (valid && !t.may_touch) report(site, [] { return std::string("copy_async16 before wait_for_previous()"); });
  const AsyncCopy c{shared, valid ? global : nullptr, t.group};
  if (!t.group_begun) t.group_is_late = choose_late();
  t.group_begun = true;
  if (!t.group_is_late) return land(c);
  const Unseen unseen;
  t.copies.push_back(c);
}
void copy_async_commit() {
  Thread& t = current();
  ++t.group;
  t.group_begun = false;
}
void copy_async_wait(int still_under_way) {
  const Frame frame(__builtin_return_address(0));
  land_before(current(), current().group - still_under_way);
}
void land_all_copies() { land_before(current(), current().group + 1); }

// ---- ldmatrix and mma

namespace {
struct Rows {
  const uint16_t* row;
  uint32_t* r;
  bool transposed;
};
}  // namespace

/// Lane l brings row l % 8 of matrix l / 8. Register j of lane l holds elements (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1) of matrix j, or
/// with .trans those of its transpose.
void ldmatrix(uint32_t* r, const void* row, bool transposed, Site site) {
  const char* name = transposed ? "ldmatrix_x4_trans" : "ldmatrix_x4";
  if (!in_shared(row, 16)) report(site, [&] { return fmt::format("{}: the row does not lie in a shared array of this block", name); });
  if (!aligned(row, 16)) report(site, [&] { return fmt::format("{}: the row is not aligned to 16 bytes", name); });
  {
    const Frame frame(__builtin_return_address(0));
    touched(row, 16, false);
  }
  Rows mine{static_cast<const uint16_t*>(row), r, transposed};
  meet(name, full, site, &mine, [](Thread* lanes, uint32_t) {
    const auto rows = [&](int l) -> Rows& { return *static_cast<Rows*>(lanes[l].argument); };
    for (int l = 0; l < 32; ++l)
      for (int j = 0; j < 4; ++j) {
        const auto element = [&](int i, int k) -> uint32_t { return rows(l).transposed ? rows(8 * j + k).row[i] : rows(8 * j + i).row[k]; };
        rows(l).r[j] = element(l / 4, 2 * (l % 4)) | element(l / 4, 2 * (l % 4) + 1) << 16;
      }
  });
}

namespace {
struct Fragments {
  float* c;
  const uint32_t *a, *b;
};
float element(const uint32_t* fragment, int i) {
  const uint32_t half = i & 1 ? fragment[i >> 1] & 0xffff0000u : fragment[i >> 1] << 16;
  return __builtin_bit_cast(float, half);
}
}  // namespace

/// C[16, 8] += A[16, 16] B[16, 8]. With g = lane / 4, t = lane % 4, element i of a lane's fragment is
///   A  row g + 8 ((i >> 1) & 1), column 2t + (i & 1) + 8 (i >= 4)
///   B  row 2t + (i & 1) + 8 (i >= 2), column g
///   C  row g + 8 (i >> 1), column 2t + (i & 1)
void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, Site site) {
  Fragments mine{c, a, b};
  meet("mma_bf16", full, site, &mine, [](Thread* lanes, uint32_t) {
    float A[16][16], B[16][8];
    for (int l = 0; l < 32; ++l) {
      const auto* f = static_cast<Fragments*>(lanes[l].argument);
      const int g = l / 4, t = l % 4;
      for (int i = 0; i < 8; ++i) A[g + 8 * ((i >> 1) & 1)][2 * t + (i & 1) + 8 * (i >= 4)] = element(f->a, i);
      for (int i = 0; i < 4; ++i) B[2 * t + (i & 1) + 8 * (i >= 2)][g] = element(f->b, i);
    }
    for (int l = 0; l < 32; ++l) {
      float* out = static_cast<Fragments*>(lanes[l].argument)->c;
      const int g = l / 4, t = l % 4;
      for (int i = 0; i < 4; ++i) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += A[g + 8 * (i >> 1)][k] * B[k][2 * t + (i & 1)];
        out[i] += sum;
      }
    }
  });
}

}  // namespace facet::gpu::emulator
