// `facet check` as a person runs it, on the reference checkpoints: green where all is well, red with a place to look where not.
#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <span>

#include "app/check/report.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tests/app/run.h"

using Catch::Contains;
using facet::DType;
using facet::Json;
using facet::Tensor;

namespace {

const std::string goldens = FACET_GOLDENS;
const std::string model = goldens + "/gemma3-tiny", taps = goldens + "/gemma3-tiny-ref/taps.safetensors";

Result check(const std::string& what, const std::string& folder, const std::string& ref, const std::string& more = "") {
  return run_facet("check " + what + " --model " + folder + " --ref " + ref + " " + more);
}

std::vector<Json> lines(const std::string& text) {
  std::vector<Json> r;
  for (size_t at = 0, end; (end = text.find('\n', at)) != text.npos; at = end + 1) r.push_back(Json::parse(text.substr(at, end - at)));
  return r;
}

}  // namespace

TEST_CASE("check: the references of the real libraries are green") {
  const std::string ref = goldens + "/gemma3-tiny-ref/";
  const auto green = [](const Result& r, const std::string& totals) {
    INFO(r.out.substr(0, 2000) << r.err);
    CHECK(r.code == 0);
    CHECK_THAT(r.out, Contains(totals));
  };
  green(check("logits", model, taps), "4 compared, 0 red, 0 not compared");
  green(check("blocks", model, taps), "220 compared, 0 red, 0 not compared");
  green(check("grads", model, taps, "--ref " + ref + "grads.safetensors"), "0 red, 0 not compared");
  green(check("grads", model, taps, "--ref " + ref + "truth.safetensors"), "0 red, 0 not compared");
  green(check("generation", model, ref + "generate.safetensors"), "4 compared, 0 red, 0 not compared");
  green(check("tokenizer", model, goldens + "/tokenizer/ids.json"), "0 red, 1 not compared");
  green(check("tokenizer", model, goldens + "/tokenizer/chat.json"), "22 compared, 0 red, 0 not compared");
  for (const char* name : {"gemma1-tiny", "gemma2-tiny"}) {
    const std::string reference = goldens + "/" + name + "-ref/";
    green(check("blocks", goldens + "/" + name, reference + "taps.safetensors"), "0 red, 0 not compared");
    green(check("grads", goldens + "/" + name, reference + "taps.safetensors", "--ref " + reference + "truth.safetensors"),
          "0 red, 0 not compared");
  }
}

TEST_CASE("check: an adapter of PEFT's gives PEFT's numbers, and only on its own base") {
  const std::string adapter = "--adapter " + goldens + "/gemma3-tiny-lora", ref = "--ref " + goldens + "/posttrain.safetensors ";
  const Result logits = check("logits", model, taps, ref + adapter);
  CHECK(logits.code == 0);
  CHECK_THAT(logits.out, Contains("lora/a.logits") && Contains("lora/b.logits") && Contains("3 compared, 0 red, 3 not compared"));
  const Result grads = check("grads", model, taps, ref + adapter);
  CHECK(grads.code == 0);
  CHECK_THAT(grads.out, Contains("99 compared, 0 red, 0 not compared"));
  const Result base = check("logits", model, taps, adapter);  // the base's numbers are not the adapter's
  CHECK(base.code == 1);
  const Result other = check("logits", goldens + "/gemma3-rope8", goldens + "/gemma3-rope8-ref/taps.safetensors", adapter);
  CHECK(other.code == 3);
  CHECK_THAT(other.err, Contains("adapter was trained on base hidden 64; this model is hidden 48"));
  const Result none = check("logits", model, taps, "--adapter " + goldens);
  CHECK(none.code == 3);
  CHECK_THAT(none.err, Contains("no adapter_config.json in"));

  const Result with = run_facet("generate " + model + " -p hello --raw --greedy --max-new 8 --json " + adapter);
  const Result without = run_facet("generate " + model + " -p hello --raw --greedy --max-new 8 --json");
  CHECK(with.code == 0);
  CHECK(with.out != without.out);
}

TEST_CASE("check: two libraries at once, and what has no counterpart is counted") {
  const Result r = check("blocks", model, taps, "--ref " + goldens + "/jax/gemma3-tiny/taps.safetensors");
  CHECK(r.code == 0);
  CHECK_THAT(r.out, Contains("321 compared, 0 red, 3 not compared"));
  CHECK_THAT(r.out, Contains("a.logits_bf16_run"));
  CHECK_THAT(r.out, Contains("not compared: no input_ids of that set"));
  CHECK_THAT(r.out, Contains("a.layer_0/attn/_query_norm"));
  CHECK_THAT(r.out, Contains("a.logits (taps.safetensors)"));  // both files hold it
}

