// Checkpoints that exist only when they are whole: written to checkpoints/tmp.STEP.PID, every file synced, a manifest with sizes
// and CRC32C sums last, then renamed to checkpoints/step-N and the folder synced. Old ones are renamed to trash.* before they are
// deleted. A kill at any moment leaves the newest complete checkpoint loadable.
#pragma once
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace facet {

/// Everything a run needs to go on: tensors by file, and small settings as text.
struct Snapshot {
  using Tensors = std::vector<std::pair<std::string, Tensor>>;
  std::map<std::string, Tensors> files;      ///< "model" -> its tensors, written as model.safetensors
  std::map<std::string, std::string> state;  ///< step, cursor, seeds, settings
};

using Note = std::function<void(const std::string&)>;

/// Writes FOLDER/step-N, then settle_checkpoints(). Returns the path. Throws
/// Error(Kind::environment) naming the file and the reason (disk full, ...); older checkpoints are then untouched.
std::string save_checkpoint(const std::string& folder, int64_t step, const Snapshot&, int keep);

/// FOLDER/LATEST names this step, and of the checkpoints up to it the newest `keep` stay. Those after it go: they did not verify, or the
/// run would not have come back to this one. A resumed run does it again, since the one before may have ended between the two.
void settle_checkpoints(const std::string& folder, int64_t step, int keep);

/// A checkpoint whose manifest and sums were verified.
struct FoundCheckpoint {
  std::string path;
  int64_t step = 0;
  std::map<std::string, std::string> state;
  std::set<std::string> files = {};  ///< that the manifest lists; others may lie there, but nobody vouches for them
};
/// The one in a folder "step-N". Throws Error(Kind::file) when it does not verify.
FoundCheckpoint read_checkpoint(const std::string& path);
/// The path of the newest in a folder of them, whether it verifies or not; nothing when there is none.
std::optional<std::string> newest_in(const std::string& folder);
/// The newest checkpoint that verifies, of step `at_most` or before; what is wrong with newer ones goes to `note`. Nothing when there is none.
std::optional<FoundCheckpoint> newest_checkpoint(const std::string& folder, const Note& note,
                                                 int64_t at_most = std::numeric_limits<int64_t>::max());

/// Reads the tensors of one file of a checkpoint into existing storage. Names, shapes and dtypes must be the same on both sides:
/// Error(Kind::file) otherwise.
void restore_tensors(const FoundCheckpoint&, const std::string& file, const Snapshot::Tensors& into);

/// Reads all tensors of one file of a checkpoint.
Snapshot::Tensors read_tensors(const FoundCheckpoint&, const std::string& file);

/// Removes what a killed writer left behind: tmp.* and trash.* of checkpoints.
void clean_checkpoints(const std::string& folder);

}  // namespace facet
