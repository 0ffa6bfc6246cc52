#include "app/options.h"

#include <catch2/catch.hpp>

#include "tensor/error.h"
#include "tests/app/run.h"
#include "tensor/io/text.h"

using namespace facet;
using namespace facet::app;

namespace {

struct Sample {
  std::string config, model, loss = "dapo", optimizer = "adamw";
  Values set, targets{"q", "v"}, stop;
  int64_t steps = 100;
  int batch = 8;
  double lr = 3e-4, clip = 1;
  std::optional<double> temp;
  std::optional<std::string> out;
  bool pack = false, bos = true, help = false, verbose = false;
  std::map<std::string, std::string> model_overrides;

  void declare(Options& o) {
    o.add("config", &config, "file").letter('c').call_only();
    o.add("set", &set, "any key").verbatim().call_only();
    o.add("model", &model, "model folder").positional();
    o.add("out", &out, "where to").positional();
    o.add("help", &help, "this").call_only();
    o.add("verbose", &verbose, "more").letter('v').transient();
    o.section("train");
    o.add("steps", &steps, "updates").alias({"iters", "max-steps"}).letter('n').range(1, 1e9);
    o.add("batch", &batch, "sequences").alias({"batch-size", "per-device-train-batch-size"}).range(1, 65536);
    o.add("lr", &lr, "peak rate").alias({"learning-rate"}).range(0, 10);
    o.add("clip", &clip, "largest norm");
    o.add("pack", &pack, "several per row");
    o.add("bos", &bos, "start token");
    o.add("optimizer", &optimizer, "which").choices({"adamw", "sgd", "muon"}).bare("sgd");
    o.section("lora");
    o.add("lora-targets", &targets, "which maps");
    o.section("grpo");
    o.add("loss", &loss, "which loss");
    o.add("temp", &temp, "temperature; as the model says when left out");
    o.add("stop", &stop, "strings that end").verbatim();
    o.pass_through("model", model_overrides);
    o.preset("fast", {{"steps", "10"}, {"lr", "1e-2"}});
    o.rule([this] { return pack && batch == 1 ? "--pack needs more than --batch 1" : ""; });
  }
};

struct Parsed : Sample {
  Options options{"sample"};
  explicit Parsed(const Values& args) {
    declare(options);
    options.resolve(args);
  }
};

std::string complaint(const Values& args) {
  try {
    Parsed p(args);
  } catch (const Error& e) {
    CHECK(e.kind() == Kind::usage);
    return e.what();
  }
  return "";
}

struct File : TempFile {
  explicit File(const std::string& text) : TempFile("run.yaml", text) {}
};

struct Variable {
  Variable(const char* name, const char* value) : name(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name); }
  const char* name;
};

}  // namespace

TEST_CASE("options: every spelling of a flag reaches its field") {
  CHECK(Parsed({"--lr", "1e-5"}).lr == 1e-5);
  CHECK(Parsed({"--lr=1e-5"}).lr == 1e-5);
  CHECK(Parsed({"--learning-rate", "1e-5"}).lr == 1e-5);
  CHECK(Parsed({"--learning_rate=1E-5"}).lr == 1e-5);
  CHECK(Parsed({"--per_device_train_batch_size", "4"}).batch == 4);
  CHECK(Parsed({"--set", "lr=1e-5"}).lr == 1e-5);
  CHECK(Parsed({"--set", "train.learning_rate=1e-5"}).lr == 1e-5);
  CHECK(Parsed({"-n5"}).steps == 5);
  CHECK(Parsed({"-n", "5"}).steps == 5);
  CHECK(Parsed({"--steps", "1e3"}).steps == 1000);
  CHECK(Parsed({"--clip", "-1"}).clip == -1);
  CHECK(Parsed({"--clip", "-.5"}).clip == -.5);
  CHECK(Parsed({"--pack"}).pack);
  CHECK(Parsed({"--optimizer", "--pack"}).optimizer == "sgd");
  CHECK(Parsed({"--optimizer", "muon", "m"}).optimizer == "muon");
  CHECK(Parsed({"--optimizer", "m"}).model == "m");
  CHECK_FALSE(Parsed({"--no-bos"}).bos);
  CHECK_FALSE(Parsed({"--bos=off"}).bos);
  CHECK(Parsed({}).bos);
  CHECK_FALSE(Parsed({}).temp.has_value());
  CHECK(Parsed({"--temp", "0"}).temp == 0.0);
  CHECK(Parsed({"--lora-targets", "q,k", "--lora-targets", "o"}).targets == Values{"q", "k", "o"});
  CHECK(Parsed({"--stop", "a,b", "--stop", "[c]", "--stop", "--x", "--stop="}).stop == Values{"a,b", "[c]", "--x", ""});
}

