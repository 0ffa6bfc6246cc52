// The list of commands. A new one is one file in app/commands/ and its line here (twice: what it is called, where it stands).
#include "app/program.h"

namespace facet::app {

Command bench_adapter_command();
Command bench_attn_command();
Command bench_op_command();
Command bench_step_command();
Command bench_infer_command();
Command bench_rollout_command();
Command chat_command();
Command check_blocks_command();
Command check_discrepancies_command();
Command check_generation_command();
Command check_grads_command();
Command check_logits_command();
Command check_mlp_command();
Command check_ops_command();
Command check_step_command();
Command check_tokenizer_command();
Command conformance_command();
Command convert_command();
Command data_check_command();
Command data_make_command();
Command data_preview_command();
Command data_stats_command();
Command data_tokenise_command();
Command demo_radicals_command();
Command dpo_command();
Command env_command();
Command eval_command();
Command generate_command();
Command grpo_command();
Command init_command();
Command inspect_config_command();
Command inspect_file_command();
Command inspect_model_command();
Command inspect_run_command();
Command merge_command();
Command report_command();
Command sft_command();

const std::vector<Command>& commands() {
  static const std::vector<Command> list{
      demo_radicals_command(),
      init_command(),
      sft_command(),
      dpo_command(),
      grpo_command(),
      generate_command(),
      chat_command(),
      eval_command(),
      bench_infer_command(),
      bench_rollout_command(),
      check_logits_command(),
      check_blocks_command(),
      check_grads_command(),
      check_discrepancies_command(),
      check_generation_command(),
      check_ops_command(),
      check_mlp_command(),
      check_step_command(),
      check_tokenizer_command(),
      conformance_command(),
      convert_command(),
      merge_command(),
      data_check_command(),
      data_make_command(),
      data_preview_command(),
      data_stats_command(),
      data_tokenise_command(),
      bench_adapter_command(),
      bench_attn_command(),
      bench_op_command(),
      bench_step_command(),
      env_command(),
      inspect_config_command(),
      inspect_file_command(),
      inspect_model_command(),
      inspect_run_command(),
      report_command(),
  };
  return list;
}

}  // namespace facet::app
