// Files of one JSON object per line, read as a stream.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/io/file.h"

namespace facet {

/// Reads lines: strict UTF-8, at most 16 MiB each; a byte order mark, CRLF and a last line without newline are accepted, blank lines
/// are skipped. Holds one buffer, never the file.
class LineReader {
 public:
  explicit LineReader(const std::string& path);  ///< throws Error(Kind::data) when the file cannot be read
  /// False at the end. Throws Error(Kind::data) with where() on a line that is too long or not UTF-8; the next call goes on behind it.
  bool next(std::string& line);
  int64_t number() const { return number_; }  ///< of the line last read, from 1
  std::string where() const;                  ///< "train.jsonl:417"

  static constexpr size_t max_line_bytes = size_t{16} << 20;

 private:
  bool fill();
  InputFile file_;
  std::vector<uint8_t> buffer_;
  size_t at_ = 0, end_ = 0;
  uint64_t offset_ = 0;
  int64_t number_ = 0;
};

}  // namespace facet
