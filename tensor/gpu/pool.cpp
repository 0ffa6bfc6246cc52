#include "tensor/gpu/pool.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/gpu/runtime.h"
#include "tensor/size_classes.h"
#include "tensor/tensor.h"

namespace facet::gpu {
namespace {

constexpr size_t sentinel_bytes = 1024;
constexpr int sentinel_byte = 0xa5, unwritten_byte = 0xff;

struct Block {
  int size_class, arena;
  size_t bytes;
  bool live, guarded;
  Purpose purpose;
  void* data;
  Block* next;  // in its free list

  std::string name() const {
    return purpose.shape.rank ? fmt::format("{} {}{}", purpose.what, name_of(purpose.dtype), to_string(purpose.shape)) : purpose.what;
  }
};

struct FreeLists {
  Block* of_class[size_classes::count] = {};
};

struct Pool {
  std::mutex mutex;
  std::unordered_map<void*, Block> blocks;  // grows only when the driver is asked
  std::map<int, FreeLists> arenas;
  int arena = 0, next_arena = 1;
  PoolStats stats{};
  size_t limit = 0;
  int guards = 0;
  std::vector<std::string> broken;

  Pool() { arenas[0]; }

  void give_back(FreeLists& lists) {
    for (int c = 0; c < size_classes::count; ++c) {
      while (Block* b = lists.of_class[c]) {
        lists.of_class[c] = b->next;
        release(*b);
      }
    }
  }
  void release(Block& b) {
    stats.held_bytes -= b.bytes;
    void* data = b.data;
    const bool guarded = b.guarded;
    if (guarded) check_sentinels(b);
    blocks.erase(data);
    device_free(static_cast<char*>(data) - (guarded ? sentinel_bytes : 0));
  }

  void check_sentinels(const Block& b) {
    const char* data = static_cast<const char*>(b.data);
    std::vector<unsigned char> found(sentinel_bytes);
    for (const bool after : {false, true}) {
      try {
        copy_to_host(found.data(), after ? data + b.bytes : data - sentinel_bytes, sentinel_bytes);
      } catch (const Error& e) {
        broken.push_back(fmt::format("{}: its sentinels cannot be read: {}", b.purpose.what, e.what()));
        return;
      }
      size_t bad = 0, first = 0;
      for (size_t i = sentinel_bytes; i-- > 0;)
        if (found[i] != sentinel_byte) ++bad, first = i;
      if (bad == 0) continue;
      broken.push_back(fmt::format("{} {}{}: {} bytes written {} its {} bytes, the first {} bytes {}", b.purpose.what, name_of(b.purpose.dtype),
                                   to_string(b.purpose.shape), bad, after ? "behind" : "before", b.bytes, after ? first : sentinel_bytes - first,
                                   after ? "behind the end" : "before the beginning"));
    }
  }
  void* guarded_malloc(size_t bytes) {
    char* raw = static_cast<char*>(device_malloc(bytes + 2 * sentinel_bytes));
    if (!raw) return nullptr;
    fill_bytes(raw, sentinel_byte, sentinel_bytes);
    fill_bytes(raw + sentinel_bytes, unwritten_byte, bytes);
    fill_bytes(raw + sentinel_bytes + bytes, sentinel_byte, sentinel_bytes);
    return raw + sentinel_bytes;
  }
  bool guarding() const { return guards > 0 && arena == 0; }

  // The emulator wants to see every byte past an end, and what is read after it was freed: there nothing is rounded or kept, but for graphs.
  bool exact() {
    emulated = device().emulated;
    return arena == 0 && emulated;
  }
  bool emulated = false;  // remembered: what is freed late must not ask for a device that may be closed

  Block* fresh(int c, size_t size) {
    const auto ask = [&]() -> void* {
      if (limit && stats.held_bytes + size > limit) return nullptr;
      return guarding() ? guarded_malloc(size) : device_malloc(size);
    };
    void* data = ask();
    if (!data) {
      give_back(arenas[0]);  // those of graphs stay where the graphs expect them
      data = ask();
    }
    if (!data) return nullptr;
    ++stats.sys_allocs;
    stats.held_bytes += size;
    return &(blocks[data] = Block{c, arena, size, false, guarding(), {}, data, nullptr});
  }

