// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78): the checksum of checkpoints and TensorBoard records.
#pragma once
#include <cstddef>
#include <cstdint>

namespace facet {

/// Continues `crc` (0 to begin with) over more bytes.
uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0);
/// The same by table, whatever the CPU offers: for tests.
uint32_t crc32c_by_table(const void* data, size_t bytes, uint32_t crc = 0);

}  // namespace facet
