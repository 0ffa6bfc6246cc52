#include "data/exec_verifier.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>

#include "tensor/io/json.h"
#include "tensor/io/text.h"

extern char** environ;

namespace facet {

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void system_failed(const char* what, int error) { throw Error(Kind::environment, fmt::format("{}: {}", what, std::strerror(error))); }

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& o) noexcept { return std::swap(fd_, o.fd_), *this; }
  ~Descriptor() { close(); }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

struct Pipe {
  Descriptor read, write;
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) system_failed("pipe", errno);
    for (int i = 0; i < 2; ++i) {
      Descriptor fd(fds[i]);
      // Above the descriptors that the child's ends are moved to, even where this process has its own standard streams closed.
      if (fds[i] <= lifeline_fd) fd = Descriptor(::fcntl(fds[i], F_DUPFD_CLOEXEC, lifeline_fd + 1));
      if (!fd.is_open()) system_failed("pipe", errno);
      (i == 0 ? read : write) = std::move(fd);
    }
  }
  static constexpr int lifeline_fd = 3;
};

// Writing to a child that has closed its input raises SIGPIPE in this thread. Blocked here, and taken back before it is delivered: handlers
// are the whole process's, so they stay as they are.
class NoSigpipe {
 public:
  NoSigpipe() {
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoSigpipe() {
    constexpr timespec now{};
    if (!was_pending_)
      while (sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {}
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigpipe(const NoSigpipe&) = delete;

 private:
  sigset_t pipe_, before_;
  bool was_pending_;
};

// A shell command in a process group of its own. Whoever leaves the scope kills the group.
class Child {
 public:
  explicit Child(const std::string& command) {
    Pipe in, out, err, lifeline;
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&how);
    const Descriptor* ends[] = {&in.read, &out.write, &err.write, &lifeline.read};
    for (int i = 0; i < 4; ++i) posix_spawn_file_actions_adddup2(&files, ends[i]->get(), i);
    sigset_t none, usual;
    sigemptyset(&none);
    sigfillset(&usual);
    posix_spawnattr_setsigmask(&how, &none);
    posix_spawnattr_setsigdefault(&how, &usual);
    posix_spawnattr_setpgroup(&how, 0);
    posix_spawnattr_setflags(&how, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    // The watcher waits for the other end of the lifeline, which only this process holds: when that is gone, killed by whatever signal,
    // so is the group.
    char shell[] = "/bin/sh", flag[] = "-c", name[] = "sh";
    char script[] = "(read -r gone <&3; kill -KILL 0) </dev/null >/dev/null 2>&1 & exec 3<&-; exec /bin/sh -c \"$1\"";
    std::string text = command;
    char* argv[] = {shell, flag, script, name, text.data(), nullptr};
    // posix_spawn, not fork: other threads may hold locks, and a large process is not copied.
    const int error = posix_spawn(&pid_, shell, &files, &how, argv, environ);
    posix_spawnattr_destroy(&how);
    posix_spawn_file_actions_destroy(&files);
    if (error != 0) system_failed("cannot start /bin/sh", error);
    for (Descriptor* d : {&in.write, &out.read, &err.read}) ::fcntl(d->get(), F_SETFL, O_NONBLOCK);
    input = std::move(in.write);
    output = std::move(out.read);
    errors = std::move(err.read);
    lifeline_ = std::move(lifeline.write);
  }
  ~Child() { end(); }
  Child(const Child&) = delete;

  bool running() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
  }
  /// Kills what is left of the group, then takes the status: in that order the group's number cannot have been given to others.
  int end() {
    if (pid_ <= 0) return status_;
    ::kill(-pid_, SIGKILL);
    while (::waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {}
    pid_ = -1;
    return status_;
  }

  Descriptor input, output, errors;

 private:
  Descriptor lifeline_;
  pid_t pid_ = -1;
  int status_ = 0;
};

// Reads what there is. False at the end of the stream.
template <class Use>
bool drain(const Descriptor& from, Use use) {
  std::array<char, 65536> buffer;
  for (;;) {
    const ssize_t n = ::read(from.get(), buffer.data(), buffer.size());
    if (n == 0) return false;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (!use(std::string_view(buffer.data(), static_cast<size_t>(n)))) return true;
  }
}

struct Conversation {
  std::string output, errors;
  std::string failure;  // empty: the child ended with status 0
};

std::string ending(int status) {
  if (WIFSIGNALED(status)) return fmt::format("killed by signal {}", WTERMSIG(status));
  return WEXITSTATUS(status) == 0 ? "" : fmt::format("exit status {}", WEXITSTATUS(status));
}

Conversation converse(const std::string& command, std::string_view input, double seconds, size_t output_limit) {
  constexpr size_t errors_kept = 4096;
  const NoSigpipe off;
  Conversation c;
  Child child(command);
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  const auto take_output = [&](std::string_view s) { return c.output.append(s), c.output.size() <= output_limit; };
  const auto take_errors = [&](std::string_view s) {
    c.errors.append(s);
    if (c.errors.size() > errors_kept) c.errors.erase(0, c.errors.size() - errors_kept);
    return Clock::now() < deadline;
  };
  for (;;) {
    if (input.empty()) child.input.close();
    while (child.input.is_open()) {
      const ssize_t n = ::write(child.input.get(), input.data(), input.size());
      if (n > 0) input.remove_prefix(static_cast<size_t>(n));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno != EAGAIN) input = {};  // it reads no more, which is its business
      if (input.empty()) child.input.close();
      if (n < 0) break;
    }
    const bool ended = !child.running();  // asked before the last reading, so that nothing it wrote is missed
    if (child.output.is_open() && !drain(child.output, take_output)) child.output.close();
    if (child.errors.is_open() && !drain(child.errors, take_errors)) child.errors.close();
    if (c.output.size() > output_limit) c.failure = fmt::format("it wrote more than {} bytes", grouped(output_limit));
    else if (!ended && Clock::now() >= deadline) c.failure = fmt::format("no answer within {:.3g} s, killed", seconds);
    if (ended || !c.failure.empty()) break;
    // The end of a process is no event of its streams (they may be closed before, or held by its children): looked for every few ms.
    pollfd events[] = {{child.input.get(), POLLOUT, 0}, {child.output.get(), POLLIN, 0}, {child.errors.get(), POLLIN, 0}};
    ::poll(events, 3, child.output.is_open() ? 10 : 1);
  }
  const int status = child.end();
  if (c.failure.empty()) c.failure = ending(status);
  return c;
}

class Exec final : public Verifier {
 public:
  Exec(const std::string& command, const ExecLimits& limits) : name_("exec:" + command), command_(command), limits_(limits) {}
  const std::string& name() const override { return name_; }

  std::vector<Verdict> judge(std::span<const Judged> answers) override {
    const double rows = static_cast<double>(answers.size());
    const Conversation c = converse(command_, lines_for(answers), limits_.seconds + rows * limits_.seconds_per_row,
                                    limits_.output_bytes + answers.size() * limits_.output_bytes_per_row);
    std::vector<Verdict> r(answers.size());
    std::string broken = c.failure;
    std::vector<std::string_view> lines;
    std::string_view rest = c.output;
    while (!rest.empty()) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      lines.push_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    if (broken.empty() && lines.size() != answers.size())
      broken = fmt::format("{} line{} for {} sample{}", lines.size(), lines.size() == 1 ? "" : "s", answers.size(), answers.size() == 1 ? "" : "s");
    if (const std::string_view said = last_line(c.errors); !broken.empty() && !said.empty()) broken += "; it said: " + printable(said, 200);
    for (size_t i = 0; i < answers.size(); ++i) {
      if (broken.empty()) r[i] = number_in(lines[i]);
      else r[i].error = broken;
    }
    return r;
  }

 private:
  static std::string lines_for(std::span<const Judged> answers) {
    std::string text;
    for (const Judged& a : answers) {
      Json row = Json::object();
      if (!a.question->row.empty()) row = parse_json(a.question->row, a.question->where, Kind::data);
      if (!row.contains("prompt")) row["prompt"] = a.question->prompt;
      row["completion"] = a.completion;
      text += row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    return text;
  }

  // Where most programs say what went wrong.
  static std::string_view last_line(std::string_view text) {
    text = text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
    return text.substr(text.rfind('\n') + 1);
  }

  static Verdict number_in(std::string_view line) {
    const size_t begin = std::min(line.find_first_not_of(" \t"), line.size()), end = line.find_last_not_of(" \t\r") + 1;
    const std::string_view text = begin < end ? line.substr(begin, end - begin) : std::string_view();
    Verdict v;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), v.reward);
    if (text.empty() || error != std::errc() || stop != text.data() + text.size() || !std::isfinite(v.reward))
      return {0, {}, fmt::format("\"{}\" is no finite number", printable(text, 40))};
    v.name = fmt::format("{:.3g}", v.reward);
    return v;
  }

  std::string name_, command_;
  ExecLimits limits_;
};

}  // namespace

std::unique_ptr<Verifier> make_exec_verifier(const std::string& command, const ExecLimits& limits) {
  if (!(limits.seconds > 0) || !(limits.seconds_per_row >= 0)) fail(Kind::usage, "verifier exec: a time limit of {} s", limits.seconds);
  return std::make_unique<Exec>(command, limits);
}

}  // namespace facet
