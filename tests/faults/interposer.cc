// Stands between the program and the system (LD_PRELOAD): counts, records and breaks the calls that change one folder. The program
// does not know; nothing of this is in it.
//
//   FAULTS_UNDER=/path   only files below this folder
//   FAULTS_CALLS=write,create   those that are counted; all by default
//   FAULTS_AT=7          at the 7th of them
//   FAULTS_DO=die        the process is killed before the call
//                   tear       the same, after half of what is written
//                   short      half is written, and said
//                   once:28    the call fails with this errno
//                   on:28      this one and all after it
//   FAULTS_FREE=1000     this folder's disk has so many bytes left
//   FAULTS_RECORD=file   every call with its data, as power_loss.h reads them
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace {

// The system's own function of this name.
template <class R, class... A>
auto next(R (*)(A...), const char* name) {
  return reinterpret_cast<R (*)(A...)>(dlsym(RTLD_NEXT, name));
}
int next_open(const char* name, const char* path, int flags, mode_t mode) {
  return reinterpret_cast<int (*)(const char*, int, ...)>(dlsym(RTLD_NEXT, name))(path, flags, mode);
}

const char* setting(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

enum class Verdict { go_on, fail, half, half_and_die };  // a failure has set errno

struct Faults {
  std::string under = setting("FAULTS_UNDER"), calls = "," + std::string(setting("FAULTS_CALLS")) + ",", what = setting("FAULTS_DO");
  long at = std::atol(setting("FAULTS_AT")), count = 0;
  int record = -1;
  std::string paths[1024];  // by descriptor; empty: none of ours
  std::mutex mutex;

  Faults() {
    if (const char* file = setting("FAULTS_RECORD"); *file)
      record = next_open("open", file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  }
  bool concerns(const std::string& path) const {
    return !under.empty() && path.compare(0, under.size(), under) == 0 && (path.size() == under.size() || path[under.size()] == '/');
  }
  std::string path_of(int fd) { return fd >= 0 && fd < 1024 ? paths[fd] : std::string(); }

  // What happens to a call of this kind.
  Verdict judge(const char* kind) {
    if (calls != ",," && calls.find("," + std::string(kind) + ",") == std::string::npos) return Verdict::go_on;
    ++count;
    const bool lasting = what.compare(0, 3, "on:") == 0;
    if (at == 0 || (lasting ? count < at : count != at)) return Verdict::go_on;
    if (what == "die") raise(SIGKILL);
    if (what == "tear") return Verdict::half_and_die;
    if (what == "short") return Verdict::half;
    errno = std::atoi(what.c_str() + what.find(':') + 1);
    return Verdict::fail;
  }
  // Of calls that have no half.
  bool fails(const char* kind) {
    const Verdict v = judge(kind);
    if (v == Verdict::half_and_die) raise(SIGKILL);
    return v == Verdict::fail;
  }
  // "name number number\n" and two texts with their lengths.
  void write_down(const char* name, long a, long b, const std::string& first, const void* data = nullptr, size_t bytes = 0) {
    if (record < 0) return;
    char head[128];
    const int n = std::snprintf(head, sizeof head, "%s %ld %ld %zu %zu\n", name, a, b, first.size(), bytes);
    std::string line(head, static_cast<size_t>(n));
    line += first;
    line.append(static_cast<const char*>(data ? data : ""), bytes);
    if (next(&::write, "write")(record, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::abort();
  }
};

Faults& faults() {
  static Faults* f = new Faults;  // used until the very end of the process
  return *f;
}

std::string absolute(const char* path) {
  if (*path == '/') return path;
  char here[4096];
  return (getcwd(here, sizeof here) ? std::string(here) : std::string()) + "/" + path;
}

// A call on paths: judged, made, written down with its result.
template <class F>
int on_path(const char* kind, const std::string& path, const std::string& to, F&& make) {
  Faults& f = faults();
  if (!f.concerns(path)) return make();
  const std::lock_guard<std::mutex> lock(f.mutex);
  if (f.fails(kind)) return -1;
  const int r = make();
  if (r >= 0) f.write_down(kind, 0, 0, path, to.data(), to.size());
  return r;
}

int open_it(const char* name, const char* path, int flags, mode_t mode) {
  Faults& f = faults();
  const std::string full = absolute(path);
  if (!f.concerns(full)) return next_open(name, path, flags, mode);
  const std::lock_guard<std::mutex> lock(f.mutex);
  const bool creates = flags & O_CREAT;
  if (creates && f.fails("create")) return -1;
  const int fd = next_open(name, path, flags, mode);
  if (fd < 0 || fd >= 1024) return fd;
  f.paths[fd] = full;
  if (creates) f.write_down("create", fd, flags & O_TRUNC ? 1 : 0, full);
  else if (flags & O_DIRECTORY) f.write_down("folder", fd, 0, full);
  return fd;
}

mode_t mode_of(int flags, va_list rest) { return flags & O_CREAT ? static_cast<mode_t>(va_arg(rest, int)) : 0; }

// `where`: the offset, or -1 for the end of what is there.
ssize_t write_it(int fd, const void* data, size_t bytes, off_t where, ssize_t (*real)(int, const void*, size_t, off_t)) {
  Faults& f = faults();
  if (f.path_of(fd).empty()) return real(fd, data, bytes, where);
  const std::lock_guard<std::mutex> lock(f.mutex);
  const Verdict v = f.judge("write");
  if (v == Verdict::fail) return -1;
  const bool half = v == Verdict::half || v == Verdict::half_and_die;
  if (where < 0 && fcntl(fd, F_GETFL) & O_APPEND) {
    struct stat now;
    if (fstat(fd, &now) == 0) where = now.st_size;
  }
  const off_t at = where >= 0 ? where : lseek(fd, 0, SEEK_CUR);
  const ssize_t n = real(fd, data, half && bytes > 1 ? bytes / 2 : bytes, where);
  if (v == Verdict::half_and_die) raise(SIGKILL);
  if (n > 0) f.write_down("write", fd, at, {}, data, static_cast<size_t>(n));
  return n;
}

int sync_it(const char* name, int fd) {
  const auto real = next(&::fsync, name);
  Faults& f = faults();
  if (f.path_of(fd).empty()) return real(fd);
  const std::lock_guard<std::mutex> lock(f.mutex);
  if (f.fails("sync")) return -1;
  const int r = real(fd);
  if (r == 0) f.write_down("sync", fd, 0, {});
  return r;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return open_it("open", path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return open_it("open64", path, flags, mode);
}
int close(int fd) {
  Faults& f = faults();
  if (!f.path_of(fd).empty()) {
    const std::lock_guard<std::mutex> lock(f.mutex);
    f.paths[fd].clear();
    f.write_down("close", fd, 0, {});
  }
  return next(&::close, "close")(fd);
}
ssize_t write(int fd, const void* data, size_t bytes) {
  return write_it(fd, data, bytes, -1, [](int d, const void* p, size_t n, off_t) { return next(&::write, "write")(d, p, n); });
}
ssize_t pwrite(int fd, const void* data, size_t bytes, off_t at) {
  return write_it(fd, data, bytes, at, [](int d, const void* p, size_t n, off_t o) { return next(&::pwrite, "pwrite")(d, p, n, o); });
}
int fsync(int fd) { return sync_it("fsync", fd); }
int fdatasync(int fd) { return sync_it("fdatasync", fd); }
int ftruncate(int fd, off_t bytes) noexcept {
  Faults& f = faults();
  const int r = next(&::ftruncate, "ftruncate")(fd, bytes);
  const std::lock_guard<std::mutex> lock(f.mutex);
  if (r == 0 && !f.path_of(fd).empty()) f.write_down("truncate", fd, bytes, {});
  return r;
}
int rename(const char* from, const char* to) noexcept {
  return on_path("rename", absolute(from), absolute(to), [&] { return next(&::rename, "rename")(from, to); });
}
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) noexcept {
  return on_path(flags ? "exchange" : "rename", absolute(from), absolute(to), [&] { return next(&::renameat2, "renameat2")(a, from, b, to, flags); });
}
int mkdir(const char* path, mode_t mode) noexcept {
  return on_path("make", absolute(path), {}, [&] { return next(&::mkdir, "mkdir")(path, mode); });
}
int remove(const char* path) noexcept {
  return on_path("remove", absolute(path), {}, [&] { return next(&::remove, "remove")(path); });
}
int unlink(const char* path) noexcept {
  return on_path("remove", absolute(path), {}, [&] { return next(&::unlink, "unlink")(path); });
}
int rmdir(const char* path) noexcept {
  return on_path("remove", absolute(path), {}, [&] { return next(&::rmdir, "rmdir")(path); });
}
int statvfs(const char* path, struct statvfs* s) noexcept {
  const int r = next(&::statvfs, "statvfs")(path, s);
  if (const char* bytes = setting("FAULTS_FREE"); r == 0 && *bytes && faults().concerns(absolute(path))) {
    s->f_frsize = 1;
    s->f_bavail = static_cast<fsblkcnt_t>(std::atoll(bytes));
  }
  return r;
}

}  // extern "C"
