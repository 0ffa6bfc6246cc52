#include "train/signals.h"

#include <csignal>
#include <cstring>
#include <unistd.h>

namespace facet {
namespace {

volatile std::sig_atomic_t pending = 0;
const char* volatile message = nullptr;
int depth = 0;  // of scopes
constexpr int watched[] = {SIGINT, SIGTERM, SIGUSR1};
struct sigaction before[3];

void on_signal(int number) {
  if (pending) _exit(128 + number);  // asked twice: leave at once, the last checkpoint stands
  pending = number;
  if (!message) return;
  [[maybe_unused]] auto n = write(STDERR_FILENO, "\n", 1);
  n = write(STDERR_FILENO, message, std::strlen(message));
  n = write(STDERR_FILENO, "\n", 1);
}

}  // namespace

StopSignals::StopSignals(const char* say) : said_before_(message) {
  message = say;
  if (depth++ > 0) return;
  pending = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < 3; ++i) sigaction(watched[i], &action, &before[i]);
}

StopSignals::~StopSignals() {
  message = said_before_;
  if (--depth > 0) return;
  for (int i = 0; i < 3; ++i) sigaction(watched[i], &before[i], nullptr);
}

int StopSignals::requested() { return pending; }

Kind stop_kind(int signal) { return signal == SIGINT ? Kind::interrupted : Kind::requeue; }

}  // namespace facet
