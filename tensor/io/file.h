// Reading files that nobody vouches for. Files are read, not mapped: a mapped file that shrinks under us would end the
// process with SIGBUS, a read reports it; and a weight goes straight from the page cache into its tensor either way.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace facet {

/// A regular file opened for reading (close-on-exec); the size is the one at opening. Movable. Safe to read from threads.
class InputFile {
 public:
  /// Throws Error(Kind::file) when the path is missing, unreadable or not a regular file.
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(InputFile&&) noexcept;
  InputFile& operator=(InputFile&&) noexcept;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  /// Fills `to` from `offset`; throws when the range is not inside the file.
  void read(uint64_t offset, std::span<uint8_t> to) const;

 private:
  std::string path_;
  uint64_t size_ = 0;
  int fd_ = -1;
};

/// The whole file; throws Error(Kind::file) when it is longer than `limit` bytes.
std::string read_file(const std::string& path, uint64_t limit = uint64_t{16} << 20);

}  // namespace facet
