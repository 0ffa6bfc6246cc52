// Adapters folded into a folder and out of it again.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "autograd/ops.h"
#include "models/gemma/hf.h"
#include "models/gemma/merge.h"
#include "models/gemma/model.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tests/models/reference.h"
#include "tests/support/compare.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using Catch::Contains;
using facet::test::bitwise_equal;
using facet::test::close;
using facet::test::Golden;
using facet::test::golden_path;
using facet::test::TempFolder;
namespace fs = std::filesystem;

namespace {

const std::string tiny = golden_path("gemma3-tiny"), golden_adapter = golden_path("gemma3-tiny-lora");

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Tensor logits(Gemma& model, const Tokens& t) {
  const NoGrad off;
  return model.logits(model.hidden(t)).detach();
}

Tokens tokens_of(const std::string& set) {
  return facet::test::tokens_of(Golden("gemma3-tiny-ref/taps.safetensors"), set);
}

// The golden model in another dtype, in shards of this size.
std::string base_in(const TempFolder& t, DType dtype, uint64_t shard_bytes = 5'000'000'000) {
  const GemmaConfig c = read_hf_config(tiny);
  NamedTensors list = load_weights(tiny, c);
  for (auto& [name, tensor] : list) tensor = tensor.to(dtype);
  SaveOptions o;
  o.shard_bytes = shard_bytes;
  o.tokenizer_from = tiny;
  save_hf(t / "base", c, list, o);
  return t / "base";
}

// An adapter with something to say on a base, in PEFT's layout.
AdapterFile make_adapter(const TempFolder& t, const std::string& base, const LoraOptions& o,
                         const std::string& name = "adapter") {
  const auto model = load_gemma(base);
  Adapters adapters(*model);
  adapters.add("x", o, key(1));
  for (const auto& [path, f] : adapters.factors("x")) {
    Parameter& p = f->of_table ? f->a : f->b;
    p.reset(mul(normal(fold_in(key(7), f->salt), p.value().shape()), 0.05).detach(), true);
    if (f->magnitude.value()) f->magnitude.reset(mul(f->magnitude.value().detach(), 1.25).detach(), true);
  }
  save_adapter(t / name, adapters, "x", base);
  return read_adapter(t / name);
}

Tensor adapted_logits(const std::string& base, const AdapterFile& file, const Tokens& t) {
  const auto model = load_gemma(base);
  Adapters adapters(*model);
  load_adapter(adapters, "x", file);
  return logits(*model, t);
}

double ulp(double x, int bits, int least) {
  return std::ldexp(1, std::max(x == 0 ? least : std::ilogb(x), least) - (bits - 1));
}

template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.kind() == Kind::file);
    return e.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("merge: PEFT's adapter gives the weights and logits that PEFT merges to") {
  const TempFolder t;
  const AdapterFile adapter = read_adapter(golden_adapter);
  const MergeReport r = merge_adapter(tiny, adapter, t / "out");
  const Golden g("posttrain.safetensors"), taps("gemma3-tiny-ref/taps.safetensors");
  const Safetensors merged(t / "out");
  for (const char* name : {"model.layers.0.self_attn.q_proj.weight", "model.layers.5.mlp.down_proj.weight"})
    CHECK(close(merged.load(name), g[std::string("lora/merged/") + name], 1e-6, 1e-7));
  const auto model = load_gemma(t / "out");
  const auto got = logits(*model, tokens_of("a")).to_vector(), want = g["lora/a.logits_merged"].to_vector(),
             mask = taps["a.attention_mask"].to_vector();
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i)
    if (mask[i / 512] != 0) worst = std::max(worst, std::abs(got[i] - want[i]));
  CHECK(worst <= 1.6e-4);
  CHECK(close(logits(*model, tokens_of("b")), adapted_logits(tiny, adapter, tokens_of("b")), 0, 1e-4));

  CHECK(r.modules.size() == 7 * 7);
  CHECK(r.record.scale == "2");
  CHECK(r.total().ulps <= 0.5);
  CHECK(r.total().ulps > 0.4);
  CHECK(r.total().drift() < 1e-6);
  CHECK(r.total().lost == 0);
  CHECK(r.largest_tensor == 512 * 64 * 4);
  CHECK(r.record.base == folder_hash(tiny, WeightHash::Of::values));
  CHECK(r.record.base == hash_text(base_hash(*load_gemma(tiny))));
  CHECK(merged.metadata().at("facet.merge.base") == r.record.base);
  CHECK(merged.metadata().at("facet.merge.adapter") == adapter_hash(adapter));
  CHECK(merged.metadata().at("format") == "pt");
  for (const char* name :
       {"config.json", "tokenizer.model", "tokenizer.json", "chat_template.jinja", "generation_config.json"})
    CHECK(content(t / "out/" + name) == content(tiny + "/" + name));
  const Json kept = read_json(t / "out/merge.json");
  CHECK(kept["base"] == r.record.base);
  CHECK(kept["modules"].size() == r.modules.size());
  for (const auto& [name, info] : merged.tensors())
    if (name.find("norm") != name.npos || name.find("embed") != name.npos)
      CHECK(bitwise_equal(merged.load(name), Safetensors(tiny).load(name)));
}

