#include "tests/fuzz/target.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "tensor/error.h"

// Of every sanitizer's runtime; gcc ships them without their header, sanitizer/allocator_interface.h.
extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, size_t), void (*on_free)(const volatile void*));
size_t __sanitizer_get_allocated_size(const volatile void*);
}

namespace facet::fuzz {

namespace {

// Bytes held now and at most, as the sanitizer's allocator tells.
std::atomic<size_t> held{0}, most{0};

void on_malloc(const volatile void*, size_t n) {
  const size_t now = held += n;
  if (now > most) most = now;
}
void on_free(const volatile void* p) {
  if (p) held -= std::min(held.load(), __sanitizer_get_allocated_size(p));
}

[[noreturn]] void defect(const Target& t, const std::string& what) {
  std::fprintf(stderr, "%s: DEFECT: %s\n", t.name, what.c_str());
  std::abort();
}

}  // namespace

const std::vector<const Target*>& targets() {
  static const std::vector<const Target*> all = {&safetensors, &npy, &torch, &pickle, &config, &jsonl, &manifest, &yaml, &prepared, &tokenizer};
  return all;
}

const Target* find_target(const std::string& name) {
  for (const Target* t : targets())
    if (name == t->name) return t;
  return nullptr;
}

bool run(const Target& t, const std::string& bytes) {
  static const int hooks = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
  (void)hooks;
  const size_t before = held;
  most = before;
  bool accepted = false;
  try {
    t.read(bytes);
    accepted = true;
  } catch (const Error& e) {
    if (std::strlen(e.what()) == 0) defect(t, "refused without a word");
  } catch (const std::exception& e) {
    defect(t, std::string("an exception that is no facet::Error: ") + e.what());
  }
  const size_t allowed = (size_t{16} << 20) + 2 * bytes.size(), used = most > before ? most - before : 0;
  if (used > allowed) defect(t, fmt::format("{} bytes of memory for a file of {}", used, bytes.size()));
  return accepted;
}

std::string file_of(const std::string& bytes, int slot) {
  static int files[2] = {::memfd_create("a", MFD_CLOEXEC), ::memfd_create("b", MFD_CLOEXEC)};
  const int fd = files[slot];
  if (fd < 0 || ::ftruncate(fd, 0) != 0 || ::pwrite(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) std::abort();
  return fmt::format("/proc/self/fd/{}", fd);
}

void demand(bool same, const char* what) {
  if (same) return;
  std::fprintf(stderr, "DEFECT: %s\n", what);
  std::abort();
}

}  // namespace facet::fuzz
