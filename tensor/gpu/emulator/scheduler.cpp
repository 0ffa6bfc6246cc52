#include "tensor/gpu/emulator/scheduler.h"

#include <pthread.h>

#include <memory>
#include <mutex>
#include <numeric>
#include <utility>

#include "tensor/error.h"
#include "tensor/gpu/emulator/memory.h"
#include "tensor/gpu/emulator/sanitizers.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace facet::gpu::emulator {
namespace {

constexpr int most_threads = 1024;
// When every thread that could run has done nothing but spin this often in a row, they wait for something that never comes.
constexpr int64_t most_idle_rounds = 20000;

/// What the barriers of a block order.
struct Orders {
  Order block;
  Order warp[most_threads / 32][32];  // by the lowest lane of the mask
};

/// All that is known of the block that runs. There is one in the process, used by whoever launches; no locks below run().
struct Machine {
  const Launch* launch = nullptr;
  Settings settings;
  uint64_t random = 0;
  bool warp_by_warp = false;  // how a random schedule chooses

  Thread threads[most_threads];
  Warp warps[most_threads / 32];
  int n_threads = 0, n_warps = 0, n_exited = 0;
  uint32_t ready_warps = 0, resting_warps = 0;  // warps that have such lanes
  int64_t idle_rounds = 0;

  int before_wait = 0;  // threads of an overlapped kernel that have not yet come to wait_for_previous()
  int at_barrier = 0;
  const Thread* first_at_barrier = nullptr;
  std::unique_ptr<Orders> orders = std::make_unique<Orders>();
  char start_point = 0, end_point = 0, fence_point = 0;  // where the race detector's orders hang

