#include "train/signals.h"

#include <csignal>
#include <unistd.h>

namespace facet {
namespace {

volatile std::sig_atomic_t pending = 0;
constexpr int watched[] = {SIGINT, SIGTERM, SIGUSR1};
struct sigaction before[3];

void on_signal(int number) {
  if (pending) _exit(128 + number);  // asked twice: leave at once, the last checkpoint stands
  pending = number;
  const char message[] = "\nstopping after this step; saving a checkpoint (again to quit at once)\n";
  [[maybe_unused]] const auto n = write(STDERR_FILENO, message, sizeof message - 1);
}

}  // namespace

StopSignals::StopSignals() {
  pending = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < 3; ++i) sigaction(watched[i], &action, &before[i]);
}

StopSignals::~StopSignals() {
  for (int i = 0; i < 3; ++i) sigaction(watched[i], &before[i], nullptr);
}

int StopSignals::requested() { return pending; }

}  // namespace facet
