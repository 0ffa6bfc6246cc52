// TensorBoard's event files: a run's numbers and texts over its steps, beside metrics.jsonl. `tensorboard --logdir RUN` draws them.
//
// A file is a sequence of TFRecords: length (u64), masked CRC32C of those eight bytes, payload, masked CRC32C of the payload, all
// little-endian; masked means rotated right by 15 bits plus 0xa282ead8. A payload is an Event in protobuf's encoding, of which five
// fields are enough, so it is written out here.
// Sources: tensorflow/core/lib/io/record_writer.h; tensorboard/compat/proto/{event,summary,tensor}.proto.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/io/durable.h"

namespace facet {

/// One record around a payload.
std::string tf_record(std::string_view payload);

/// Events as payloads. `wall` is in seconds since 1970.
std::string version_event(double wall);  ///< the first of every file
/// TensorBoard forgets what earlier files say of `step` and later ones.
std::string restart_event(double wall, int64_t step);
/// Values are kept as f32.
std::string scalars_event(double wall, int64_t step, const std::string& prefix, const std::map<std::string, double>& values);
/// Shown as Markdown.
std::string text_event(double wall, int64_t step, const std::string& tag, std::string_view text);

/// A new file of its own in `folder`, made with the folder when the first event comes. TensorBoard reads files in the order of their
/// names, so the name sorts behind those that are there. What cannot be written throws Error(Kind::environment), and nothing of it stays.
class EventFile {
 public:
  explicit EventFile(std::string folder) : folder_(std::move(folder)) {}
  /// Goes on in another file, which takes back what was said of `step` and later ones.
  void restart(int64_t step);
  void scalars(int64_t step, const std::string& prefix, const std::map<std::string, double>& values);
  void text(int64_t step, const std::string& tag, std::string_view text);

 private:
  void add(const std::string& payload);
  std::string folder_;
  std::optional<int64_t> restart_;
  std::optional<GrowingFile> file_;
};

}  // namespace facet
