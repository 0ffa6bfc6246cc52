// Bounds-checked reading of little-endian bytes that nobody vouches for: the one place where a reader of an untrusted format
// turns sizes found in a file into positions.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "tensor/error.h"

namespace facet {

/// a + b and a * b; false when the sum or product does not fit.
inline bool checked_add(uint64_t a, uint64_t b, uint64_t& r) { return !__builtin_add_overflow(a, b, &r); }
inline bool checked_mul(uint64_t a, uint64_t b, uint64_t& r) { return !__builtin_mul_overflow(a, b, &r); }

/// Walks over bytes; every step checks what remains and throws Error(Kind::file) naming the file, the offset and the field.
class Cursor {
 public:
  /// `base`: offset of the first byte in the file, for messages.
  Cursor(std::span<const uint8_t> bytes, std::string where, uint64_t base = 0)
      : bytes_(bytes), where_(std::move(where)), base_(base) {}

  uint64_t offset() const { return base_ + at_; }
  uint64_t remaining() const { return bytes_.size() - at_; }
  const std::string& where() const { return where_; }

  std::span<const uint8_t> take(uint64_t n, const char* field) {
    if (n > remaining())
      fail(Kind::file, "{}: byte {}: {} needs {} bytes, {} remain (truncated?)", where_, offset(), field, n, remaining());
    const auto r = bytes_.subspan(at_, static_cast<size_t>(n));
    at_ += static_cast<size_t>(n);
    return r;
  }
  void skip(uint64_t n, const char* field) { take(n, field); }

  /// An unsigned or floating value in little-endian order.
  template <class T>
  T get(const char* field) {
    static_assert(std::endian::native == std::endian::little, "the file formats are read on little-endian machines");
    T v;
    std::memcpy(&v, take(sizeof(T), field).data(), sizeof(T));
    return v;
  }

 private:
  std::span<const uint8_t> bytes_;
  std::string where_;
  uint64_t base_;
  size_t at_ = 0;
};

}  // namespace facet