TEST_CASE("options: positionals fill what flags left over") {
  Parsed a({"m", "--lr", "1", "o"});
  CHECK(a.model == "m");
  CHECK(a.out == "o");
  Parsed b({"o", "--model", "m"});
  CHECK(b.model == "m");
  CHECK(b.out == "o");
  CHECK(Parsed({"--", "--m"}).model == "--m");
  CHECK(Parsed({"-"}).model == "-");
  CHECK(complaint({"a", "b", "c"}) == "unexpected argument \"c\"; see facet sample --help");
  CHECK(complaint({"a", "b", "--optimizer", "adagrad"}) == "unexpected argument \"adagrad\" (--optimizer takes adamw/sgd/muon); see facet sample --help");
}

TEST_CASE("options: defaults < preset < file < environment < flag") {
  File file("preset: fast\ntrain: {lr: 3e-3, batch: 2}\nclip: 0.5\n");
  CHECK(Parsed({"--preset", "fast"}).steps == 10);
  CHECK(Parsed({"--preset", "fast", "--steps", "7"}).steps == 7);
  Parsed a({"-c", file.path});
  CHECK(a.steps == 10);
  CHECK(a.lr == 3e-3);
  CHECK(a.batch == 2);
  CHECK(a.clip == 0.5);
  CHECK(a.options.given("lr"));
  CHECK_FALSE(a.options.given("steps"));
  Variable v("FACET_LR", "2e-3");
  CHECK(Parsed({"-c", file.path}).lr == 2e-3);
  CHECK(Parsed({"-c", file.path, "--set", "lr=5e-3"}).lr == 5e-3);
  CHECK(Parsed({"-c", file.path, "--lr", "1e-3", "--set", "lr=5e-3"}).lr == 1e-3);
  Variable c("FACET_CONFIG", file.path.c_str());
  CHECK(Parsed({}).batch == 2);
}

TEST_CASE("options: sections of a file only group") {
  File file(R"(
model: some/folder
train: {learning_rate: 1e-5, steps: 1_0}
lora: {targets: [q, k, o]}
grpo: {loss: grpo, temp: ~, stop: ["a,b"]}
set: {model.sliding_window: 9}
)");
  CHECK(complaint({"-c", file.path}) == file.path + ":3: train.steps: \"1_0\" is not a number");
  std::ofstream(file.path) << "lora: {targets: [q, k, o]}\ngrpo: {loss: grpo, temp: ~, stop: [\"a,b\"]}\nset: {model.sliding_window: 9}\n";
  Parsed p({"-c", file.path});
  CHECK(p.targets == Values{"q", "k", "o"});
  CHECK(p.loss == "grpo");
  CHECK_FALSE(p.temp.has_value());
  CHECK(p.stop == Values{"a,b"});
  CHECK(p.model_overrides.at("sliding_window") == "9");
}

TEST_CASE("options: the resolved config starts the same run again") {
  Parsed a({"some dir/model: 1", "--lr", "1e-5", "--steps", "123456789", "--lora-targets", "q,gate", "--stop", "a, b", "--stop", "null",
            "--loss", "~", "--set", "model.sliding_window=9", "--set", "model.rope_theta=1e6", "--no-bos", "-v"});
  File file(a.options.dump());
  Parsed b({"--config", file.path});
  CHECK(b.options.dump() == a.options.dump());
  CHECK(b.model == "some dir/model: 1");
  CHECK(b.lr == 1e-5);
  CHECK(b.steps == 123456789);
  CHECK(b.targets == Values{"q", "gate"});
  CHECK(b.stop == Values{"a, b", "null"});
  CHECK(b.loss == "~");
  CHECK(b.model_overrides == a.model_overrides);
  CHECK_FALSE(b.bos);
  CHECK_FALSE(b.verbose);
  CHECK_FALSE(b.out.has_value());
  // a value from every layer, dumped once and not twice
  CHECK(a.options.dump().find("verbose") == std::string::npos);
  CHECK(a.options.dump().find("lr: 1e-05") != std::string::npos);
}

