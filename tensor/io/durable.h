// The one seam through which anything durable is written: models, checkpoints, logs' final forms. A name exists only with its
// whole content: data go to tmp.<name>.<pid>.<n> beside the target, are synced, renamed, and the folder is synced. Errors of the
// system are Error(Kind::environment) with path, byte and reason; after one the temporary file is removed and never retried (a
// failed fsync may have dropped the pages). Interrupted and short writes are continued.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace facet {

/// A file that appears, complete, at commit().
class DurableFile {
 public:
  explicit DurableFile(const std::string& path);
  ~DurableFile();  ///< without commit(): removes the temporary file
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  uint64_t size() const { return size_; }
  void commit();

 private:
  std::string path_, temporary_;
  uint64_t size_ = 0;
  int fd_ = -1;
};

void write_file_atomically(const std::string& path, std::string_view content);

/// A file that grows by whole texts, as the records of a run do: what is appended is there after a kill, and after sync() after a
/// loss of power.
class GrowingFile {
 public:
  explicit GrowingFile(const std::string& path);  ///< goes on at the end of what is there; a new file is found again after a loss of power
  ~GrowingFile();
  GrowingFile(const GrowingFile&) = delete;
  GrowingFile& operator=(const GrowingFile&) = delete;

  /// All of it, or an error and nothing of it: a line cut short by a full disk would spoil the next one.
  void append(std::string_view text);
  void sync();

 private:
  std::string path_;
  int fd_ = -1;
};

/// A folder that appears, complete, at commit(): files are written (with DurableFile) into path() before.
class StagedFolder {
 public:
  explicit StagedFolder(const std::string& target);  ///< makes tmp.<name>.<pid>.<n> beside it, and missing parents
  ~StagedFolder();                                   ///< without commit(): removes it
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;
  const std::string& path() const { return temporary_; }
  /// Throws Error(Kind::environment) when the target exists and is not an empty folder, unless `replace`: then the two are
  /// exchanged in one step and the old one is deleted.
  void commit(bool replace = false);

 private:
  std::string target_, temporary_;
};

/// Renames and syncs the folders concerned.
void rename_durably(const std::string& from, const std::string& to);
void sync_folder(const std::string& path);
void make_folders(const std::string& path);
/// Deletes a file or folder so that nothing half-deleted ever carries its name: renamed to trash.<name>.<pid>.<n> first.
void remove_durably(const std::string& path);
/// Deletes what dead processes left in a folder under the tmp. and trash. names made here; returns how many.
int remove_leftovers(const std::string& folder);

uint64_t free_bytes(const std::string& folder);
/// Throws Error(Kind::environment) "<what> needs 3.1 GB, 1.2 GB free in <folder>", counting 5% of reserve.
void check_free_space(const std::string& what, const std::string& folder, uint64_t need_bytes);
/// 3100000000 as "3.1 GB".
std::string human_bytes(uint64_t);

// ---- for tests: faults

enum class IoCall : uint8_t { create, write, sync, rename, sync_folder, make_folder, remove };
struct IoEvent {
  IoCall call;
  const std::string& path;            ///< for rename: the source
  const std::string& to;              ///< for rename: the target
  const void* data;                   ///< for write
  size_t bytes;
};
/// Asked before every call of the seam. 0: go on; an errno: fail with it; -n: write only n bytes. May also throw or end the process.
using IoHook = std::function<int(const IoEvent&)>;
/// An empty function takes the hook away. Not for several threads at once.
void set_io_hook(IoHook);

}  // namespace facet
