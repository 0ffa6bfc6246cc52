// Prepared tokens: what read_dataset made of a file, kept in a file beside it, so that a run reads tokens instead of making them.
//
//   byte 0    "FACETTOK", u32 version 1, u32 CRC-32C of everything from byte 16 on
//   byte 16   six u64: task; bytes of the key, of the account (JSON), of the rows; sequences, tokens
//   byte 64   u64 ends[sequences], i64 lines[sequences], u32 ids[tokens], u8 mask[tokens], the key, the account, and of task prompt the rows,
//             one a line                                                                                      (little-endian)
//
// The key says, a line each, all that the tokens depend on: the tokenizer's hash, size and checksum of the source, every option. A file with
// another key is not used, nor is one that is damaged; either is said. The file is a stranger's: sizes are compared with its own before memory is asked
// for, the checksum with the content, then order and range of every number; it is streamed, never mapped.
#pragma once
#include <optional>
#include <string>

#include "data/dataset.h"

namespace facet {

/// Where the tokens of a data file are kept.
std::string prepared_path(const std::string& source);
/// Reads the source once, for its checksum.
std::string prepared_key(const std::string& source, const Tokenizer&, const DataOptions&);
/// Appears whole or not at all.
void write_prepared(const Dataset&, const std::string& key);
/// The dataset of that source; nothing when there is no such file, or when `why_not` says why it is not used. Throws for nothing in the file.
std::optional<Dataset> read_prepared(const std::string& source, const std::string& key, int64_t vocab, std::string& why_not);

}  // namespace facet
