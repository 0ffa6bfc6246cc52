#include "models/gemma/peft.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <set>

#include "models/gemma/model.h"
#include "models/gemma/names.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/text.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";
constexpr std::string_view prefix = "base_model.model.";
// What is left to people whose adapter is more than A and B.
constexpr const char* way_out = "; PEFT can fold it into its base (merge_and_unload, then save_pretrained): use that folder as the model";

// ---- adapter_config.json

class Config {
 public:
  explicit Config(const std::string& path) : path_(path), json_(read_json(path)) {
    if (!json_.is_object()) fail(Kind::file, "{}: expected an object, found {}", path_, type_name(json_));
  }

  LoraOptions read() {
    if (json_.value("peft_type", Json()) != "LORA") wrong("peft_type", "\"LORA\" (of PEFT's methods, LoRA and DoRA are read)");
    refuse_what_is_not_computed();
    LoraOptions o;
    o.rank = static_cast<int64_t>(whole("r", json_.value("r", Json(8))));
    o.alpha = number("lora_alpha", json_.value("lora_alpha", Json(8)), 0, 1e9);
    o.dropout = number("lora_dropout", json_.value("lora_dropout", Json(0)), 0, 1);
    if (o.dropout >= 1) wrong("lora_dropout", "a number below 1");
    o.rslora = flag("use_rslora");
    o.dora = flag("use_dora");
    ranks_ = pattern("rank_pattern");
    alphas_ = pattern("alpha_pattern");
    return o;
  }

  std::string base() const {
    const auto at = json_.find("base_model_name_or_path");
    return at != json_.end() && at->is_string() ? at->get<std::string>() : std::string();
  }

  // Names that modules of the base go by; none where they are an expression, or not all modules of a name are meant.
  std::vector<std::string> targets() const {
    std::vector<std::string> list;
    for (const char* part : {"layers_to_transform", "exclude_modules"})
      if (const auto at = json_.find(part); at != json_.end() && !at->is_null() && !at->empty()) return list;
    if (const auto at = json_.find("target_modules"); at != json_.end() && at->is_array())
      for (const Json& name : *at)
        if (name.is_string()) list.push_back(name.get<std::string>());
    return list;
  }

  // What rank_pattern and alpha_pattern say of a module of the base (Hugging Face's name).
  void apply_patterns(const std::string& module, const std::string& path, LoraOptions& o) const {
    if (const Json* v = find(ranks_, "rank_pattern", module)) o.ranks[path] = static_cast<int64_t>(whole("rank_pattern", *v));
    if (const Json* v = find(alphas_, "alpha_pattern", module)) o.alphas[path] = number("alpha_pattern", *v, 0, 1e9);
  }

 private:
  using Pattern = std::vector<std::pair<std::string, Json>>;

