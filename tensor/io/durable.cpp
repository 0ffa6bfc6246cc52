#include "tensor/io/durable.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "tensor/error.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

IoHook hook;

// 0 or the errno the hook asks for; a negative answer is left to write.
int ask(IoCall call, const std::string& path, const std::string& to = {}, const void* data = nullptr, size_t bytes = 0) {
  return hook ? hook({call, path, to, data, bytes}) : 0;
}

// Runs f (a system call returning -1 on failure) unless the hook fails it; throws naming what was tried.
template <class F>
int guarded(IoCall call, const char* what, const std::string& path, const std::string& to, F&& f) {
  int r = 0;
  do {
    if (const int fault = ask(call, path, to); fault > 0) {
      errno = fault;
      r = -1;
    } else {
      r = f();
    }
  } while (r < 0 && errno == EINTR && call != IoCall::sync);
  if (r < 0) fail(Kind::environment, "{}: cannot {}{}: {}", path, what, to.empty() ? "" : " to " + to, std::strerror(errno));
  return r;
}

std::string parent_of(const std::string& path) {
  const std::string p = fs::path(path).parent_path().string();
  return p.empty() ? "." : p;
}

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// Numbers of names made by this process: from the clock on, because in a container the next process may well have the same id.
const int64_t first_number =
    std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
std::atomic<int64_t> next_number{first_number};

// Writes all of it, however often that is interrupted or cut short: 0, or the errno that stopped it after `done` bytes.
int write_all(int fd, const std::string& path, const char* p, size_t bytes, size_t& done) {
  for (done = 0; done < bytes;) {
    const size_t left = bytes - done;
    const int answer = ask(IoCall::write, path, {}, p + done, left);
    // Linux writes at most 0x7ffff000 bytes a call; a gibibyte keeps well below.
    const size_t want = std::min<size_t>(answer < 0 ? static_cast<size_t>(-answer) : left, std::min<size_t>(left, size_t{1} << 30));
    ssize_t n;
    if (answer > 0) {
      n = -1;
      errno = answer;
    } else {
      n = ::write(fd, p + done, want);
    }
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    done += static_cast<size_t>(n);
  }
  return 0;
}

// A fresh name beside `path`; pid and number tell apart processes and uses.
std::string name_beside(const std::string& path, const char* prefix) {
  return (fs::path(parent_of(path)) / fmt::format("{}.{}.{}.{}", prefix, fs::path(path).filename().string(), ::getpid(), next_number++))
      .string();
}

void remove_tree(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(fs::symlink_status(path, error)))
    for (const auto& entry : fs::directory_iterator(path, error)) remove_tree(entry.path().string());
  guarded(IoCall::remove, "remove", path, {}, [&] { return ::remove(path.c_str()); });
}

void remove_quietly(const std::string& path) noexcept {
  try {
    remove_tree(path);
  } catch (...) {  // already unwinding from the error that matters; remove_leftovers() gets another chance
  }
}

}  // namespace

void set_io_hook(IoHook h) { hook = std::move(h); }

// ---- files

DurableFile::DurableFile(const std::string& path) : path_(path), temporary_(name_beside(path, "tmp")) {
  fd_ = guarded(IoCall::create, "create", temporary_, {},
                [&] { return ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
}

DurableFile::~DurableFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) remove_quietly(temporary_);
}

void DurableFile::write(const void* data, size_t bytes) {
  if (fd_ < 0) fail(Kind::environment, "{}: not open for writing (an earlier write failed?)", path_);
  size_t done = 0;
  const int reason = write_all(fd_, temporary_, static_cast<const char*>(data), bytes, done);
  size_ += done;
  if (reason == 0) return;
  ::close(std::exchange(fd_, -1));
  fail(Kind::environment, "{}: writing {} bytes at byte {} failed: {}", path_, bytes - done, size_, std::strerror(reason));
}

void DurableFile::commit() {
  if (fd_ < 0) fail(Kind::environment, "{}: nothing to commit (an earlier write failed?)", path_);
  guarded(IoCall::sync, "sync", temporary_, {}, [&] { return ::fsync(fd_); });
  // close() reports what network file systems only notice then.
  guarded(IoCall::sync, "close", temporary_, {}, [&] { return ::close(std::exchange(fd_, -1)); });
  guarded(IoCall::rename, "rename", temporary_, path_, [&] { return ::rename(temporary_.c_str(), path_.c_str()); });
  temporary_.clear();
  sync_folder(parent_of(path_));
}

void write_file_atomically(const std::string& path, std::string_view content) {
  DurableFile f(path);
  f.write(content);
  f.commit();
}

