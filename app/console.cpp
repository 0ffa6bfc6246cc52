#include "app/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "train/run_folder.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

// Progress goes to standard error, so that a result in a pipe stays clean.
bool on_terminal() {
  static const bool yes = isatty(STDERR_FILENO);
  return yes;
}

size_t columns() {
  winsize w{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
}

}  // namespace

Console::~Console() {
  progress_end();
}

void say(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void Console::put(std::FILE* to, const std::string& line) {
  progress_end();
  std::fwrite(line.data(), 1, line.size(), to);
  std::fputc('\n', to);
  std::fflush(to);
}

void Console::text(const std::string& s) {
  progress_end();
  std::fwrite(s.data(), 1, s.size(), stdout);
  std::fflush(stdout);
}

void Console::progress(const std::string& what, int64_t done, int64_t total, const std::string& rest) {
  if (quiet_) return;
  const auto now = Clock::now();
  if (what != current_) {
    progress_end();
    current_ = what;
    began_ = now;
    last_ = {};
  }
  const bool finished = total > 0 && done >= total;
  const double since = std::chrono::duration<double>(now - last_).count();
  if (!finished && last_ != Clock::time_point{} && since < (on_terminal() ? 0.05 : pipe_seconds)) return;
  last_ = now;

  std::string line = what;
  if (total > 0) {
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const double gone = std::chrono::duration<double>(now - began_).count();
    if (on_terminal()) {
      const int cells = 24, full = static_cast<int>(share * cells);
      line += " [" + std::string(full, '=') + std::string(cells - full, ' ') + "]";
    }
    line += fmt::format(" {:3.0f}% {}/{}", 100 * share, grouped(static_cast<uint64_t>(done)), grouped(static_cast<uint64_t>(total)));
    if (share > 0 && !finished) line += " eta " + clock_text(gone * (1 - share) / share);
  } else {
    line += " " + grouped(static_cast<uint64_t>(done));
  }
  if (!rest.empty()) line += " " + rest;
  if (on_terminal()) {
    status(line);
  } else {
    say(line + "\n");
  }
  if (finished) progress_end();
}

void Console::status(const std::string& line) {
  if (quiet_ || !on_terminal()) return;
  say("\r\033[K" + line.substr(0, columns() - 1));
  drawn_ = true;
}

void Console::progress_end() {
  if (drawn_) std::fputc('\n', stderr);
  drawn_ = false;
  current_.clear();
}

}  // namespace facet::app
