// The list of commands. A new one is one file in app/commands/ and its line here (twice: what it is called, where it stands).
#include "app/program.h"

namespace facet::app {

Command convert_command();
Command data_check_command();
Command data_make_command();
Command data_preview_command();
Command data_stats_command();
Command env_command();
Command inspect_config_command();
Command inspect_model_command();
Command inspect_run_command();

const std::vector<Command>& commands() {
  static const std::vector<Command> list{
      convert_command(),
      data_make_command(),
      data_check_command(),
      data_preview_command(),
      data_stats_command(),
      inspect_config_command(),
      inspect_model_command(),
      inspect_run_command(),
      env_command(),
  };
  return list;
}

}  // namespace facet::app
