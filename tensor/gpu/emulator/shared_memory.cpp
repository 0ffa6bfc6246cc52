// The shared memory of the block that runs: per array a piece of heap of exactly its size, so that AddressSanitizer sees its ends; other
// builds have guards around it. Filled with NaN for every block.
#include <cstdlib>
#include <cstring>

#include "tensor/error.h"
#include "tensor/gpu/emulator/sanitizers.h"
#include "tensor/gpu/emulator/scheduler.h"

namespace facet::gpu::emulator {
namespace {

constexpr size_t guard = address_sanitizer ? 0 : 64;
constexpr int poison = 0xff;  // NaN in every floating type

struct Array {
  const void* key;
  const char* name;
  size_t bytes;
  char* heap;
  bool in_use;  // by this block

  char* data() const { return heap + guard; }
};
std::vector<Array>& arrays = *new std::vector<Array>;
std::vector<char*>& retired = *new std::vector<char*>;  // of earlier blocks, kept so that no address comes twice in a launch
size_t dynamic_bytes = 0;

void poison_array(Array& a) {
  std::memset(a.heap, poison, a.bytes + 2 * guard);
  a.in_use = true;
}
Array make_array(const void* key, const char* name, size_t bytes) {
  auto* heap = static_cast<char*>(std::malloc(bytes + 2 * guard));
  if (!heap) fail(Kind::memory, "emulated GPU: no memory for the shared array {}", name);
  return {key, name, bytes, heap, false};
}

}  // namespace

void shared_begin_launch(const Launch& l) { dynamic_bytes = l.shared_bytes; }

void shared_begin_block() {
  for (Array& a : arrays) a.in_use = false;
}

const char* shared_end_block() {
  const char* overrun = nullptr;
  for (const Array& a : arrays)
    for (size_t i = 0; a.in_use && i < guard; ++i)
      if (a.heap[i] != static_cast<char>(poison) || a.data()[a.bytes + i] != static_cast<char>(poison)) overrun = a.name;
  if (race_detector && active().races == Races::between_blocks) {
    for (const Array& a : arrays) retired.push_back(a.heap);
    arrays.clear();
  }
  return overrun;
}

void shared_end_launch() {
  for (const Array& a : arrays) std::free(a.heap);
  for (char* p : retired) std::free(p);
  arrays.clear();
  retired.clear();
}

void* shared_array(const void* key, const char* name, size_t bytes, Site site) {
  for (Array& a : arrays)
    if (a.key == key) {
      if (!a.in_use) {
        const Unseen unseen;
        poison_array(a);
      }
      return a.data();
    }
  const Unseen unseen;
  size_t all = bytes;
  for (const Array& a : arrays)
    if (a.key != &dynamic_bytes) all += a.bytes;
  if (all > 48 * 1024 && key != &dynamic_bytes) report(site, [&] { return fmt::format("{} bytes of shared arrays; 48 KB are allowed, more only as dynamic shared memory", all); });
  if (all + dynamic_bytes > 227 * 1024 && key != &dynamic_bytes)
    report(site, [&] { return fmt::format("{} bytes of shared arrays and {} of dynamic shared memory; a block has 227 KB", all, dynamic_bytes); });
  arrays.push_back(make_array(key, name, bytes));
  poison_array(arrays.back());
  return arrays.back().data();
}

void* dynamic_shared() { return shared_array(&dynamic_bytes, "of dynamic size", dynamic_bytes, {}); }

bool in_shared(const void* p, size_t bytes) {
  for (const Array& a : arrays)
    if (a.in_use && p >= a.data() && static_cast<const char*>(p) + bytes <= a.data() + a.bytes) return true;
  return false;
}

}  // namespace facet::gpu::emulator
