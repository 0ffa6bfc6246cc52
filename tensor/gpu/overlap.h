// Switches off that kernels overlap (launch.h: launch_overlapping), to compare the two.
#pragma once
namespace facet::gpu {

/// In this scope every launch is a plain one. What is recorded in it stays so.
class PlainLaunches {
 public:
  explicit PlainLaunches(bool on = true);
  ~PlainLaunches();
  PlainLaunches(const PlainLaunches&) = delete;

 private:
  bool before_;
};

}  // namespace facet::gpu