  [[noreturn]] void wrong(const char* key, const std::string& expected, const char* next = "") const {
    const auto at = json_.find(key);
    fail(Kind::file, "{}: \"{}\": expected {}, found {}{}", path_, key, expected,
         at == json_.end() ? "nothing" : printable(at->dump(-1, ' ', false, Json::error_handler_t::replace), 60), next);
  }
  double number(const char* key, const Json& v, double least, double most) const {
    const double d = v.is_number() ? v.get<double>() : -1;
    const bool positive = std::string_view(key).find("alpha") != std::string_view::npos;
    if (!(d >= least && d <= most) || (d == 0 && positive)) wrong(key, fmt::format("numbers {} {} to {}", positive ? "above" : "from", least, most));
    return d;
  }
  double whole(const char* key, const Json& v) const {
    const double d = v.is_number() ? v.get<double>() : -1;
    if (!(d >= 1 && d <= 65'536) || d != std::floor(d)) wrong(key, "whole numbers from 1 to 65536");
    return d;
  }
  bool flag(const char* key) const {
    const Json v = json_.value(key, Json(false));
    if (!v.is_boolean()) wrong(key, "true or false");
    return v.get<bool>();
  }

  Pattern pattern(const char* key) const {
    Pattern list;
    const auto at = json_.find(key);
    if (at == json_.end() || at->is_null()) return list;
    if (!at->is_object()) wrong(key, "an object");
    for (const auto& [name, v] : at->items()) {
      // PEFT takes these keys as regular expressions; names are enough for what people write, and names cannot run away.
      if (name.substr(name.starts_with('^')).find_first_of("\\^$*+?()[]{}|") != name.npos)
        fail(Kind::file, "{}: \"{}\": \"{}\" is an expression; module names and paths are supported{}", path_, key, printable(name, 60), way_out);
      list.emplace_back(name, v);
    }
    return list;
  }
  const Json* find(const Pattern& pattern, const char* key, const std::string& module) const {
    const Json* found = nullptr;
    for (const auto& [name, v] : pattern) {
      const bool hit = name.starts_with('^') ? module == name.substr(1) : module == name || module.ends_with("." + name);
      if (!hit) continue;
      if (found && *found != v) fail(Kind::file, "{}: \"{}\": two keys speak of \"{}\" and differ", path_, key, module);
      found = &v;
    }
    return found;
  }

  // Keys that change nothing about the arithmetic of a finished adapter may hold anything. Others that are on, known to us or not,
  // would change it.
  void refuse_what_is_not_computed() const {
    static const std::set<std::string> harmless = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern",
                                                   "alpha_pattern", "auto_mapping", "inference_mode", "init_lora_weights", "eva_config",
                                                   "use_dora", "use_rslora", "runtime_config"};
    for (const auto& [key, v] : json_.items()) {
      const bool on = v == true || ((v.is_object() || v.is_array()) && !v.empty());
      if (on && !harmless.count(key))
        fail(Kind::file, "{}: \"{}\" is set to {}; adapters with it are not supported{}", path_, printable(key, 60),
             printable(v.dump(-1, ' ', false, Json::error_handler_t::replace), 60), way_out);
    }
    if (const Json v = json_.value("bias", Json("none")); v != "none") wrong("bias", "\"none\"", way_out);
    // PiSSA, OLoRA, CorDA and LoftQ take something out of the base; the adapter alone is not what was trained.
    const Json init = json_.value("init_lora_weights", Json(true));
    if (init.is_string() && init != "gaussian" && init != "eva" && init != "orthogonal")
      wrong("init_lora_weights", "true, false, \"gaussian\", \"eva\" or \"orthogonal\"", way_out);
  }

  std::string path_;
  Json json_;
  Pattern ranks_, alphas_;
};

// ---- tensor names

struct Part {
  std::string_view ending;
  Tensor AdapterModule::*member;
  int rank;
  bool of_table;
};
constexpr Part parts[] = {{".lora_A.weight", &AdapterModule::a, 2, false},
                          {".lora_B.weight", &AdapterModule::b, 2, false},
                          {".lora_magnitude_vector", &AdapterModule::magnitude, 1, false},
                          {".lora_magnitude_vector.weight", &AdapterModule::magnitude, 1, false},
                          {".lora_embedding_A", &AdapterModule::a, 2, true},
                          {".lora_embedding_B", &AdapterModule::b, 2, true}};
constexpr std::string_view base_table = ".embed_tokens.base_layer.weight";

// Whether transformers keeps a folder's decoder beside an image tower, which has a q_proj, k_proj and v_proj too.
bool has_image_tower(const std::string& folder) {
  const fs::path path = fs::path(folder) / "config.json";
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  const Json config = read_json(path.string());
  return config.is_object() && config.contains("text_config") && config.contains("vision_config");
}

std::string shape_text(const Tensor& t) { return t ? to_string(t.shape()) : "none"; }

}  // namespace

bool is_adapter_folder(const std::string& folder) {
  std::error_code ignored;
  return fs::exists(fs::path(folder) / config_name, ignored);
}