  Thread* running = nullptr;
  Stack host;
  void* host_fiber = nullptr;
  std::vector<Stack*> idle;  // stacks on which nothing runs
  std::string failure;
};
Machine& m = *new Machine;  // never destroyed, so that its stacks stay reachable for the leak checker

uint64_t next_random() {  // splitmix64
  uint64_t z = (m.random += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
bool is_random() { return m.settings.schedule == Schedule::random; }

// ---- what reports say

std::string text(uint3 i) { return fmt::format("({}, {}, {})", i.x, i.y, i.z); }
std::string text(Site s) {
  std::string file = s.file;  // from the repository's root, wherever it was compiled
  for (const char* root : {"/tensor/gpu/", "/tests/"})
    if (const size_t at = file.rfind(root); at != std::string::npos) file = file.substr(at + 1);
  return fmt::format("{}:{}", file, s.line);
}
std::string where(const Thread& t) { return fmt::format("thread {} waits in {} at {}", text(t.index), t.waits_in, text(t.site)); }
std::string lanes_text(uint32_t mask) {
  std::string s;
  for (uint32_t rest = mask; rest; rest &= rest - 1) s += fmt::format("{}{}", s.empty() ? "" : ", ", std::countr_zero(rest));
  return s;
}
/// The places where threads wait, each with how many and the first of them.
std::string waiting_places() {
  struct Place {
    const Thread* first;
    int count;
  };
  std::vector<Place> places;
  for (int i = 0; i < m.n_threads; ++i) {
    const Thread& t = m.threads[i];
    if (t.exited || !t.waits_in) continue;
    bool known = false;
    for (Place& p : places)
      if (p.first->site.line == t.site.line && p.first->site.file == t.site.file && p.first->waits_in == t.waits_in) known = ++p.count;
    if (!known) places.push_back({&t, 1});
  }
  std::string s;
  for (const Place& p : places)
    s += fmt::format("; {} in {} at {} (thread {} first)", p.count, p.first->waits_in, text(p.first->site), text(p.first->index));
  return s.empty() ? s : s.substr(2);
}

void blame_block(const std::string& what) { m.failure = fmt::format("{}: block {} {}", m.launch->op, text(blockIdx), what); }
void blame_thread(const std::string& what) {
  m.failure = fmt::format("{}: block {}, thread {}: {}", m.launch->op, text(blockIdx), text(m.running->index), what);
}

// ---- who is next

void set_ready(Warp& w, uint32_t lanes) {
  w.ready |= lanes;
  m.ready_warps |= 1u << (&w - m.warps);
}

/// The n-th set bit.
int nth_bit(uint32_t bits, uint32_t n) {
  while (n--) bits &= bits - 1;
  return std::countr_zero(bits);
}
int choose(uint32_t bits) {
  switch (m.settings.schedule) {
    case Schedule::forward: return std::countr_zero(bits);
    case Schedule::reverse: return 31 - std::countl_zero(bits);
    case Schedule::random: break;
  }
  return nth_bit(bits, random_below(static_cast<uint32_t>(std::popcount(bits))));
}
int choose_warp() {
  if (!is_random() || !m.warp_by_warp) return choose(m.ready_warps);
  // The warp of the highest priority runs as far ahead as it can. Now and then it falls behind all others.
  int best = -1;
  for (uint32_t rest = m.ready_warps; rest; rest &= rest - 1) {
    const int w = std::countr_zero(rest);
    if (best < 0 || m.warps[w].priority > m.warps[best].priority) best = w;
  }
  if (random_below(256) == 0) m.warps[best].priority = random_below(1u << 30);
  return best;
}

/// The thread that runs next, no longer ready; null when all have left the kernel.
Thread* pick() {
  if (!m.ready_warps && m.resting_warps) {
    if (++m.idle_rounds > most_idle_rounds) {
      blame_block("makes no progress: every thread that could run only spins: " + waiting_places());
      abandon();
    }
    for (uint32_t rest = m.resting_warps; rest; rest &= rest - 1) {
      Warp& w = m.warps[std::countr_zero(rest)];
      set_ready(w, w.resting);
      w.resting = 0;
    }
    m.resting_warps = 0;
  }
  if (!m.ready_warps) {
    if (m.n_exited == m.n_threads) return nullptr;
    blame_block(fmt::format("is stuck: {} of {} threads wait for others that will not come: {}", m.n_threads - m.n_exited, m.n_threads,
                            waiting_places()));
    abandon();
  }
  const int warp = choose_warp();
  Warp& w = m.warps[warp];
  const int lane = choose(w.ready);
  w.ready &= ~(1u << lane);
  if (!w.ready) m.ready_warps &= ~(1u << warp);
  return &m.threads[32 * warp + lane];
}

// ---- from thread to thread

void run_threads();

void give_turn(Thread& t) {
  m.running = &t;
  t.waits_in = nullptr;
  threadIdx = t.index;
  become_fiber(t.fiber);
}
/// A stack for a thread that has not begun.
Stack* take_stack(Thread& t) {
  const Unseen unseen;
  if (race_detector) return t.own_stack ? t.own_stack : t.own_stack = new_stack(run_threads);
  if (m.idle.empty()) return new_stack(run_threads);
  Stack* s = m.idle.back();
  m.idle.pop_back();
  return s;
}

/// The running thread stays where it is until its turn comes again.
void wait_turn() {
  Thread& me = *m.running;
  Thread& next = *pick();
  if (&next != &me) {
    if (!next.stack) next.stack = take_stack(next);
    give_turn(next);
    switch_stack(*me.stack, *next.stack);
  } else {
    me.waits_in = nullptr;
  }
}

void complete_barrier() {
  for (int w = 0; w < m.n_warps; ++w)
    if (const uint32_t living = m.warps[w].exists & ~m.warps[w].exited) set_ready(m.warps[w], living);
  m.at_barrier = 0;
  m.first_at_barrier = nullptr;
  ++m.orders->block.generation;
}

/// The running thread has come to the end of the kernel.
void leave_kernel() {
  Thread& me = *m.running;
  Warp& w = m.warps[me.linear / 32];
  const uint32_t bit = 1u << (me.linear % 32);
  land_all_copies();
  for (int i = 0; i < w.n_meetings; ++i)
    if (const Meeting& meeting = w.meetings[i]; meeting.mask & bit) {
      blame_thread(fmt::format("lane {} left the kernel while lanes {} of its warp wait for it in {} at {}", me.linear % 32,
                               lanes_text(meeting.arrived), meeting.name, text(meeting.site)));
      abandon();
    }
  if (m.at_barrier && m.settings.strict) {
    blame_thread(fmt::format("left the kernel while {} threads wait in sync_block: {}", m.at_barrier, where(*m.first_at_barrier)));
    abandon();
  }
  if (!me.may_touch) {
    blame_thread("left the kernel without wait_for_previous(), but was started by launch_overlapping()");
    abandon();
  }
  me.exited = true;
  w.exited |= bit;
  ++m.n_exited;
  m.idle_rounds = 0;
  release(&m.end_point);
  if (m.at_barrier && m.at_barrier == m.n_threads - m.n_exited) complete_barrier();
}

/// What every stack does: threads from beginning to end, one after the other; between two of them it may lie idle. So a block whose threads
/// do not wait for each other needs one stack, and no switch but the first and the last.
void run_threads() {
  arrived_on_fresh_stack();
  for (;;) {
    acquire(&m.start_point);
    m.launch->call(m.launch->closure);
    leave_kernel();
    Thread& me = *m.running;
    Thread* next = pick();
    if (next && !next->stack) {
      next->stack = race_detector ? take_stack(*next) : me.stack;
      if (next->stack == me.stack) {
        give_turn(*next);
        continue;
      }
    }
    if (!race_detector) m.idle.push_back(me.stack);
    if (next) give_turn(*next);
    else become_fiber(m.host_fiber);
    switch_stack(*me.stack, next ? *next->stack : m.host);
  }
}

// ---- blocks

void check_limits(const Launch& l) {
  const auto refuse = [&](const char* what, uint64_t is, uint64_t most) {
    fail(Kind::check, "{}: launch of grid ({}, {}, {}), block ({}, {}, {}), {} bytes of shared memory: {} is {}, at most {} are allowed", l.op,
         l.grid.x, l.grid.y, l.grid.z, l.block.x, l.block.y, l.block.z, l.shared_bytes, what, is, most);
  };
  const auto limit = [&](const char* what, uint64_t is, uint64_t most) {
    if (is > most) refuse(what, is, most);
  };
  limit("grid.x", l.grid.x, 0x7fffffff);
  limit("grid.y", l.grid.y, 65535);
  limit("grid.z", l.grid.z, 65535);
  limit("block.z", l.block.z, 64);
  const uint64_t threads = uint64_t{1} * l.block.x * l.block.y * l.block.z;
  limit("the number of threads of a block", threads, most_threads);
  if (threads == 0) refuse("the number of threads of a block", 0, most_threads);
  limit("dynamic shared memory", l.shared_bytes, 227 * 1024);
}

/// After an error: stacks that were left in the middle begin anew.
void drop_threads() {
  for (int i = 0; i < m.n_threads; ++i) {
    Thread& t = m.threads[i];
    if (t.fiber) free_fiber(t.fiber);
    t.fiber = nullptr;
    if (t.exited || !t.stack) continue;
    restart(*t.stack, run_threads);
    if (!race_detector) m.idle.push_back(t.stack);
    t.stack = nullptr;
  }
}

void prepare_block() {
  const Launch& l = *m.launch;
  m.n_threads = static_cast<int>(l.block.x * l.block.y * l.block.z);
  m.n_warps = (m.n_threads + 31) / 32;
  m.n_exited = m.at_barrier = 0;
  m.before_wait = l.overlapped ? m.n_threads : 0;
  m.first_at_barrier = nullptr;
  m.ready_warps = m.resting_warps = 0;
  m.idle_rounds = 0;
  m.warp_by_warp = is_random() && random_below(2) == 0;
  if (m.settings.races == Races::between_blocks) m.orders = std::make_unique<Orders>();  // the old ones would order this block after the last
  for (int i = 0; i < m.n_threads; ++i) {
    Thread& t = m.threads[i];
    const auto n = static_cast<unsigned>(i);
    t.index = {n % l.block.x, n / l.block.x % l.block.y, n / l.block.x / l.block.y};
    t.linear = i;
    if (!t.fiber) t.fiber = new_fiber();  // here: a fiber is ordered after what made it, and that must not be another thread
    t.stack = nullptr;
    t.exited = t.drew = false;
    t.may_touch = !l.overlapped;
    t.waits_in = nullptr;
    t.copies.clear();
    t.group = 0;
    t.group_begun = false;
  }
  for (int i = 0; i < m.n_warps; ++i) {
    Warp& w = m.warps[i];
    const int lanes = std::min(32, m.n_threads - 32 * i);
    w.exists = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
    w.exited = w.ready = w.resting = 0;
    w.n_meetings = 0;
    if (is_random()) w.priority = random_below(1u << 30);
    set_ready(w, w.exists);
  }
  shared_begin_block();
  if (l.overlapped) open_to_kernels(false);
}

void run_block(uint3 index) {
  blockIdx = index;
  prepare_block();
  release(&m.start_point);
  Thread& first = *pick();
  first.stack = take_stack(first);
  give_turn(first);
  switch_stack(m.host, *first.stack);
  if (!m.failure.empty()) return;
  if (m.settings.races == Races::between_blocks) {
    for (int i = 0; i < m.n_threads; ++i) {
      Thread& t = m.threads[i];
      if (t.fiber) free_fiber(std::exchange(t.fiber, nullptr));
      if (t.own_stack) renew(*t.own_stack, run_threads);
    }
  }
  if (const char* name = shared_end_block())
    m.failure = fmt::format("{}: block {} wrote past an end of its shared array {}", m.launch->op, text(blockIdx), name);
}

/// Blocks in the order of the schedule. A random order is i -> (a i + b) mod n with a coprime to n: no table, however many there are.
void run_grid() {
  const dim3 g = m.launch->grid;
  const uint64_t n = uint64_t{1} * g.x * g.y * g.z;
  uint64_t a = 1, b = 0;
  if (is_random()) {
    b = next_random() % n;
    do a = 1 + next_random() % n;
    while (std::gcd(a, n) != 1);
  }
  for (uint64_t i = 0; i < n && m.failure.empty(); ++i) {
    uint64_t k = i;
    if (m.settings.schedule == Schedule::reverse) k = n - 1 - i;
    if (is_random()) k = static_cast<uint64_t>((static_cast<unsigned __int128>(a) * i + b) % n);
    if (i > 0 && m.settings.races == Races::per_block) join_launches();  // a block after its predecessor
    run_block({static_cast<unsigned>(k % g.x), static_cast<unsigned>(k / g.x % g.y), static_cast<unsigned>(k / g.x / g.y)});
  }
}

}  // namespace

uint32_t random_below(uint32_t n) { return static_cast<uint32_t>(((next_random() >> 32) * n) >> 32); }
const Settings& active() { return m.settings; }
Thread& current() { return *m.running; }
void blame(Site site, const std::string& what) { blame_thread(fmt::format("{}: {}", text(site), what)); }
void abandon() {
  Stack& stack = *m.running->stack;
  become_fiber(m.host_fiber);
  switch_stack(stack, m.host);
  __builtin_unreachable();
}

void run(const Launch& launch, const Settings& settings) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  const Unseen unseen;
  check_limits(launch);
  m.launch = &launch;
  m.settings = settings;
  m.random = settings.seed * 0x9e3779b97f4a7c15u;
  m.failure.clear();
  static pthread_t described = {};
  if (!m.host.bottom || described != pthread_self()) {
    describe_own_stack(m.host);
    described = pthread_self();
  }
  m.host_fiber = this_fiber();
  blockDim = launch.block;
  gridDim = launch.grid;
  shared_begin_launch(launch);
  if (!launch.overlapped) join_launches();
  run_grid();
  if (launch.overlapped) open_to_kernels(true);  // after an error it may still be closed
  shared_end_launch();
  if (!m.failure.empty()) {
    drop_threads();
    fail(Kind::check, "{}", m.failure);
  }
}

void join_launches() { acquire(&m.end_point); }

// ---- collectives: waiting for one another

void meet(const char* name, uint32_t mask, Site site, void* argument, Combine combine) {
  Thread& me = *m.running;
  Warp& w = m.warps[me.linear / 32];
  const int lane = me.linear % 32;
  if (!(mask >> lane & 1)) report(site, [&] { return fmt::format("{}: lane {} is not in its own mask 0x{:08x}", name, lane, mask); });
  if (mask & ~w.exists)
    report(site, [&] { return fmt::format("{}: the mask 0x{:08x} names lanes that the warp does not have ({}); the block has {} threads", name, mask,
                             lanes_text(mask & ~w.exists), m.n_threads); });
  if (mask & w.exited)
    report(site, [&] { return fmt::format("{}: the mask 0x{:08x} names lanes that have left the kernel: {}", name, mask, lanes_text(mask & w.exited)); });
  Meeting* meeting = nullptr;
  for (int i = 0; i < w.n_meetings && !meeting; ++i)
    if (w.meetings[i].mask & mask) meeting = &w.meetings[i];
  if (!meeting) {
    meeting = &w.meetings[w.n_meetings++];
    *meeting = {mask, 0, name, site};
  } else if (meeting->name != name || meeting->site.line != site.line || meeting->site.file != site.file) {
    report(site, [&] { return fmt::format("the warp diverged: lane {} comes to {}, lanes {} wait in {} at {}", lane, name, lanes_text(meeting->arrived),
                             meeting->name, text(meeting->site)); });
  } else if (meeting->mask != mask) {
    report(site, [&] { return fmt::format("{}: two masks overlap: 0x{:08x} of lane {}, 0x{:08x} of lanes {}", name, mask, lane, meeting->mask,
                             lanes_text(meeting->arrived)); });
  }
  me.waits_in = name;
  me.site = site;
  me.argument = argument;
  meeting->arrived |= 1u << lane;
  if (meeting->arrived == mask) {
    *meeting = w.meetings[--w.n_meetings];
    m.idle_rounds = 0;
    if (combine) combine(&me - lane, mask);
    set_ready(w, mask);
  }
  wait_turn();
}

void warp_barrier(uint32_t mask, Site site) {
  Thread& me = *m.running;
  if (!race_detector || mask == 0) return meet("sync_warp", mask, site, nullptr, nullptr);
  Order& order = m.orders->warp[me.linear / 32][std::countr_zero(mask)];
  char* point = &order.point[order.generation & 1];
  release(point);
  meet("sync_warp", mask, site, &order, [](Thread* lanes, uint32_t all) {
    ++static_cast<Order*>(lanes[std::countr_zero(all)].argument)->generation;
  });
  acquire(point);
}

void block_barrier(Site site) {
  Thread& me = *m.running;
  const Thread* first = m.first_at_barrier;
  if (first && (first->site.line != site.line || first->site.file != site.file))
    report(site, [&] { return fmt::format("sync_block: the block diverged: {}", where(*first)); });
  if (m.n_exited && m.settings.strict) {
    int gone = 0;
    while (!m.threads[gone].exited) ++gone;
    report(site, [&] { return fmt::format("sync_block: {} threads have left the kernel, thread {} first", m.n_exited, text(m.threads[gone].index)); });
  }
  me.waits_in = "sync_block";
  me.site = site;
  if (!first) m.first_at_barrier = &me;
  char* point = &m.orders->block.point[m.orders->block.generation & 1];
  release(point);
  m.idle_rounds = 0;
  if (++m.at_barrier == m.n_threads - m.n_exited) complete_barrier();
  wait_turn();
  acquire(point);
}

void spin(Site site) {
  Thread& me = *m.running;
  const int warp = me.linear / 32;
  m.warps[warp].resting |= 1u << (me.linear % 32);
  m.resting_warps |= 1u << warp;
  me.waits_in = "spin_pause";
  me.site = site;
  wait_turn();
}

// On a device the kernel before may still run until here. Since nothing but hints and registers may be used up to here, it makes no difference how
// far it has come; so it is run to its end first, and what matters is checked: until all threads of the block have come here, memory is closed.
void wait_for_previous(Site site) {
  Thread& me = *m.running;
  if (me.may_touch) return;
  me.may_touch = true;
  me.waits_in = "wait_for_previous";
  me.site = site;
  m.idle_rounds = 0;
  if (--m.before_wait == 0) {
    open_to_kernels(true);
    for (int w = 0; w < m.n_warps; ++w) set_ready(m.warps[w], m.warps[w].exists);
  }
  wait_turn();
  acquire(&m.end_point);
}
void hint(const void* p, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(p) % 16 || bytes % 16 || bytes == 0)
    report(site, [&] { return fmt::format("hint_to_l2: address and size ({}) must be multiples of 16, the size not 0", bytes); });
  if (!in_buffer(p, bytes)) report(site, [&] { return fmt::format("hint_to_l2: {} bytes that do not lie within a live buffer of the device", bytes); });
}

void atomic_point() {
  if (!m.running->may_touch) {
    blame_thread("an atomic before wait_for_previous()");
    abandon();
  }
  m.running->drew = true;
  if (!is_random() || random_below(4)) return;
  Thread& me = *m.running;
  set_ready(m.warps[me.linear / 32], 1u << (me.linear % 32));
  wait_turn();
}

// Others' writes before their fences come before this thread's reads behind its fence, if in between an atomic could have told it of them: a fence
// in front of the ticket alone is no reason to read what others have written.
void fence() {
  release(&m.fence_point);
  if (std::exchange(m.running->drew, false)) acquire(&m.fence_point);
}

}  // namespace facet::gpu::emulator
