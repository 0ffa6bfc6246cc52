#include "tensor/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "tensor/error.h"
#include "tensor/io/text.h"

namespace facet {

InputFile::InputFile(const std::string& path) : path_(path) {
  // Non-blocking, so that opening a FIFO cannot hang before fstat tells what it is.
  do fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) fail(Kind::file, "{}: cannot open: {}", path, std::strerror(errno));
  struct stat st;
  const bool known = ::fstat(fd_, &st) == 0;
  if (!known || !S_ISREG(st.st_mode)) {
    ::close(std::exchange(fd_, -1));
    fail(Kind::file, "{}: not a regular file{}", path, known && S_ISDIR(st.st_mode) ? " but a folder" : "");
  }
  size_ = static_cast<uint64_t>(st.st_size);
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& o) noexcept
    : path_(std::move(o.path_)), size_(std::exchange(o.size_, 0)), fd_(std::exchange(o.fd_, -1)) {}

InputFile& InputFile::operator=(InputFile&& o) noexcept {
  std::swap(path_, o.path_);
  std::swap(size_, o.size_);
  std::swap(fd_, o.fd_);
  return *this;
}

void InputFile::read(uint64_t offset, std::span<uint8_t> to) const {
  if (offset > size_ || to.size() > size_ - offset)
    fail(Kind::file, "{}: bytes {} to {} asked for, the file has {} (truncated?)", path_, grouped(offset),
         grouped(offset + to.size()), grouped(size_));
  while (!to.empty()) {
    const ssize_t n = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(Kind::file, "{}: byte {}: read failed: {}", path_, grouped(offset), std::strerror(errno));
    if (n == 0) fail(Kind::file, "{}: byte {}: the file became shorter while it was read", path_, grouped(offset));
    offset += static_cast<uint64_t>(n);
    to = to.subspan(static_cast<size_t>(n));
  }
}

std::string read_file(const std::string& path, uint64_t limit) {
  const InputFile file(path);
  if (file.size() > limit)
    fail(Kind::file, "{}: {} bytes, at most {} are expected here", path, grouped(file.size()), grouped(limit));
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, {reinterpret_cast<uint8_t*>(text.data()), text.size()});
  return text;
}

}  // namespace facet