TEST_CASE("options: complaints name the option, the value and the nearest name") {
  CHECK(complaint({"--lr", "1e-3x"}) == "--lr: \"1e-3x\" is not a number");
  CHECK(complaint({"--lr", "nan"}) == "--lr: \"nan\" is not a number");
  CHECK(complaint({"--lr", "11"}) == "--lr: \"11\" is out of range 0 to 10");
  CHECK(complaint({"--lr"}) == "--lr needs a value (X)");
  CHECK(complaint({"--lr", "1", "--lr", "2"}) == "--lr: given 2 times or as a list; expected one value");
  CHECK(complaint({"--steps", "1.5"}) == "--steps: \"1.5\" is not a whole number");
  CHECK(complaint({"--steps", "99999999999999999999"}) == "--steps: \"99999999999999999999\" is too large");
  CHECK(complaint({"--pack=maybe"}) == "--pack: \"maybe\" is neither true nor false");
  CHECK(complaint({"--optimizer=adam"}) == "--optimizer: \"adam\" is none of adamw, sgd, muon; did you mean adamw?");
  CHECK(complaint({"--preset", "x"}) == "--preset: \"x\" is none of fast");
  CHECK(complaint({"--lorra-targets", "q"}) == "--lorra-targets unknown, did you mean --lora-targets?");
  CHECK(complaint({"--larning-rate", "1"}) == "--larning-rate unknown, did you mean --lr?");
  CHECK(complaint({"--zzzz"}) == "--zzzz unknown; see facet sample --help");
  CHECK(complaint({"-z"}) == "-z unknown; see facet sample --help");
  CHECK(complaint({"--set", "lr"}) == "--set: \"lr\" is not of the form key=value");
  CHECK(complaint({"--set", "trian.lr=1"}) == "--set trian.lr: section \"trian\" unknown, did you mean \"train\"?");
  CHECK(complaint({"--pack", "--batch", "1"}) == "--pack needs more than --batch 1");
  CHECK(complaint({"--config", "/nowhere.yaml"}) == "--config: no such file: /nowhere.yaml");
  Variable v("FACET_BATCH", "x");
  CHECK(complaint({}) == "FACET_BATCH: \"x\" is not a number");
}

TEST_CASE("options: broken config files are complaints, never crashes") {
  const auto with = [](const std::string& text) {
    File file(text);
    std::string c = complaint({"-c", file.path});
    const size_t at = c.find(file.path);
    return at == 0 ? "F" + c.substr(file.path.size()) : c;
  };
  CHECK(with("lrr: 1") == "F:1: lrr unknown, did you mean lr?");
  CHECK(with("\ntrain:\n  lorra: 1") == "F:3: train.lorra unknown; see facet sample --help");
  CHECK(with("train: {lr: 1, lr: 2}") == "F:1: train.lr: key given twice");
  CHECK(with("lr: [1, 2]") == "F:1: lr: given 2 times or as a list; expected one value");
  CHECK(with("a: {b: {c: 1}}") == "F:1: a.b: sections do not nest");
  // Files that unfold when a tree is made of them, or hold themselves.
  CHECK(with("lr: &x 1\nsteps: 2") == "F:1: anchors (&name) are not supported");
  CHECK(with("lr: 1\nstop: &x [*x]") == "F:2: anchors (&name) are not supported");
  CHECK(with("lr: *x") != "");
  CHECK(with("stop: " + std::string(65, '[') + std::string(65, ']')) == "F:1: nested deeper than 64 levels");
  CHECK(with("stop: " + std::string(100'000, '[')) == "F:1: nested deeper than 64 levels");
  CHECK(with("help: true") == "F:1: help: only a flag, not for a config file");
  CHECK(with("- 1") == "F: expected lines of the form \"key: value\"");
  CHECK(with("").empty());
  CHECK(with("lr: {").rfind("F:", 0) == 0);
  CHECK(with("\"\\x").rfind("F:", 0) == 0);
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 12; ++i) {
    bomb += fmt::format("a{}: &a{} [", i, i);
    for (int k = 0; k < 10; ++k) bomb += fmt::format("*a{},", i - 1);
    bomb += "x]\n";
  }
  CHECK(with(bomb).rfind("F:", 0) == 0);
  CHECK(with(std::string(100000, '[')).rfind("F:", 0) == 0);
}

TEST_CASE("options: the help page shows every option with its default") {
  Parsed p({"--help", "--bos"});
  CHECK(p.help);
  const std::string page = p.options.help("Try things", "", true);
  for (const Option& o : p.options.list()) CHECK(page.find("--" + o.name) != std::string::npos);
  CHECK(page.find("peak rate [0.0003] (also --learning-rate)") != std::string::npos);
  CHECK(page.find("adamw/sgd/muon") != std::string::npos);
  CHECK(page.find("start token [on; --no-bos]") != std::string::npos);
  CHECK(p.options.help("Try things", "", false).find("learning-rate") == std::string::npos);
}

TEST_CASE("nearest: one edit, one swap, nothing far") {
  const std::vector<std::string> names{"lora-rank", "lora-alpha", "lr", "batch"};
  CHECK(facet::nearest("lorra-rank", names) == "lora-rank");
  CHECK(facet::nearest("rl", names) == "lr");
  CHECK(facet::nearest("bacth", names) == "batch");
  CHECK(facet::nearest("zebra", names).empty());
}
