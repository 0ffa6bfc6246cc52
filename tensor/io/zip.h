// The directory of a zip archive, for formats that use zip as a box of named byte ranges (.npz, PyTorch files), and its members'
// bytes. Two places describe each member: a header before its data and an entry of the directory at the end. Readers that look at
// different ones see different files, so here the two must agree, and what lies between the members must be accounted for.
// Source: PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/io/file.h"

namespace facet {

struct ZipMember {
  std::string name;
  uint64_t begin = 0;   ///< first byte of its data in the file
  uint64_t packed = 0;  ///< bytes there
  uint64_t bytes = 0;   ///< bytes unpacked: the same unless `deflated`
  uint32_t crc = 0;     ///< CRC-32 of the unpacked bytes
  bool deflated = false;
};

/// Members in the order of their data. Refused with Error(Kind::file): encryption, other compressions, several disks, comments,
/// header and directory that differ, overlaps, holes, duplicate names, more than 65,536 members, names that are no UTF-8 or
/// longer than 512 + 64 bytes.
std::vector<ZipMember> read_zip(const InputFile&);

/// The first bytes of a member, unpacked; all of them when `to` has the size of the member, and then the checksum must be right.
void read_member(const InputFile&, const ZipMember&, std::span<uint8_t> to);
/// Reads a member that is not packed piece by piece and compares its checksum.
void check_member(const InputFile&, const ZipMember&);

}  // namespace facet
