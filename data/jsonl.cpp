#include "data/jsonl.h"

#include <algorithm>
#include <cstring>

#include "tensor/error.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

InputFile open_data(const std::string& path) {
  try {
    return InputFile(path);
  } catch (const Error& e) {
    throw Error(Kind::data, e.what());
  }
}

}  // namespace

LineReader::LineReader(const std::string& path) : file_(open_data(path)) {}

std::string LineReader::where() const { return fmt::format("{}:{}", file_.path(), number_); }

bool LineReader::fill() {
  buffer_.resize(size_t{64} << 10);
  at_ = 0;
  end_ = static_cast<size_t>(std::min<uint64_t>(buffer_.size(), file_.size() - offset_));
  file_.read(offset_, {buffer_.data(), end_});
  offset_ += end_;
  return end_ > 0;
}

bool LineReader::next(std::string& line) {
  for (;;) {
    line.clear();
    if (at_ == end_ && !fill()) return false;
    ++number_;
    bool ended = false, too_long = false;
    while (!ended && (at_ < end_ || fill())) {
      const uint8_t* from = buffer_.data() + at_;
      const auto* newline = static_cast<const uint8_t*>(std::memchr(from, '\n', end_ - at_));
      ended = newline != nullptr;
      const size_t n = ended ? static_cast<size_t>(newline - from) : end_ - at_;
      too_long = too_long || line.size() + n > max_line_bytes;
      if (!too_long) line.append(reinterpret_cast<const char*>(from), n);
      at_ += n + ended;
    }
    if (too_long) fail(Kind::data, "{}: line is longer than {} bytes", where(), grouped(max_line_bytes));
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (number_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    if (const size_t at = invalid_utf8(line); at != std::string::npos) fail(Kind::data, "{}: byte {}: invalid UTF-8", where(), grouped(at + 1));
    if (line.find_first_not_of(" \t") != std::string::npos) return true;
  }
}

}  // namespace facet
