// An adapter folded into its base, and taken out again.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "app/command.h"
#include "app/model_folder.h"
#include "autograd/ops.h"
#include "models/gemma/hf_config.h"
#include "models/gemma/merge.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

namespace fs = std::filesystem;

struct Settings : Common {
  std::string base, adapter, out, model, check = "auto";
  bool unmerge = false;
  void declare(Options& o) {
    o.add("base", &base, "folder of the model that was adapted").metavar("DIR");
    o.add("adapter", &adapter, "folder of the adapter, as PEFT lays it out").metavar("DIR");
    o.add("out", &out, "folder to make; must not hold anything yet").metavar("DIR").required();
    o.add("check", &check,
          "compare logits of base with adapter and of the result on random tokens (auto: models up to 50 million "
          "parameters)")
        .choices({"auto", "yes", "no"})
        .bare("yes");
    o.section("taking apart");
    o.add("unmerge", &unmerge,
          "give back the base of --model: with --base its very bytes, with --adapter by subtracting");
    o.add("model", &model, "folder that facet merge wrote").metavar("DIR");
    o.section("");
    o.rule([this]() -> std::string {
      if (unmerge && model.empty()) return "--unmerge needs --model, the folder to take apart";
      if (unmerge && base.empty() == adapter.empty()) return "--unmerge needs either --base or --adapter";
      if (!unmerge && !model.empty()) return "--model belongs to --unmerge; the model to adapt is --base";
      if (!unmerge && base.empty()) return "--base is needed: the folder of the model that was adapted";
      if (!unmerge && adapter.empty()) return "--adapter is needed: the folder of the adapter";
      return "";
    });
  }
};

// ---- logits

struct LogitDrift {
  double largest = 0;    // |merged - adapted|
  double root = 0;       // root mean square of the adapted logits
  double of_effect = 0;  // rms(merged - adapted) / rms(adapted - base)
  int64_t rows = 0, same_choice = 0;
};

Tensor logits_of(Gemma& model, const Tokens& t) {
  const NoGrad off;
  return model.logits(model.hidden(t)).detach();
}

LogitDrift compare_logits(const Settings& s) {
  constexpr int64_t batch = 2;
  Tensor base, adapted;
  Tokens tokens;
  {
    const ModelFolder folder = open_model(s.base, {}, "auto", TokenizerNeed::optional);
    const int64_t length = std::min<int64_t>(32, folder.model->context());
    const Tensor ids =
        uniform(key(static_cast<uint64_t>(s.seed)), {batch, length}, 0, static_cast<double>(folder.model->vocab()))
            .to(DType::i32);
    tokens = plain_tokens(ids);
    base = logits_of(*folder.model, tokens);
    Adapters adapters(*folder.model);
    load_adapter(adapters, "adapter", read_adapter(s.adapter));
    adapted = logits_of(*folder.model, tokens);
  }
  const ModelFolder folder = open_model(s.out, {}, "auto", TokenizerNeed::optional);
  const Tensor merged = logits_of(*folder.model, tokens);
  const auto x = base.data<float>(), y = adapted.data<float>(), z = merged.data<float>();
  LogitDrift d;
  d.rows = batch * tokens.ids.dim(1);
  const auto columns = static_cast<size_t>(folder.model->vocab());
  double squares = 0, effect = 0, error = 0;
  for (size_t row = 0; row < static_cast<size_t>(d.rows); ++row) {
    const auto want = y.subspan(row * columns, columns), got = z.subspan(row * columns, columns),
               plain = x.subspan(row * columns, columns);
    for (size_t i = 0; i < columns; ++i) {
      const double away = double(got[i]) - want[i], moved = double(want[i]) - plain[i];
      d.largest = away <= d.largest && -away <= d.largest ? d.largest : std::abs(away);
      squares += double(want[i]) * want[i], effect += moved * moved, error += away * away;
    }
    d.same_choice += std::max_element(want.begin(), want.end()) - want.begin() ==
                     std::max_element(got.begin(), got.end()) - got.begin();
  }
  d.root = std::sqrt(squares / static_cast<double>(y.size()));
  d.of_effect = effect > 0 ? std::sqrt(error / effect) : 0;
  return d;
}

// ---- what is said about it