GrowingFile::GrowingFile(const std::string& path) : path_(path) {
  fd_ = guarded(IoCall::create, "write", path, {}, [&] { return ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666); });
  try {
    sync_folder(parent_of(path));
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

GrowingFile::~GrowingFile() { ::close(fd_); }

void GrowingFile::append(std::string_view text) {
  size_t done = 0;
  const int reason = write_all(fd_, path_, text.data(), text.size(), done);
  if (reason == 0) return;
  struct stat now;
  if (done > 0 && ::fstat(fd_, &now) == 0) (void)!::ftruncate(fd_, now.st_size - static_cast<off_t>(done));
  fail(Kind::environment, "{}: cannot write: {}", path_, std::strerror(reason));
}

void GrowingFile::sync() {
  guarded(IoCall::sync, "sync", path_, {}, [&] { return ::fsync(fd_); });
}

// ---- folders

void sync_folder(const std::string& path) {
  guarded(IoCall::sync_folder, "sync folder", path, {}, [&] {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    int r = ::fsync(fd);
    if (r < 0 && errno == EINVAL) r = 0;  // a file system without folder sync
    const int reason = errno;
    ::close(fd);
    errno = reason;
    return r;
  });
}

void rename_durably(const std::string& from, const std::string& to) {
  guarded(IoCall::rename, "rename", from, to, [&] { return ::rename(from.c_str(), to.c_str()); });
  sync_folder(parent_of(to));
  if (parent_of(from) != parent_of(to)) sync_folder(parent_of(from));
}

void make_folders(const std::string& path) {
  std::error_code ignored;
  if (path.empty() || fs::is_directory(path, ignored)) return;
  const std::string parent = parent_of(without_slash(path));
  if (parent != path) make_folders(parent);
  guarded(IoCall::make_folder, "make folder", path, {}, [&] {
    const int r = ::mkdir(path.c_str(), 0777);
    if (r == 0 || errno != EEXIST) return r;
    if (fs::is_directory(path, ignored)) return 0;
    errno = ENOTDIR;  // a file has this name: "file exists" would not say what is wrong with that
    return r;
  });
  sync_folder(parent);
}

void remove_durably(const std::string& path) {
  const std::string trash = name_beside(without_slash(path), "trash");
  rename_durably(path, trash);
  remove_tree(trash);
}

StagedFolder::StagedFolder(const std::string& target) : target_(without_slash(target)), temporary_(name_beside(target_, "tmp")) {
  make_folders(temporary_);
}

StagedFolder::~StagedFolder() {
  if (!temporary_.empty()) remove_quietly(temporary_);
}

void StagedFolder::commit(bool replace) {
  sync_folder(temporary_);
  const int r = guarded(IoCall::rename, "rename", temporary_, target_, [&] {
    // An empty folder may be renamed over.
    const int done = ::rename(temporary_.c_str(), target_.c_str());
    return done < 0 && (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) ? 1 : done;
  });
  if (r == 1) {
    if (!replace) fail(Kind::environment, "{}: already exists; choose another folder or remove it", target_);
    const int exchanged = guarded(IoCall::rename, "exchange", temporary_, target_, [&] {
      const int done = ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE);
      return done < 0 && (errno == EINVAL || errno == ENOSYS) ? 1 : done;
    });
    if (exchanged == 1) {  // a file system without exchange: for a moment there is neither
      remove_durably(target_);
      rename_durably(std::exchange(temporary_, {}), target_);
      return;
    }
  }
  sync_folder(parent_of(target_));
  const std::string old = std::exchange(temporary_, {});
  if (r == 1) remove_durably(old);
}

int remove_leftovers(const std::string& folder) {
  int removed = 0;
  std::error_code error;
  std::vector<std::string> dead;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("tmp.") && !name.starts_with("trash.")) continue;
    int pid = 0, end = 0;
    long long number = 0;
    // "....<pid>.<n>": anything else was not made here.
    const size_t n = name.rfind('.'), p = n == 0 ? std::string::npos : name.rfind('.', n - 1);
    if (p == std::string::npos || p < 3 || std::sscanf(name.c_str() + p, ".%d.%lld%n", &pid, &number, &end) != 2 ||
        p + static_cast<size_t>(end) != name.size() || pid <= 0)
      continue;
    const bool ours = pid == ::getpid() && number >= first_number && number < next_number;
    if (!ours && (pid == ::getpid() || (::kill(pid, 0) < 0 && errno == ESRCH))) dead.push_back(entry.path().string());
  }
  for (const std::string& path : dead) {
    remove_tree(path);
    ++removed;
  }
  return removed;
}

// ---- space

std::string human_bytes(uint64_t n) {
  const char* unit[] = {"bytes", "kB", "MB", "GB", "TB", "PB", "EB"};
  double v = static_cast<double>(n);
  int u = 0;
  while (v >= 1000 && u < 6) v /= 1000, ++u;
  return u == 0 ? fmt::format("{} bytes", n) : fmt::format("{:.1f} {}", v, unit[u]);
}

uint64_t free_bytes(const std::string& folder) {
  struct statvfs s;
  if (::statvfs(folder.c_str(), &s) < 0) fail(Kind::environment, "{}: cannot ask for free space: {}", folder, std::strerror(errno));
  return static_cast<uint64_t>(s.f_bavail) * s.f_frsize;
}

void check_free_space(const std::string& what, const std::string& folder, uint64_t need_bytes) {
  const uint64_t need = need_bytes + need_bytes / 20, free = free_bytes(folder);
  if (need > free) fail(Kind::environment, "{} needs {}, {} free in {}", what, human_bytes(need), human_bytes(free), folder);
}

}  // namespace facet
