// What a fuzz target is: one reader, handed any bytes. It may accept or refuse with facet::Error; everything else (another exception, a
// sanitizer's complaint, too much memory, too much time, something accepted that does not survive being written and read again) is
// a defect. See README.md.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace facet::fuzz {

struct Target {
  const char* name;
  /// Reads the bytes; throws facet::Error when it refuses them.
  std::function<void(const std::string& bytes)> read;
  /// Small good files to start from.
  std::function<std::vector<std::string>()> seeds;
};

extern const Target safetensors, npy, torch, pickle, config, jsonl, manifest, yaml, prepared, tokenizer;

/// All of them.
const std::vector<const Target*>& targets();
const Target* find_target(const std::string& name);

/// Runs one input and ends the program when it shows a defect: what() on standard error, then abort(). Returns whether it was accepted.
bool run(const Target&, const std::string& bytes);

/// A file in memory with these bytes, under a path that readers can open; the same path every time.
std::string file_of(const std::string& bytes, int slot = 0);
/// Ends the program when `same` is false: accepted, written and read again must be equal.
void demand(bool same, const char* what);

}  // namespace facet::fuzz