AdapterFile read_adapter(const std::string& folder) {
  const auto in = [&](const char* name) { return (fs::path(folder) / name).string(); };
  std::error_code ignored;
  if (!fs::exists(in(config_name), ignored)) {
    const std::string there = !fs::exists(folder, ignored)         ? "there is no such folder"
                              : !fs::is_directory(folder, ignored) ? "that is a file; give the folder around it"
                              : is_adapter_folder(in("final"))     ? fmt::format("did you mean {}?", in("final"))
                              : fs::exists(in("config.json"), ignored) ? "it looks like a whole model, which needs no --adapter: give it as the model"
                                                                       : "did training get as far as writing it?";
    fail(Kind::file, "adapter: no {} in {}; expected a folder as PEFT lays it out ({} and {}); {}", config_name, folder, config_name, weights_name, there);
  }
  if (!fs::exists(in(weights_name), ignored))
    fail(Kind::file, "adapter: no {} in {}{}", weights_name, folder,
         fs::exists(in("adapter_model.bin"), ignored) ? "; adapter_model.bin can hold code and is not read: save it as safetensors with PEFT"
                                                      : ", though its adapter_config.json is there; was the folder copied as a whole?");
  Config config(in(config_name));
  AdapterFile file;
  file.path = folder;
  file.options = config.read();
  file.options.targets.clear();
  file.base = config.base();
  file.targets = config.targets();

  const Safetensors weights(in(weights_name));
  if (const auto at = weights.metadata().find("facet.base_hash"); at != weights.metadata().end()) file.base_hash = at->second;
  if (const auto at = weights.metadata().find("facet.base_width"); at != weights.metadata().end())
    std::from_chars(at->second.data(), at->second.data() + at->second.size(), file.base_width);

  std::map<std::string, std::string> module_of;  // our path -> the base's name
  for (const auto& [name, info] : weights.tensors()) {
    const auto refuse = [&, &name = name](const char* why) { fail(Kind::file, "{}: \"{}\" {}", weights.path(), printable(name), why); };
    if (!name.starts_with(prefix)) refuse("is no tensor of an adapter: expected base_model.model. in front");
    if (info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F16" && info.dtype != "F64") refuse("is not F32, BF16, F16 or F64");
    const std::string inner = name.substr(prefix.size());
    if (role_of(inner) == WeightRole::vision) {
      ++file.aside;
      continue;
    }
    if (inner == "lm_head.base_layer.weight") continue;  // a tied table again; lora_A of the head speaks for itself
    if (inner.ends_with(base_table)) {
      file.table = weights.load(name);
      continue;
    }
    const auto part = std::find_if(std::begin(parts), std::end(parts), [&](const Part& p) { return inner.ends_with(p.ending); });
    if (part == std::end(parts)) refuse("is not part of LoRA or DoRA: expected lora_A, lora_B, lora_magnitude_vector, lora_embedding_A or lora_embedding_B");
    const std::string module = inner.substr(0, inner.size() - part->ending.size()), path = module_name(module);
    if (module == "lm_head") refuse("is of the head, on which adapters are not supported; train one without lm_head in its target_modules");
    if (path == "embed_tokens" && part->member == &AdapterModule::magnitude) refuse("belongs to DoRA on the embedding, which is not supported");
    if (module_of.emplace(path, module).first->second != module) refuse("is there under two names");
    if (info.shape.rank != part->rank || info.shape.numel() == 0) refuse(part->rank == 2 ? "is no matrix" : "is no vector");
    if (part->of_table != (path == "embed_tokens")) refuse(part->of_table ? "belongs to an embedding" : "is of another kind of module");
    Tensor& to = file.modules[path].*part->member;
    if (to) refuse("is there twice");
    to = weights.load(name);
  }
  if (file.modules.empty())
    fail(Kind::file, "{}: holds no adapter{}", weights.path(), file.aside ? " of the language model, only of the image tower" : "");

  for (auto& [path, m] : file.modules) {
    config.apply_patterns(module_of[path], path, file.options);
    const int64_t r = file.options.rank_at(path);
    if (!m.a || !m.b) fail(Kind::file, "{}: \"{}\" has lora_{} but no lora_{}", weights.path(), path, m.a ? "A" : "B", m.a ? "B" : "A");
    if (m.a.dim(0) != r || m.b.dim(1) != r)
      fail(Kind::file, "{}: \"{}\": lora_A is {}, lora_B is {}; {} says rank {}", weights.path(), path, shape_text(m.a), shape_text(m.b), config_name, r);
    if (static_cast<bool>(m.magnitude) != (file.options.dora && path != "embed_tokens"))
      fail(Kind::file, "{}: \"{}\" has {} lora_magnitude_vector; {} says use_dora {}", weights.path(), path, m.magnitude ? "a" : "no", config_name,
           file.options.dora);
    if (file.options.dora && path == "embed_tokens") fail(Kind::file, "{}: DoRA on the embedding is not supported", weights.path());
    if (m.magnitude && m.magnitude.dim(0) != m.b.dim(0))
      fail(Kind::file, "{}: \"{}\": lora_magnitude_vector is {}, lora_B is {}", weights.path(), path, shape_text(m.magnitude), shape_text(m.b));
    if (!file.base_width) {  // told by the shapes when nobody wrote it down
      const bool writes = path.ends_with("o_proj") || path.ends_with("down_proj") || path == "embed_tokens";
      file.base_width = writes ? m.b.dim(0) : m.a.dim(1);
    }
    m.scale = file.options.scale(path);
    file.options.targets.push_back(path);
  }
  return file;
}

void check_adapter(const AdapterFile& file, const GemmaConfig& c, const std::string& base_hash) {
  std::map<std::string, Shape> shapes;  // [O, I] by module
  std::vector<std::string> paths;
  for (const WeightShape& w : weights_of(c)) {
    const std::string path = w.name.substr(0, w.name.rfind('.'));
    if (w.shape.rank != 2 || path == "lm_head") continue;
    shapes[path] = w.shape;
    paths.push_back(path);
  }
  const auto other_base = [&](const std::string& detail) {
    const auto text = [](const std::string& hash, int64_t width) {
      return fmt::format("{}{}hidden {}", hash, hash.empty() ? "" : " ", width);
    };
    fail(Kind::file, "{}: adapter was trained on base {}; this model is {}{}{}", file.path, text(printable(file.base_hash, 16), file.base_width),
         text(base_hash, c.width), detail, file.base.empty() ? "" : fmt::format("; its config names the base \"{}\"", printable(file.base, 100)));
  };
  if (file.base_width && file.base_width != c.width) other_base("");
  for (const auto& [path, m] : file.modules) {
    const auto at = shapes.find(path);
    if (at == shapes.end()) {
      const std::string close = nearest(path, paths);
      fail(Kind::file, "{}: the adapter is for a module \"{}\" that this model ({} layers) does not have{}", file.path, printable(path), c.layers,
           close.empty() ? "" : ", nearest: " + close);
    }
    const bool table = path == "embed_tokens";
    const int64_t outputs = at->second[table ? 1 : 0], inputs = at->second[table ? 0 : 1];
    if (m.a.dim(1) != inputs || m.b.dim(0) != outputs)
      other_base(fmt::format(": \"{}\" has lora_A {} and lora_B {}, expected [r, {}] and [{}, r]", path, shape_text(m.a), shape_text(m.b), inputs, outputs));
  }
  for (const std::string& target : file.targets) {
    std::vector<std::string> missing;
    for (const std::string& path : paths)
      if (!file.modules.count(path) && (path == module_name(target) || hf_name(path).ends_with("." + target))) missing.push_back(path);
    if (!missing.empty())
      fail(Kind::file, "{}: {} has no tensors for \"{}\"{}, which target_modules \"{}\" asks for; is the file whole?", file.path, weights_name,
           missing[0], missing.size() > 1 ? fmt::format(" and {} more", missing.size() - 1) : "", printable(target, 60));
  }
  if (file.table && !(file.table.shape() == shapes["embed_tokens"]))
    other_base(fmt::format(": its embedding is {}, expected {}", shape_text(file.table), to_string(shapes["embed_tokens"])));
  if (!base_hash.empty() && !file.base_hash.empty() && file.base_hash != base_hash) other_base("");
}

void check_adapter_table(const AdapterFile& file, const Tensor& table) {
  WeightHash a(WeightHash::Of::bf16), b(WeightHash::Of::bf16);
  a.add("", file.table), b.add("", table);
  if (a.value() != b.value())
    fail(Kind::file, "{}: the adapter comes with an embedding of its own, which is not this model's; such adapters are not supported", file.path);
}

void load_adapter(Adapters& adapters, const std::string& name, const AdapterFile& file) {
  auto* model = dynamic_cast<Gemma*>(&adapters.model());
  if (!model) fail(Kind::usage, "load_adapter: expected a Gemma");
  check_adapter(file, model->config, file.base_hash.empty() ? "" : hash_text(base_hash(*model, WeightHash::Of::bf16)));
  if (file.table) check_adapter_table(file, model->embed_tokens.weight.value());
  adapters.add(name, file.options, key(0));
  for (const auto& [path, f] : adapters.factors(name)) {
    const AdapterModule& m = file.modules.at(path);
    const DType t = f->a.value().dtype();
    f->a.reset((f->of_table ? m.a.transpose(0, 1).clone() : m.a).to(t), true);
    f->b.reset(m.b.to(t), true);
    if (m.magnitude) f->magnitude.reset(m.magnitude.to(t), true);
  }
}

void save_adapter(const std::string& folder, Adapters& adapters, const std::string& name, const std::string& base, bool replace) {
  auto* model = dynamic_cast<Gemma*>(&adapters.model());
  if (!model) fail(Kind::usage, "save_adapter: expected a Gemma");
  const LoraOptions& o = adapters.options(name);
  std::vector<std::pair<std::string, Tensor>> tensors;
  std::set<std::string> adapted, kinds, incomplete;
  Json ranks = Json::object(), alphas = Json::object();
  const auto last = [](const std::string& path) { return path.substr(path.rfind('.') + 1); };
  const bool tower = has_image_tower(base);
  const auto named = [tower](const std::string& path) { return tower ? "model.language_model." + path : hf_name(path); };
  const auto plain = [](double v) { return v == std::floor(v) && std::abs(v) < 1e15 ? Json(static_cast<int64_t>(v)) : Json(v); };
  for (const auto& [path, f] : adapters.factors(name)) {
    adapted.insert(path);
    const std::string module = named(path), before = std::string(prefix) + module;
    const Tensor a = f->a.value().detach(), b = f->b.value().detach();
    tensors.emplace_back(before + (f->of_table ? ".lora_embedding_A" : ".lora_A.weight"), f->of_table ? a.transpose(0, 1).clone() : a);
    tensors.emplace_back(before + (f->of_table ? ".lora_embedding_B" : ".lora_B.weight"), b);
    if (f->magnitude.value()) tensors.emplace_back(before + ".lora_magnitude_vector", f->magnitude.value().detach());
    if (o.rank_at(path) != o.rank) ranks[module] = o.rank_at(path);
    if (o.alpha_at(path) != o.alpha) alphas[module] = plain(o.alpha_at(path));
  }
  // Names where every module of that name is adapted, else whole paths.
  for (const std::string& path : adapters.modules())
    if (!adapted.count(path)) incomplete.insert(last(path));
  if (tower) incomplete.insert({"q_proj", "k_proj", "v_proj"});
  for (const std::string& path : adapted) kinds.insert(incomplete.count(last(path)) ? named(path) : last(path));

  const Json config = {{"alpha_pattern", alphas},
                       {"base_model_name_or_path", base},
                       {"bias", "none"},
                       {"fan_in_fan_out", false},
                       {"inference_mode", true},
                       {"init_lora_weights", true},
                       {"lora_alpha", plain(o.alpha)},
                       {"lora_dropout", o.dropout},
                       {"modules_to_save", nullptr},
                       {"peft_type", "LORA"},
                       {"r", o.rank},
                       {"rank_pattern", ranks},
                       {"target_modules", kinds},
                       {"task_type", "CAUSAL_LM"},
                       {"use_dora", o.dora},
                       {"use_rslora", o.rslora}};
  StagedFolder staged(folder);
  write_file_atomically((fs::path(staged.path()) / config_name).string(), config.dump(2) + "\n");
  save_safetensors((fs::path(staged.path()) / weights_name).string(), tensors,
                   {{"format", "pt"},
                    {"facet.base_hash", hash_text(base_hash(*model, WeightHash::Of::bf16))},
                    {"facet.base_width", std::to_string(model->config.width)}});
  staged.commit(replace);
}

}  // namespace facet
