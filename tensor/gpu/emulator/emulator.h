// How kernels are run where there is no GPU: what tests set and ask. Any program that is linked with the emulated backend can be run
// under other settings by its environment:
//
//   FACET_GPU=emulated                          opens the emulated device
//   FACET_EMULATOR=random,seed=7,lax            comma-separated: forward | reverse | random, seed=N, eager | late | mixed, strict | lax,
//                                               at_once | deferred, per_block | between_blocks
//   FACET_EMULATOR=fail_alloc=40                from its 40th allocation on the device has no more memory
//   FACET_EMULATOR=fail_launch=40               the 40th launch breaks the device, as an illegal address does
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace facet::gpu {

/// Opens (or closes) the emulated device in this process, as FACET_GPU=emulated does.
void emulate(bool on);

namespace emulator {

/// Who runs next when several threads of a block could. A thread runs until it must wait.
enum class Schedule : uint8_t {
  forward,  ///< the lowest thread; blocks in order
  reverse,  ///< the highest thread; blocks from the last
  random,   ///< by seed: any thread, or one warp far ahead of the others; blocks in a random order
};
/// When asynchronous copies land: at once, not before the wait that asks for them, or each group of copies by chance.
enum class Copies : uint8_t { eager, late, mixed };
/// What the race detector (only in the build for it) takes for ordered: a block after its predecessor, or nothing but the launches.
/// between_blocks finds threads of two blocks that write one address; it is slower.
enum class Races : uint8_t { per_block, between_blocks };

struct Settings {
  Schedule schedule = Schedule::forward;
  uint64_t seed = 1;
  Copies copies = Copies::late;  ///< random schedules mix unless told otherwise
  bool deferred = false;         ///< the device does nothing before the host waits for it; errors come then, too
  bool strict = true;            ///< a thread that leaves the kernel while others use barriers is an error, not a thread less to wait for
  Races races = Races::per_block;
  int64_t fail_alloc = 0, fail_launch = 0;  ///< 0: never; counted from when the settings come into force
};
/// Throws Error(Kind::usage) naming a word it does not know.
Settings parse_settings(const std::string& words);
/// In force from the next launch on. At the start: what FACET_EMULATOR says.
Settings settings();
void set_settings(const Settings&);

struct Counters {
  int64_t live_buffers;
  size_t live_bytes;
  int64_t allocations, launches;  ///< since the start
  int64_t lone_launches;          ///< those that were not part of a replayed graph
  int64_t overlapped_launches;    ///< those of launch_overlapping()
};
Counters counters();
/// The device has no more memory at the n-th allocation from now (1: the next), and refuses that many; 0: it has again.
void fail_allocation(int64_t n, int64_t refusals = INT64_MAX);
/// The n-th launch from now breaks the device: it and every later call fails, until there is another device; 0: there is.
void fail_launch(int64_t n);

}  // namespace emulator
}  // namespace facet::gpu
