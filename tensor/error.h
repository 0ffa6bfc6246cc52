// The one error type. A message says what, where, expected, found, and what to do next; the kind decides the exit code.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace facet {

/// Why something failed; the values are the exit codes of the `facet` program.
enum class Kind : int {
  check = 1,         ///< a comparison came out red
  usage = 2,         ///< option, config or shape given by the caller
  file = 3,          ///< model, tokenizer, adapter or checkpoint file
  data = 4,          ///< dataset or reward
  environment = 5,   ///< device, disk, port
  guard = 6,         ///< a training guard stopped the run
  nondeterminism = 7,///< a repeated batch differed
  memory = 12,       ///< out of memory
  requeue = 75,      ///< saved on SIGTERM or SIGUSR1
  interrupted = 130, ///< saved on SIGINT
};

class Error : public std::runtime_error {
 public:
  Error(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Kind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  Kind kind_;
};

/// Throws Error(kind, formatted message).
template <class... A>
[[noreturn]] void fail(Kind kind, fmt::format_string<A...> format, A&&... args) {
  throw Error(kind, fmt::format(format, std::forward<A>(args)...));
}

}  // namespace facet