TEST_CASE("check: a wrong constant is red and the first bad value is named") {
  const auto red = [](const std::string& settings, const std::string& first) {
    const Result r = check("blocks", model, taps, settings);
    INFO(settings << "\n" << r.err);
    CHECK(r.code == 1);
    CHECK_THAT(r.err, Contains("first red: " + first + "\n"));
    CHECK_THAT(r.out, Contains("RED"));
    return r.out;
  };
  red("--set model.sliding_window=9", "a.layers.0.probs");
  red("--set model.rms_norm_eps=1e-3", "a.layers.0.input_norm");
  red("--set model.rope_local_base_freq=20000", "a.layers.0.q_rope");
  red("--set model.rope_theta=500000", "a.layers.5.q_rope");
  red("--set model.rope_factor=8", "a.layers.5.q_rope");
  red("--set model.query_pre_attn_scalar=16", "a.layers.0.probs");
  red("--set model.sliding_window_pattern=5", "a.layers.4.q_rope");
  const std::string stopped = red("--set model.sliding_window=9 --first-fail", "a.layers.0.probs");
  CHECK_THAT(stopped, !Contains("a.layers.1"));
  CHECK(check("logits", model, taps, "--set model.sliding_window=9").code == 1);
  CHECK(check("grads", model, taps, "--ref " + goldens + "/gemma3-tiny-ref/truth.safetensors --set model.sliding_window=9").code == 1);
  const Result other = check("generation", model, goldens + "/gemma3-tiny-ref/generate.safetensors", "--set model.sliding_window=7");
  CHECK(other.code == 1);
  CHECK_THAT(other.out, Contains("first other token at step") && Contains("in the reference, whose logit here is"));
  CHECK(check("tokenizer", model, goldens + "/tokenizer/pieces.json").code != 0);
}

TEST_CASE("check: any norm that is another one is named in its block") {
  const facet::Safetensors weights(model + "/model.safetensors");
  const TempFile at("config.json", "");
  std::filesystem::copy_file(model + "/config.json", at.path, std::filesystem::copy_options::overwrite_existing);
  for (const auto& [norm, tap] : {std::pair{"input_layernorm", "input_norm"}, {"self_attn.q_norm", "q_normed"}, {"self_attn.k_norm", "k_normed"},
                                  {"post_attention_layernorm", "post_attn_norm"}, {"pre_feedforward_layernorm", "pre_ffw_norm"},
                                  {"post_feedforward_layernorm", "post_ffw_norm"}}) {
    std::vector<std::pair<std::string, Tensor>> changed;
    for (const auto& [name, info] : weights.tensors()) {
      changed.emplace_back(name, weights.load(name));
      if (name == "model.layers.3." + std::string(norm) + ".weight")
        for (float& w : std::span(changed.back().second.out().as<float>(), static_cast<size_t>(changed.back().second.numel()))) w += 0.1F;
    }
    facet::save_safetensors(at.folder + "/model.safetensors", changed);
    const Result r = check("blocks", at.folder, taps);
    INFO(norm << "\n" << r.err);
    CHECK(r.code == 1);
    CHECK_THAT(r.err, Contains("first red: a.layers.3." + std::string(tap) + "\n"));
  }
}

TEST_CASE("check: a mistake is made, and the reference notices") {
  const Result all = check("discrepancies", model, taps);
  INFO(all.out << all.err);
  CHECK(all.code == 0);
  const Result one = check("discrepancies", model, taps, "--only gelu_erf");
  CHECK_THAT(one.out, Contains("a.gelu_erf") && Contains("moves logits by 8.0e-03") && Contains("6 compared, 0 red"));  // of two sets each: model, twin, mistake
  CHECK(check("discrepancies", model, taps, "--only gelu_erf --tol 0.1").code == 1);  // too coarse to notice
  CHECK(check("discrepancies", model, taps, "--set model.sliding_window=9").code == 1);
  CHECK(check("discrepancies", model, taps, "--adapter " + goldens + "/gemma3-tiny-lora").code == 2);
}

TEST_CASE("check: operations without a model") {
  const Result r = run_facet("check ops --only 'rms_norm*'");
  CHECK(r.code == 0);
  CHECK_THAT(r.out, Contains("rms_norm") && Contains("gradients against central differences") && Contains("0 red"));
  CHECK(run_facet("check ops --only nothing").code == 1);
}

