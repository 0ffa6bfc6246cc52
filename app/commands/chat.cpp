// A conversation in the terminal.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>

#ifdef FACET_READLINE
#include <readline/history.h>
#include <readline/readline.h>
#endif

#include "app/command.h"
#include "app/sampling_settings.h"
#include "infer/chat.h"
#include "nn/module.h"
#include "train/signals.h"

namespace facet::app {
namespace {

struct Settings : Common, SamplingSettings {
  std::string model, adapter, system;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of the model").positional().required();
    o.add("adapter", &adapter, "folder of an adapter (LoRA or DoRA, as PEFT or --adapter lora writes it) to put over the model");
    o.add("system", &system, "put before the first message");
    declare_sampling(o).alias({"max-len"});
    o.pass_through("model", overrides);
  }
};

// One line from the person; false at the end of input.
bool ask(std::string& line) {
#ifdef FACET_READLINE
  if (isatty(STDIN_FILENO)) {
    char* typed = readline("> ");
    if (!typed) return false;
    line = typed;
    if (!line.empty()) add_history(typed);
    std::free(typed);
    return true;
  }
#endif
  if (isatty(STDIN_FILENO)) std::fputs("> ", stdout), std::fflush(stdout);
  return static_cast<bool>(std::getline(std::cin, line));
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  ModelFolder folder = open_model(s.model, s.overrides, s.dtype, TokenizerNeed::required, s.adapter, s.where());
  Chat chat(*folder.model, folder.tokenizer, s.options(folder.tokenizer, static_cast<uint64_t>(s.seed)));
  chat.set_system(s.system);
  if (!folder.chat) console.warn("{}: comes without a chat template, so it was hardly taught to take turns; facet generate continues a text", s.model);
  if (isatty(STDIN_FILENO)) console.note("/clear starts anew, /quit or Ctrl-D ends");
  for (std::string line; ask(line);) {
    if (line == "/quit" || line == "/exit") break;
    if (line == "/clear") {
      chat.clear();
      continue;
    }
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    try {
      const StopSignals signals;  // Ctrl-C ends the answer, not the conversation
      const auto say_forgotten = [&](const Chat::Forgotten& f) {
        console.warn("the conversation no longer fits into {} tokens (--context): the answer is given without the oldest {}, {} tokens", chat.context(),
                     f.exchanges == 1 ? std::string("message and its answer") : fmt::format("{} messages and their answers", f.exchanges), f.tokens);
      };
      const auto show = [&](std::string_view piece) {
        console.text(std::string(piece));
        return StopSignals::requested() == 0;
      };
      chat.say(line, show, say_forgotten);
      console.line();
      if (chat.last_stop() == Stop::context) console.warn("the answer was cut: {} tokens are full (--context)", chat.context());
      if (StopSignals::requested() > 0 && StopSignals::requested() != SIGINT) return 128 + StopSignals::requested();
      console.detail("[{} tokens computed before the answer, {} in all, ended by {}]", chat.last_computed(), chat.tokens().size(),
                     name_of(chat.last_stop()));
    } catch (const Error& e) {
      if (e.kind() != Kind::usage) throw;
      console.warn("{}", e.what());  // a message that is too long ends nothing
    }
  }
  return 0;
}

}  // namespace

Command chat_command() {
  return command<Settings>("chat", "Talk to a model; every turn computes only what is new", "  facet chat runs/dialogues/final --greedy", run);
}

}  // namespace facet::app