TEST_CASE("merge: with the base, its very bytes; without, one ulp") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    INFO(name_of(dtype));
    const TempFolder t;
    const std::string base = base_in(t, dtype, 400'000);
    const AdapterFile adapter = make_adapter(t, base, {.rank = 4, .targets = {"q", "o", "down"}});
    const MergeReport r = merge_adapter(base, adapter, t / "out");
    CHECK(r.total().ulps <= 0.5001);
    if (dtype == DType::bf16) CHECK(r.total().lost > 0);
    // The same shards, tensor for tensor.
    const Safetensors before(base), merged(t / "out");
    REQUIRE(before.files().size() > 1);
    REQUIRE(merged.files().size() == before.files().size());
    for (const auto& [name, info] : before.tensors())
      CHECK(fs::path(merged.files()[merged.info(name).file]).filename() ==
            fs::path(before.files()[info.file]).filename());

    const MergeRecord record = unmerge_with_base(t / "out", base, t / "exact");
    CHECK(record.base == r.record.base);
    size_t files = 0;
    for (const auto& e : fs::directory_iterator(base)) {
      ++files;
      CHECK(content(t / "exact/" + e.path().filename().string()) == content(e.path()));
    }
    CHECK(static_cast<size_t>(std::distance(fs::directory_iterator(t / "exact"), {})) == files);

    const MergeReport back = unmerge_with_adapter(t / "out", adapter, t / "near");
    CHECK(back.total().ulps <= 1.0001);
    const Safetensors near(t / "near");
    CHECK_FALSE(near.metadata().count("facet.merge.base"));
    CHECK_FALSE(fs::exists(t / "near/merge.json"));
    const int bits = dtype == DType::bf16  ? 8
                     : dtype == DType::f32 ? 24
                                           : 53,
              least = dtype == DType::f64 ? -1022 : -126;
    double worst = 0, worst_error = 0;
    for (const auto& [name, info] : before.tensors()) {
      const auto w = before.load(name).to_vector(), m = merged.load(name).to_vector(), u = near.load(name).to_vector();
      for (size_t i = 0; i < w.size(); ++i) {
        const double error = std::abs(u[i] - w[i]);
        worst_error = std::max(worst_error, error);
        worst = std::max(worst, error / ulp(std::max(std::abs(w[i]), std::abs(m[i])), bits, least));
      }
    }
    CHECK(worst <= 1);
    CHECK(worst > 0);  // or it would have been no test
    CHECK(worst_error <= back.total().error * 1.0001);
  }
}

TEST_CASE("merge: the report counts what rounding took") {
  const TempFolder t;
  const std::string base = base_in(t, DType::bf16);
  const AdapterFile adapter =
      make_adapter(t, base, {.rank = 2, .alpha = 0.05, .targets = {"layers.0.self_attn.q_proj"}});
  const MergeReport r = merge_adapter(base, adapter, t / "out");
  const AdapterModule& m = adapter.modules.at("layers.0.self_attn.q_proj");
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const auto w = Safetensors(base).load(name).to_vector(), now = Safetensors(t / "out").load(name).to_vector();
  const auto update = matmul(m.b.to(DType::f64), m.a.to(DType::f64)).to_vector();
  int64_t lost = 0;
  double largest = 0, error = 0, squares = 0, error_squares = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double u = m.scale * update[i], e = std::abs(now[i] - (w[i] + u));
    lost += now[i] == w[i];
    largest = std::max(largest, std::abs(u)), error = std::max(error, e);
    squares += u * u, error_squares += e * e;
  }
  REQUIRE(r.modules.size() == 1);
  CHECK(r.modules[0].lost == lost);
  CHECK(lost > std::ssize(w) / 10);
  CHECK(r.modules[0].touched == std::ssize(w));
  CHECK(r.modules[0].update == Approx(largest));
  CHECK(r.modules[0].error == Approx(error));
  CHECK(r.modules[0].drift() == Approx(std::sqrt(error_squares / squares)));
}