TEST_CASE("check: a step from copied state, with every optimizer and on another number of threads") {
  const Result all = run_facet("check step " + model);
  INFO(all.out << all.err);
  CHECK(all.code == 0);
  CHECK_THAT(all.out, Contains("clone: the original's weights") && Contains("clone: optimizer") && Contains("against") && Contains("8 compared, 0 red"));
  for (const char* more : {"adam", "lion", "adafactor", "sgd"}) {
    const Result r = run_facet("check step " + model + " --clone --optimizer " + more);
    INFO(more << r.err);
    CHECK(r.code == 0);
    CHECK_THAT(r.out, Contains("5 compared, 0 red"));
  }
  CHECK(run_facet("check step " + model + " --dtype bf16 --moments bf16 --master none --clone").code == 0);
  CHECK(run_facet("check step " + model + " --optimizer adam --wd 0.1").code == 2);
}

TEST_CASE("check: the feed-forward block in both its forms") {
  const Result r = run_facet("check mlp " + model + " --fused-vs-split");
  INFO(r.out << r.err);
  CHECK(r.code == 0);
  CHECK_THAT(r.out, Contains("layers.6.mlp fused") && Contains("14 compared, 0 red") && Contains("units of the last place"));
  const auto rows = lines(run_facet("check mlp " + model + " --only layers.0.mlp --fused-vs-split --json").out);
  REQUIRE(rows.size() == 2);
  CHECK(rows[1].at("differ") == 0);  // each sum of the joined product is the same sum
  CHECK(run_facet("check mlp " + model + " --only nothing").code == 1);
}

TEST_CASE("check: distances are counted in what the reference's dtype can hold") {
  using facet::app::ulp_distance;
  CHECK(ulp_distance(1, 1 + 1.0 / 128, DType::bf16) == 1);
  CHECK(ulp_distance(1, 1 + 1.0 / 128, DType::f32) == 65536);
  CHECK(ulp_distance(1 + 1e-4, 1, DType::bf16) == 0);  // rounded to the same one
  CHECK(ulp_distance(-2, 2, DType::bf16) == 2 * ulp_distance(0, 2, DType::bf16));
  CHECK(ulp_distance(-0.0, 0.0, DType::f32) == 0);
}

TEST_CASE("check: --tol, --only, --json") {
  CHECK(check("logits", model, taps, "--tol 1e-9").code == 1);
  CHECK(check("logits", model, taps, "--tol 1e-3").code == 0);
  CHECK(check("blocks", model, taps, "--set model.rms_norm_eps=1e-3 --only *.embed").code == 0);

  const Result r = check("blocks", model, taps, "--only a.*.q_normed --json");
  CHECK(r.code == 0);
  const auto rows = lines(r.out);
  REQUIRE(rows.size() == 7);
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i].at("name") == "a.layers." + std::to_string(i) + ".q_normed");
    CHECK(rows[i].at("verdict") == "ok");
    CHECK(rows[i].at("max_abs").get<double>() <= rows[i].at("tolerance").get<double>());
    CHECK(rows[i].at("elements").get<int64_t>() > 0);
  }
  const auto broken = lines(check("logits", model, taps, "--set model.sliding_window=9 --json").out);
  REQUIRE(broken.size() == 4);
  CHECK(broken[0].at("verdict") == "RED");
}

TEST_CASE("check: what generate --dump wrote, as safetensors and as .npz, is what a second run computes") {
  const TempFile somewhere("x", "");
  for (const char* file : {"f.safetensors", "f.npz"}) {
    const std::string out = somewhere.folder + "/" + file;
    const Result dumped = run_facet("generate " + model + " -p 'Hello' --raw --dump 'layers.*.out' --out " + out);
    INFO(dumped.err);
    REQUIRE(dumped.code == 0);
    const auto list = Json::parse(run_facet("inspect file --json " + out).out);
    CHECK(list.at("tensors") == 9);  // seven layers, ids and mask
    const Result same = check("blocks", model, out, "--json");
    CHECK(same.code == 0);
    for (const Json& row : lines(same.out)) {
      INFO(row.dump());
      if (row.at("verdict") == "not compared") continue;
      CHECK(row.at("differ") == 0);
      CHECK(row.at("max_ulp") == 0);
      CHECK(row.at("cosine").get<double>() == Approx(1));
    }
    const Result other = check("blocks", model, out, "--set model.rms_norm_eps=1e-2");
    CHECK(other.code == 1);
    CHECK_THAT(other.err, Contains("first red: layers.0.out"));
  }
}