void print(const MergeReport& r, bool unmerged, Console& console) {
  const MergedModule all = r.total();
  const auto share = [](int64_t part, int64_t of) {
    return of ? 100.0 * static_cast<double>(part) / static_cast<double>(of) : 0.0;
  };
  if (unmerged) {
    console.line("every value is within {:.3g} of the base's, {:.2f} ulp of max(|W|, |W'|) at most", all.error,
                 all.ulps);
    return;
  }
  console.line(
      "rounding: {:.2f} ulp at most, {:.2g}% of the update (rms); lost altogether on {:.2g}% of {} moved values",
      all.ulps, 100 * all.drift(), share(all.lost, all.touched), grouped(static_cast<uint64_t>(all.touched)));
  std::vector<MergedModule> worst = r.modules;
  std::stable_sort(worst.begin(), worst.end(), [](const auto& a, const auto& b) { return a.drift() > b.drift(); });
  if (worst.size() > 5) worst.resize(5);
  size_t width = 5;
  for (const MergedModule& m : worst) width = std::max(width, m.path.size());
  console.line("{:<{}}  {:>10} {:>10} {:>9} {:>9}", "worst", width, "update", "error", "drift", "lost");
  for (const MergedModule& m : worst)
    console.line("{:<{}}  {:>10.3g} {:>10.3g} {:>8.2g}% {:>8.2g}%", m.path, width, m.update, m.error, 100 * m.drift(),
                 share(m.lost, m.touched));
}

void print(const LogitDrift& d, Console& console) {
  console.line(
      "logits on {} random tokens: {:.2g} apart at most (rms {:.3g}), {:.2g}% of the adapter's effect; {} of {} greedy "
      "choices agree",
      d.rows, d.largest, d.root, 100 * d.of_effect, d.same_choice, d.rows);
}

// ---- the command

int merge(const Settings& s, Console& console) {
  const MergeReport report = merge_adapter(s.base, read_adapter(s.adapter), s.out,
                                           [&](int64_t done, int64_t of) { console.progress("merge", done, of); });
  const GemmaConfig config = read_hf_config(s.out);
  const bool check = s.check == "yes" || (s.check == "auto" && config.count_parameters() <= 50'000'000);
  const LogitDrift d = check ? compare_logits(s) : LogitDrift{};
  if (console.json()) {
    Json json = Json::parse(to_json(report));
    json["out"] = s.out;
    if (check)
      json["logits"] = {{"tokens", d.rows},
                        {"largest", d.largest},
                        {"rms", d.root},
                        {"of_effect", d.of_effect},
                        {"same_choice", d.same_choice}};
    console.line("{}", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    console.line("{}: {} with {}, scale {}, {} matrices, {}{}", s.out, s.base, s.adapter, report.record.scale,
                 report.modules.size(), human_bytes(report.bytes),
                 report.record.own_head ? "; the head is no longer tied to the embedding" : "");
    console.line("kept on record: values of the base hash to {}, the adapter to {}", report.record.base,
                 report.record.adapter);
    print(report, false, console);
    if (check) print(d, console);
  }
  if (check && !std::isfinite(d.largest)) fail(Kind::check, "{}: logits are not finite", s.out);
  if (report.total().drift() > 0.1)
    console.warn(
        "a tenth of the update or more is lost in rounding to the base's dtype; facet convert --dtype f32 of the base "
        "keeps it");
  return 0;
}

int unmerge(const Settings& s, Console& console) {
  if (!s.base.empty()) {
    const MergeRecord record = unmerge_with_base(s.model, s.base, s.out);
    if (console.json()) console.line("{}", Json{{"base", record.base}, {"out", s.out}, {"exact", true}}.dump(2));
    else console.line("{}: {}, byte for byte (values hash to {})", s.out, s.base, record.base);
    return 0;
  }
  const MergeReport report =
      unmerge_with_adapter(s.model, read_adapter(s.adapter), s.out,
                           [&](int64_t done, int64_t of) { console.progress("unmerge", done, of); });
  if (console.json()) {
    Json json = Json::parse(to_json(report));
    json["out"] = s.out, json["exact"] = false;
    console.line("{}", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    console.line("{}: {} less {}, {} matrices", s.out, s.model, s.adapter, report.modules.size());
    print(report, true, console);
  }
  return 0;
}

int run(Settings& s, Options&, Console& console) {
  if (std::error_code error; fs::exists(s.out, error) && !fs::is_empty(s.out, error))
    fail(Kind::usage, "--out {}: exists and is not empty; choose another or remove it first", s.out);
  return s.unmerge ? unmerge(s, console) : merge(s, console);
}

}  // namespace

Command merge_command() {
  return command<Settings>("merge", "Fold an adapter into its base model, or take it out again",
                           "Goes tensor by tensor: memory for the largest one, whatever the size of the model. Results "
                           "are rounded once to the\n"
                           "base's dtype; what that costs is reported and kept in OUT/merge.json.\n\n"
                           "  facet merge --base gemma-3-270m-it --adapter runs/x/final --out tuned\n"
                           "  facet merge --unmerge --model tuned --base gemma-3-270m-it --out plain",
                           run);
}

}  // namespace facet::app