TEST_CASE("merge: DoRA brings rows to their length, and cannot be subtracted") {
  const TempFolder t;
  const AdapterFile adapter = make_adapter(t, tiny, {.rank = 3, .dora = true});
  merge_adapter(tiny, adapter, t / "out");
  const Tokens tokens = tokens_of("b");
  const Tensor want = adapted_logits(tiny, adapter, tokens);
  CHECK(close(logits(*load_gemma(t / "out"), tokens), want, 0, 1e-4));
  CHECK_FALSE(close(logits(*load_gemma(tiny), tokens), want, 0, 1e-1));
  CHECK_THROWS_WITH(unmerge_with_adapter(t / "out", adapter, t / "x"), Contains("DoRA") && Contains("give the base"));
  CHECK_FALSE(fs::exists(t / "x"));
  unmerge_with_base(t / "out", tiny, t / "back");
  CHECK(content(t / "back/model.safetensors") == content(tiny + "/model.safetensors"));
}

TEST_CASE("merge: an adapted embedding leaves a tied head as it was") {
  for (const uint64_t shard : {uint64_t{5'000'000'000}, uint64_t{400'000}}) {
    const TempFolder t;
    const std::string base = base_in(t, DType::f32, shard);
    const AdapterFile adapter = make_adapter(t, base, {.rank = 3, .targets = {"embedding", "v"}});
    const MergeReport r = merge_adapter(base, adapter, t / "out");
    CHECK(r.record.own_head);
    CHECK_FALSE(read_hf_config(t / "out").tied_head);
    const Safetensors before(base), merged(t / "out");
    CHECK(bitwise_equal(merged.load("lm_head.weight"), before.load("model.embed_tokens.weight")));
    CHECK_FALSE(bitwise_equal(merged.load("model.embed_tokens.weight"), before.load("model.embed_tokens.weight")));
    const Tokens tokens = tokens_of("b");
    CHECK(close(logits(*load_gemma(t / "out"), tokens), adapted_logits(base, adapter, tokens), 0, 1e-4));

    unmerge_with_adapter(t / "out", adapter, t / "near");
    CHECK(read_hf_config(t / "near").tied_head);
    const Safetensors near(t / "near");
    CHECK(near.tensors().size() == before.tensors().size());
    CHECK(bitwise_equal(near.load("model.embed_tokens.weight"), before.load("model.embed_tokens.weight")));
    CHECK(close(near.load("model.layers.0.self_attn.v_proj.weight"),
                before.load("model.layers.0.self_attn.v_proj.weight"), 1e-6, 1e-6));
    // On a base with a head of its own there is nothing to untie.
    const AdapterFile second = make_adapter(t, t / "out", {.rank = 2, .targets = {"embedding"}}, "second");
    const MergeReport again = merge_adapter(t / "out", second, t / "twice");
    CHECK_FALSE(again.record.own_head);
    CHECK(Safetensors(t / "twice").metadata().count("facet.merge.head") == 0);
    CHECK(bitwise_equal(Safetensors(t / "twice").load("lm_head.weight"), before.load("model.embed_tokens.weight")));
    unmerge_with_base(t / "twice", t / "out", t / "once");
    CHECK(content(t / "once/merge.json") == content(t / "out/merge.json"));
  }
}

TEST_CASE("merge: memory for one tensor, not for the model") {
  const TempFolder t;
  GemmaConfig c = read_hf_config(tiny);
  c.width = 256, c.hidden = 1024;
  {
    Gemma model(c, DType::bf16);
    model.init(key(3));
    save_hf(t / "base", c, named_values(model), {});
  }
  const AdapterFile adapter = make_adapter(t, t / "base", {.rank = 2, .targets = {"up", "down"}});
  pool_trim();
  const size_t before = pool_stats().live_bytes;
  pool_reset_peak();
  const MergeReport r = merge_adapter(t / "base", adapter, t / "out");
  const size_t used = pool_stats().peak_bytes - before;
  INFO("peak " << used << ", largest tensor " << r.largest_tensor << ", written " << r.bytes);
  CHECK(used <= 2 * r.largest_tensor + merge_working_bytes);  // sizes are rounded up to the pool's classes
  CHECK(r.bytes > 2 * (2 * r.largest_tensor + merge_working_bytes));
}

