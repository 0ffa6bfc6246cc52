// One block at a time, its threads as fibers on one thread of the host. A thread runs until a collective makes it wait; who is next is the
// schedule's choice. All collectives stand on meet(): the lanes of a mask come to one place, the last of them does the work for all.
#pragma once
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/gpu/emulator/device.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/emulator/fiber.h"

namespace facet::gpu::emulator {

/// Arrivals and departures in turn on two addresses: with one, those who already arrive at the next meeting would order those who still
/// leave this one, and the race detector would miss what is between.
struct Order {
  char point[2];
  unsigned generation = 0;
};

struct AsyncCopy {
  void* to;
  const void* from;  ///< null: zeros
  int group;         ///< number of the group it belongs to, counted per thread
};

struct Thread {
  uint3 index;
  int linear = 0;
  Stack* stack = nullptr;  ///< null: has not begun
  void* fiber = nullptr;   ///< the race detector's, for which a thread also has a stack that no other thread of the block writes to
  Stack* own_stack = nullptr;
  bool exited = false;
  bool drew = false;       ///< has used an atomic since its last fence
  bool may_touch = true;   ///< device memory: false until it waits for the kernel before its own
  const char* waits_in = nullptr;  ///< name of the collective, null when it does not wait
  Site site = {};
  void* argument = nullptr;        ///< what it brought to the meeting

  std::vector<AsyncCopy> copies;   ///< under way, oldest first
  int group = 0;                   ///< the open group
  bool group_begun = false, group_is_late = true;
};

struct Meeting {
  uint32_t mask, arrived;
  const char* name;
  Site site;
};

struct Warp {
  uint32_t exists = 0, exited = 0;
  uint32_t ready = 0;    ///< could run
  uint32_t resting = 0;  ///< spins: runs again when no other can
  Meeting meetings[32];  ///< with disjoint masks
  int n_meetings = 0;
  unsigned priority = 0;
};

/// Does the work of a collective for the lanes of `mask`; lanes[i] is lane i, its argument what it brought.
using Combine = void (*)(Thread* lanes, uint32_t mask);

/// Comes to the collective `name` at `site` with the other lanes of `mask`, and returns when all have come and combine has run.
void meet(const char* name, uint32_t mask, Site site, void* argument, Combine combine);

Thread& current();
/// Uniform over 0 .. n-1, from the seed of the settings.
uint32_t random_below(uint32_t n);
/// Settings of the launch that runs.
const Settings& active();

/// Takes down what is wrong, with operation, block and thread of the one that runs.
void blame(Site, const std::string& what);
/// Gives up the launch: run() throws what was taken down.
[[noreturn]] void abandon();
/// Both. What was on the thread's stack stays there for ever, so what() builds the message and nothing else is left behind.
template <class F>
[[noreturn]] void report(Site site, F what) {
  blame(site, what());
  abandon();
}

/// Runs all blocks; throws Error(Kind::check) when the kernel breaks a rule.
void run(const Launch&, const Settings&);
/// To the race detector, what the host does next with device memory comes after all launches so far.
void join_launches();

// ---- shared_memory.cpp
void shared_begin_launch(const Launch&);
void shared_begin_block();
/// Checks the guards; the name of the array that was overrun, or null.
const char* shared_end_block();
void shared_end_launch();
bool in_shared(const void* p, size_t bytes);

// ---- async copies that are still under way when a thread ends (collectives.cpp)
void land_all_copies();

}  // namespace facet::gpu::emulator
