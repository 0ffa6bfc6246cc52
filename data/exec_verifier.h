// Rewards from a program of the user's: `exec:COMMAND`.
//
// Each batch starts /bin/sh -c COMMAND once. Its standard input gets one JSON object a line: all columns of the row, with "prompt" (the
// text, unless the row has such a column itself) and "completion" (what the model wrote, in place of a column of that name). It answers on
// standard output with one finite number a line, in the same order, and ends with status 0.
//
// A program that fails, is killed, takes too long, writes too much or another number of lines gives no reward to the whole batch; a line
// that is no finite number gives none to its row. It runs in a process group of its own, which is killed whole when the batch is over or
// the trainer ends, however that happens; only a process that leaves the group on purpose (setsid) can outlive it.
#pragma once
#include <memory>
#include <string>

#include "data/verifier.h"

namespace facet {

std::unique_ptr<Verifier> make_exec_verifier(const std::string& command, const ExecLimits&);

}  // namespace facet
