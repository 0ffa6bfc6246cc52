// Where the host may wait for the GPU. Every wait comes by here: copies to the host, synchronize(), timers. It is counted (runtime.h: syncs),
// or, inside a NoSync, refused by an error that names what was launched last and the call that would wait.
//
//   const NoSync none(step > warm_up);       // --assert-no-sync: a step waits nowhere ...
//   { const MaySync wait; loss.item(); }     // ... but where it says why
#pragma once
namespace facet::gpu {

class NoSync {
 public:
  explicit NoSync(bool on = true);
  ~NoSync();
  NoSync(const NoSync&) = delete;

 private:
  bool before_;
};

/// A wait that is meant and documented where it stands: allowed inside a NoSync.
class MaySync {
 public:
  MaySync();
  ~MaySync();
  MaySync(const MaySync&) = delete;

 private:
  bool before_;
};

/// For what implements runtime.h: the host is about to wait, by `call`; `op` was launched last.
void about_to_wait(const char* op, const char* call);

}  // namespace facet::gpu
