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
#include "tensor/gpu/side_by_side.h"
#include "tensor/size_classes.h"
#include "tensor/tensor.h"

namespace facet::gpu {
namespace {

constexpr size_t sentinel_bytes = 1024;
constexpr int sentinel_byte = 0xa5, unwritten_byte = 0xff;

std::string name_of(const Purpose& p) { return p.shape.rank ? fmt::format("{} {}{}", p.what, facet::name_of(p.dtype), to_string(p.shape)) : p.what; }

struct Block {
  int size_class, arena;
  size_t bytes;
  bool live, guarded;
  Purpose purpose;
  void* data;
  Block* next;      // in its free list
  int holders = 0;  // of a block that several tensors share: those that live, and the scope that hands it out
};

// A tensor of a SideBySide.
struct Piece {
  Block* block;
  size_t bytes;
  Purpose purpose;
};
// The one that is open, if any.
struct Row {
  size_t bytes = 0, used = 0;
  Block* block = nullptr;
};

struct FreeLists {
  Block* of_class[size_classes::count] = {};
};

struct Pool {
  std::mutex mutex;
  std::unordered_map<void*, Block> blocks;  // grows only when the driver is asked
  std::unordered_map<void*, Piece> pieces;
  Row row;
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
      broken.push_back(fmt::format("{} {}{}: {} bytes written {} its {} bytes, the first {} bytes {}", b.purpose.what, facet::name_of(b.purpose.dtype),
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

  // Of the pool at large, for a graph: what the passes before it have left there is what it needs, so the driver need not be asked while recording,
  // and memory is not held twice.
  Block* adopted(int c) {
    Block*& list = arenas[0].of_class[c];
    Block* const b = list;
    if (b) list = b->next, b->arena = arena;
    return b;
  }
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

  Block& take(size_t bytes, const Purpose& purpose) {
    if (bytes > (size_t{1} << 46)) fail(Kind::memory, "GPU memory: a request of {} bytes cannot be served", bytes);
    const int c = size_classes::class_of(bytes);
    const size_t size = exact() || guarding() ? bytes : size_classes::bytes_of(c);
    Block*& list = arenas[arena].of_class[c];
    Block* b = guarding() ? nullptr : list;
    if (b) list = b->next;
    else if (arena != 0) b = adopted(c);
    if (!b) b = fresh(c, size);
    if (!b) {
      fail(Kind::memory, "GPU memory: {} more bytes needed for {}, {} of {} in use; try a smaller batch, --accum or --recompute block. Live buffers:\n{}",
           size, purpose.what, stats.live_bytes, limit ? limit : device().total_bytes, table());
    }
    b->live = true;
    b->purpose = purpose;
    stats.live_bytes += b->bytes;
    stats.peak_bytes = std::max(stats.peak_bytes, stats.live_bytes);
    return *b;
  }
  void put_back(Block& b) {
    b.live = false;
    stats.live_bytes -= b.bytes;
    put_aside(b);
  }
  void put_aside(Block& b) {
    if (b.guarded || (b.arena == 0 && emulated)) return release(b);
    Block*& list = arenas[b.arena].of_class[b.size_class];
    b.next = list;
    list = &b;
  }

  // The next piece of the open row; null when it serves no such request.
  void* piece(size_t bytes, const Purpose& purpose) {
    constexpr size_t alignment = 16;
    if (bytes == 0 || row.used % alignment || row.used + bytes > row.bytes || guarding()) return nullptr;
    if (!row.block) {
      row.block = &take(row.bytes, {"tensors side by side", {}, purpose.dtype});
      row.block->holders = 1;
    }
    void* data = static_cast<char*>(row.block->data) + row.used;
    row.used += bytes;
    ++row.block->holders;
    pieces[data] = {row.block, bytes, purpose};
    return data;
  }
  void let_go(Block* shared) {
    if (shared && --shared->holders == 0) put_back(*shared);
  }

  std::string table() const {
    struct Line {
      size_t bytes = 0;
      int count = 0;
    };
    std::map<std::string, Line> lines;
    const auto add = [&lines](const Purpose& p, size_t bytes) {
      Line& l = lines[name_of(p)];
      l.bytes += bytes;
      ++l.count;
    };
    for (const auto& [data, b] : blocks)
      if (b.live && b.holders == 0) add(b.purpose, b.bytes);
    for (const auto& [data, p] : pieces) add(p.purpose, p.bytes);
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
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  ++p.stats.pool_allocs;
  if (void* piece = p.piece(bytes, purpose)) return piece;
  return p.take(bytes, purpose).data;
}

void pool_free(void* data) noexcept {
  if (!data) return;
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  const auto piece = p.pieces.find(data);
  if (piece == p.pieces.end()) return p.put_back(p.blocks.at(data));
  Block* shared = piece->second.block;
  p.pieces.erase(piece);
  p.let_go(shared);
}

SideBySide::SideBySide(size_t bytes) {
  std::lock_guard lock(pool().mutex);
  pool().let_go(std::exchange(pool().row, {bytes, 0, nullptr}).block);
}
SideBySide::~SideBySide() {
  std::lock_guard lock(pool().mutex);
  pool().let_go(std::exchange(pool().row, {}).block);
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
  const auto* at = static_cast<const char*>(p);
  const auto found = [at](const void* data, size_t bytes, const Purpose& purpose) {
    const auto* begin = static_cast<const char*>(data);
    return at >= begin && at < begin + bytes ? fmt::format("byte {} of {} ({} bytes)", at - begin, name_of(purpose), bytes) : std::string();
  };
  for (const auto& [data, piece] : pool().pieces)
    if (std::string s = found(data, piece.bytes, piece.purpose); !s.empty()) return s;
  for (const auto& [data, b] : pool().blocks)
    if (b.live)
      if (std::string s = found(b.data, b.bytes, b.purpose); !s.empty()) return s;
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

// All its blocks belong to the pool at large then, those in use once they are freed.
Arena::~Arena() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  for (auto& [data, b] : p.blocks)
    if (b.arena == id_) b.arena = 0;
  for (Block* free : p.arenas[id_].of_class)
    while (free) p.put_aside(*std::exchange(free, free->next));
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