TEST_CASE("merge: what does not belong together is named with its hashes") {
  const TempFolder t;
  const std::string half = base_in(t, DType::bf16);
  const AdapterFile adapter = make_adapter(t, tiny, {.rank = 2, .targets = {"q"}});
  const MergeReport r = merge_adapter(tiny, adapter, t / "out");
  // The bf16 copy is another base to the bit, though the adapter cannot tell them apart.
  CHECK_THAT(refusal([&] { unmerge_with_base(t / "out", half, t / "x"); }),
             Contains("was fused from a base whose values hash to " + r.record.base) &&
                 Contains("those of " + half + " hash to " + folder_hash(half, WeightHash::Of::values)));
  CHECK(refusal([&] { merge_adapter(half, adapter, t / "half"); }) == "nothing");
  const AdapterFile other = make_adapter(t, tiny, {.rank = 2, .alpha = 4, .targets = {"q"}}, "other");
  CHECK_THAT(refusal([&] { unmerge_with_adapter(t / "out", other, t / "x"); }),
             Contains("was fused with an adapter that hashes to " + r.record.adapter) && Contains("hashes to " + adapter_hash(other)));
  CHECK_THAT(refusal([&] { unmerge_with_base(tiny, tiny, t / "x"); }), Contains("no record of a merge"));
  CHECK_THAT(refusal([&] { unmerge_with_adapter(tiny, adapter, t / "x"); }), Contains("no record of a merge"));

  // A base with other values, one of another width.
  fs::copy(tiny, t / "moved", fs::copy_options::recursive);
  fs::permissions(t / "moved", fs::perms::owner_all);
  std::map<std::string, Tensor> tensors;
  const Safetensors original(tiny);
  for (const auto& [name, info] : original.tensors()) tensors[name] = original.load(name);
  tensors["model.norm.weight"] = Tensor::full({64}, 0.5);
  fs::remove(t / "moved/model.safetensors");
  save_safetensors(t / "moved/model.safetensors", NamedTensors(tensors.begin(), tensors.end()));
  CHECK_THAT(refusal([&] { merge_adapter(t / "moved", adapter, t / "x"); }),
             Contains("adapter was trained on base " + adapter.base_hash) &&
                 Contains(folder_hash(t / "moved", WeightHash::Of::bf16)));
  CHECK_THAT(refusal([&] { merge_adapter(golden_path("gemma3-rope8"), read_adapter(golden_adapter), t / "x"); }),
             Contains("this model is") && Contains("hidden 48"));

  AdapterFile changed = read_adapter(golden_adapter);
  const AdapterModule q = changed.modules.at("layers.0.self_attn.q_proj");
  changed.modules["layers.0.self_attn.qq_proj"] = q;
  CHECK_THAT(refusal([&] { merge_adapter(tiny, changed, t / "x"); }),
             Contains("layers.0.self_attn.qq_proj") && Contains("nearest: layers.0.self_attn.q_proj"));
  changed.modules.erase("layers.0.self_attn.qq_proj");
  changed.modules["layers.0.self_attn.q_proj"].a = Tensor::zeros({4, 65});
  CHECK_THAT(refusal([&] { merge_adapter(tiny, changed, t / "x"); }), Contains("lora_A [4, 65]"));
  changed.modules["layers.0.self_attn.q_proj"] = q;
  changed.modules["layers.0.self_attn.q_proj"].b = Tensor::full({128, 4}, INFINITY);
  CHECK_THAT(refusal([&] { merge_adapter(tiny, changed, t / "x"); }),
             Contains("\"layers.0.self_attn.q_proj\" with the adapter") && Contains("not finite"));

  fs::create_directory(t / "cut");
  fs::copy(golden_adapter + "/adapter_config.json", t / "cut/adapter_config.json");
  const std::string bytes = content(golden_adapter + "/adapter_model.safetensors");
  t.write("cut/adapter_model.safetensors", bytes.substr(0, bytes.size() / 2));
  CHECK_THAT(refusal([&] { merge_adapter(tiny, read_adapter(t / "cut"), t / "x"); }), Contains("truncated"));
  CHECK_FALSE(fs::exists(t / "x"));
}