TEST_CASE("check: files that are not what they should be") {
  const auto refused = [](const Result& r, int code, const std::string& says) {
    INFO(r.out.substr(0, 500) << r.err);
    CHECK(r.code == code);
    CHECK_THAT(r.err, Contains(says));
    CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
  };
  refused(check("blocks", model, "/nonexistent/x.safetensors"), 3, "/nonexistent/x.safetensors: cannot open");
  refused(check("blocks", "/nonexistent/model", taps), 3, "/nonexistent/model");
  const TempFile text("notes.safetensors", "These are no tensors, only a few words.\n");
  refused(check("blocks", model, text.path), 3, "not a safetensors file?");
  refused(check("tokenizer", model, text.path), 3, "notes.safetensors");
  refused(check("blocks", model, model + "/model.safetensors"), 1, "nothing was compared (93 names without a counterpart)");
  refused(check("blocks", model, taps, "--only nothing*"), 1, "nothing was compared");
  refused(check("generation", model, taps), 1, "nothing was compared");
  refused(run_facet("check blocks --model " + model), 2, "--ref");
  refused(check("blocks", model, goldens + "/gemma2-tiny-ref/taps.safetensors"), 1, "18 red");  // shapes of another model
}

TEST_CASE("check: shapes, NaN and inputs of a file made by hand") {
  const facet::Safetensors real(taps);
  const Tensor ids = real.load("b.input_ids"), logits = real.load("b.logits");
  const TempFile at("made.safetensors", "");
  const auto with = [&](const Tensor& values, const Tensor& input) {
    facet::save_safetensors(at.path, std::vector<std::pair<std::string, Tensor>>{{"input_ids", input}, {"logits", values}});
    return check("logits", model, at.path);
  };
  CHECK(with(logits, ids).code == 0);  // without a set, without a mask
  const Result cut = with(logits.slice(1, 0, logits.dim(1) - 1).clone(), ids);
  CHECK(cut.code == 1);
  CHECK_THAT(cut.out, Contains("in the reference  RED"));
  const Tensor poisoned = logits.clone();
  poisoned.out().as<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  const Result nan = with(poisoned, ids);
  CHECK(nan.code == 1);
  CHECK_THAT(nan.out, Contains("NaN on one side"));
  const Result flat = with(logits, ids.reshape({ids.numel()}));
  CHECK(flat.code == 3);
  CHECK_THAT(flat.err, Contains("expected [B, T]"));
  const Tensor outside = ids.clone();
  outside.out().as<int32_t>()[0] = 512;
  const Result beyond = with(logits, outside);
  CHECK(beyond.code != 0);
  CHECK(beyond.code < 128);
  CHECK_THAT(beyond.err, Contains("512"));
}

TEST_CASE("check tokenizer: a list of strings or conversations, the first difference by name; without a reference, what makes sense alone") {
  const auto against = [](const std::string& ref, const std::string& more = "") { return check("tokenizer", model, ref, more); };
  const Result strings = against(goldens + "/tokenizer/nasty.json"), talks = against(goldens + "/tokenizer/conversations.json");
  CHECK(strings.code == 0);
  CHECK_THAT(strings.out, Contains("strings with the reference's ids") && Contains("0 / 2000") && Contains("1 compared, 0 red"));
  CHECK(talks.code == 0);
  CHECK_THAT(talks.out, Contains(" refused ") && Contains(", 0 red, 0 not compared"));

  Json pairs = facet::read_json(goldens + "/tokenizer/nasty.json");
  pairs[3][1][0] = 300;
  pairs[7][1].push_back(5);
  const TempFile wrong("nasty.json", pairs.dump());
  const Result r = against(wrong.path);
  CHECK(r.code == 1);
  CHECK_THAT(r.out, Contains("[300,") && Contains(" in the reference  RED") && Contains("0 / 1998"));
  CHECK_THAT(r.err, Contains("3 compared, 2 red, 0 not compared; first red: string 3 "));
  CHECK_THAT(against(wrong.path, "--first-fail").err, Contains("1 compared, 1 red"));
  CHECK(against(wrong.path, "--only 'string 5 *'").code == 0);
  for (const char* text : {"[[1,2]]", "[[\"a\"]]", "[]", "[3]", "{\"a\": 1}", "[{\"messages\": 3}]"}) {
    INFO(text);
    const TempFile file("broken.json", text);
    CHECK(against(file.path).code == 3);
  }

  const Result alone = run_facet("check tokenizer " + model);
  INFO(alone.out << alone.err);
  CHECK(alone.code == 0);
  CHECK_THAT(alone.out, Contains("special <end_of_turn>") && Contains("one <bos> before a conversation") && Contains("round trip") && Contains("a row of the model for every piece"));
  CHECK(run_facet("check tokenizer " + goldens + "/tokenizer").code == 0);
}
