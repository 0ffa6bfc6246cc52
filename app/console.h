// What a person sees: lines on standard output, warnings on standard error, and one line that is redrawn on a terminal and
// printed now and then in a pipe.
#pragma once
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace facet::app {

/// Onto standard error. What does not fit there (it may be a file, on a full disk) is lost; nothing is thrown for it.
void say(const std::string& text);

class Console {
 public:
  explicit Console(bool quiet = false, bool verbose = false, bool json = false)
      : quiet_(quiet), verbose_(verbose), json_(json) {}
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  bool json() const { return json_; }  ///< the command prints one JSON value instead of text
  bool verbose() const { return verbose_; }
  bool quiet() const { return quiet_; }

  /// A line of the result: always printed.
  template <class... A>
  void line(fmt::format_string<A...> format, A&&... args) {
    put(stdout, fmt::format(format, std::forward<A>(args)...));
  }
  void line() { put(stdout, ""); }
  /// Text of the result without a line end, e.g. one token of an answer.
  void text(const std::string&);
  /// A line about what is going on: nothing when quiet, on standard error when the result is JSON.
  template <class... A>
  void note(fmt::format_string<A...> format, A&&... args) {
    if (!quiet_) put(json_ ? stderr : stdout, fmt::format(format, std::forward<A>(args)...));
  }
  /// A note for -v.
  template <class... A>
  void detail(fmt::format_string<A...> format, A&&... args) {
    if (verbose_) note(format, std::forward<A>(args)...);
  }
  template <class... A>
  void warn(fmt::format_string<A...> format, A&&... args) {
    put(stderr, "facet: warning: " + fmt::format(format, std::forward<A>(args)...));
  }

  /// How far a long piece of work is. On a terminal one line is redrawn (at most 20 times a second); in a pipe a plain line
  /// appears at most every `pipe_seconds`. total 0 = unknown. `what` stands in front, `rest` behind.
  void progress(const std::string& what, int64_t done, int64_t total, const std::string& rest = "");
  /// A line about how far things are, redrawn in place on a terminal; nothing in a pipe.
  void status(const std::string& line);
  /// Ends the redrawn line; done also by the next line of output.
  void progress_end();
  double pipe_seconds = 10;


 private:
  using Clock = std::chrono::steady_clock;
  void put(std::FILE*, const std::string& line);

  bool quiet_, verbose_, json_, drawn_ = false;
  Clock::time_point last_{}, began_{};
  std::string current_;
};


}  // namespace facet::app