  std::string table() const {
    struct Line {
      size_t bytes = 0;
      int count = 0;
    };
    std::map<std::string, Line> lines;
    for (const auto& [data, b] : blocks) {
      if (!b.live) continue;
      Line& l = lines[b.name()];
      l.bytes += b.bytes;
      ++l.count;
    }
    std::vector<std::pair<std::string, Line>> sorted(lines.begin(), lines.end());
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return std::tie(b.second.bytes, a.first) < std::tie(a.second.bytes, b.first); });
    constexpr size_t most = 20;
    std::string s;
    size_t rest = 0;
    for (size_t i = 0; i < sorted.size(); ++i) {
      if (i < most) s += fmt::format("  {:>10.1f} MB  {:>5} x {}\n", static_cast<double>(sorted[i].second.bytes) / 1e6, sorted[i].second.count, sorted[i].first);
      else rest += sorted[i].second.bytes;
    }
    if (rest) s += fmt::format("  {:>10.1f} MB          others\n", static_cast<double>(rest) / 1e6);
    return s;
  }
};

// Never destroyed: tensors in static storage may outlive any order of destruction.
Pool& pool() {
  static Pool* p = new Pool;
  return *p;
}

}  // namespace

void* pool_alloc(size_t bytes, const Purpose& purpose) {
  if (bytes > (size_t{1} << 46)) fail(Kind::memory, "GPU memory: a request of {} bytes cannot be served", bytes);
  const int c = size_classes::class_of(bytes);
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  const size_t size = p.exact() || p.guarding() ? bytes : size_classes::bytes_of(c);
  ++p.stats.pool_allocs;
  Block*& list = p.arenas[p.arena].of_class[c];
  Block* b = p.guarding() ? nullptr : list;
  if (b) list = b->next;
  else b = p.fresh(c, size);
  if (!b) {
    fail(Kind::memory, "GPU memory: {} more bytes needed for {}, {} of {} in use; try a smaller batch, --accum or --recompute block. Live buffers:\n{}",
         size, purpose.what, p.stats.live_bytes, p.limit ? p.limit : device().total_bytes, p.table());
  }
  b->live = true;
  b->purpose = purpose;
  p.stats.live_bytes += b->bytes;
  p.stats.peak_bytes = std::max(p.stats.peak_bytes, p.stats.live_bytes);
  return b->data;
}

void pool_free(void* data) noexcept {
  if (!data) return;
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  Block& b = p.blocks.at(data);
  b.live = false;
  p.stats.live_bytes -= b.bytes;
  if (b.guarded || (b.arena == 0 && p.emulated)) return p.release(b);
  Block*& list = p.arenas[b.arena].of_class[b.size_class];
  b.next = list;
  list = &b;
}

PoolStats pool_stats() {
  std::lock_guard lock(pool().mutex);
  return pool().stats;
}

void pool_reset_peak() {
  std::lock_guard lock(pool().mutex);
  pool().stats.peak_bytes = pool().stats.live_bytes;
}

void pool_trim() {
  std::lock_guard lock(pool().mutex);
  pool().give_back(pool().arenas[0]);
}

void pool_set_limit(size_t bytes) {
  std::lock_guard lock(pool().mutex);
  pool().limit = bytes;
}

std::string live_buffers() {
  std::lock_guard lock(pool().mutex);
  return pool().table();
}

std::string describe_live_buffer(const void* p) {
  std::lock_guard lock(pool().mutex);
  for (const auto& [data, b] : pool().blocks) {
    const auto* begin = static_cast<const char*>(b.data);
    if (b.live && p >= begin && p < begin + b.bytes)
      return fmt::format("byte {} of {} ({} bytes)", static_cast<const char*>(p) - begin, b.name(), b.bytes);
  }
  return {};
}

GuardScope::GuardScope() {
  std::lock_guard lock(pool().mutex);
  ++pool().guards;
}
GuardScope::~GuardScope() {
  std::lock_guard lock(pool().mutex);
  --pool().guards;
}

std::vector<std::string> broken_sentinels() {
  std::lock_guard lock(pool().mutex);
  return std::exchange(pool().broken, {});
}

Arena::Arena() {
  std::lock_guard lock(pool().mutex);
  id_ = pool().next_arena++;
  pool().arenas[id_];
}

// Blocks still in use then belong to the pool at large once they are freed.
Arena::~Arena() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.give_back(p.arenas[id_]);
  for (auto& [data, b] : p.blocks)
    if (b.arena == id_) b.arena = 0;
  p.arenas.erase(id_);
}

size_t Arena::held_bytes() const {
  std::lock_guard lock(pool().mutex);
  size_t n = 0;
  for (const auto& [data, b] : pool().blocks)
    if (b.arena == id_) n += b.bytes;
  return n;
}

ArenaScope::ArenaScope(const Arena& a) {
  std::lock_guard lock(pool().mutex);
  before_ = std::exchange(pool().arena, a.id_);
}
ArenaScope::~ArenaScope() {
  std::lock_guard lock(pool().mutex);
  pool().arena = before_;
}

}  // namespace facet::gpu
