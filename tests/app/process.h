// The program as a process that can be signalled, killed and limited.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace facet::test {

inline std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Process {
 public:
  /// Starts facet with these words; output and errors go to `log`. `limits` runs in the child before the program.
  Process(const std::vector<std::string>& words, std::string log, const std::function<void()>& limits = {}) : log_(std::move(log)) {
    std::vector<char*> argv;
    static char program[] = FACET_PROGRAM;
    argv.push_back(program);
    for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    ::close(::open(log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644));  // nobody shall read what stood there before
    sigset_t all, before;  // a signal that comes before exec meets no handler of the test's
    ::sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, &before);
    pid_ = ::fork();
    if (pid_ != 0) {
      ::sigprocmask(SIG_SETMASK, &before, nullptr);
      return;
    }
    for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    const int out = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), in = ::open("/dev/null", O_RDONLY);
    ::dup2(in, 0);
    ::dup2(out, 1);
    ::dup2(out, 2);
    if (limits) limits();
    ::execv(FACET_PROGRAM, argv.data());
    ::_exit(126);
  }
  ~Process() {
    if (pid_ > 0 && !done_) kill(SIGKILL), wait();
  }
  Process(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void kill(int signal) const { ::kill(pid_, signal); }
  /// The exit code, or 1000 + the signal that ended it.
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    done_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  bool running() {
    if (done_) return false;
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
  }
  std::string said() const { return content_of(log_); }
  /// Waits until the log or a file holds `text`; false when the process ends before or after 20 s.
  bool wait_for(const std::string& text, const std::string& file = {}) {
    for (int i = 0; i < 4000; ++i) {
      const bool there = content_of(file.empty() ? log_ : file).find(text) != std::string::npos;
      if (there) return true;
      if (!running()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

 private:
  std::string log_;
  pid_t pid_ = -1;
  bool done_ = false;
};

/// Runs to the end.
inline int run_process(const std::vector<std::string>& words, const std::string& log, const std::function<void()>& limits = {}) {
  return Process(words, log, limits).wait();
}

/// All files of a folder by relative name.
inline std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& e : std::filesystem::recursive_directory_iterator(folder))
    if (e.is_regular_file()) files[std::filesystem::relative(e.path(), folder).string()] = content_of(e.path().string());
  return files;
}

}  // namespace facet::test
