// The program as a function: finds the command, fills its settings, runs it, turns exceptions into one line and an exit code.
#pragma once
#include <string>
#include <vector>

#include "app/command.h"

namespace facet::app {

/// All commands, in the order of `facet --help`.
const std::vector<Command>& commands();

/// `args` without the program's name. Never throws; the result is the exit code (tensor/error.h, Kind).
int run_program(const std::vector<std::string>& args);

}  // namespace facet::app
