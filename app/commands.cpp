// The list of commands. A new one is one file in app/commands/ and its line here (twice: what it is called, where it stands).
#include "app/program.h"

namespace facet::app {

Command env_command();

const std::vector<Command>& commands() {
  static const std::vector<Command> list{
      env_command(),
  };
  return list;
}

}  // namespace facet::app
