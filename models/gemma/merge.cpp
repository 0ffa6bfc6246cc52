#include "models/gemma/merge.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <optional>

#include "models/gemma/hf.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/gemm.h"
#include "tensor/parallel.h"
#include "tensor/pool_vector.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

constexpr const char *base_key = "facet.merge.base", *adapter_key = "facet.merge.adapter",
                     *scale_key = "facet.merge.scale", *head_key = "facet.merge.head", *report_name = "merge.json";

// ---- one matrix

// The distance between neighbours in a floating-point format around x.
struct Ulp {
  double of_binade, least_normal;
  explicit Ulp(DType t)
      : of_binade(std::ldexp(1, t == DType::bf16  ? -7
                                : t == DType::f32 ? -23
                                                  : -52)),
        least_normal(t == DType::f64 ? 0x1p-1022 : 0x1p-126) {}
  double operator()(double x) const {
    const double binade = std::bit_cast<double>(std::bit_cast<uint64_t>(x) & 0x7ff0'0000'0000'0000u);  // 2^exponent
    return std::max(binade, least_normal) * of_binade;
  }
};

// DoRA's last step: row o of x brought to length m_o.
void scale_rows(const Tensor& x, const Tensor& m) {
  const int64_t columns = x.dim(1);
  double* p = x.out().as<double>();
  const double* length = m.data<double>().data();
  parallel_for(x.dim(0), 1, 3 * columns, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      double squares = 0;
      for (int64_t i = 0; i < columns; ++i) squares += p[o * columns + i] * p[o * columns + i];
      const double c = length[o] / std::sqrt(squares);
      for (int64_t i = 0; i < columns; ++i) p[o * columns + i] *= c;
    }
  });
}

// What became of the elements of a block: as they were, as they should be, as they are stored now. `old_rounded`: the
// old values carry the rounding of the merge that is being undone, so the base lies within half an ulp of them.
MergedModule account(std::span<const double> old, std::span<const double> exact, std::span<const double> now,
                     const Ulp& ulp, bool old_rounded) {
  constexpr int64_t chunk = 1 << 14;
  const auto n = std::ssize(old);
  pool_vector<MergedModule> parts(static_cast<size_t>((n + chunk - 1) / chunk));
  parallel_for(n, chunk, 8, [&](int64_t begin, int64_t end) {
    MergedModule& s = parts[static_cast<size_t>(begin / chunk)];
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const double update = std::abs(exact[i] - old[i]), rounding = std::abs(now[i] - exact[i]);
      const double error = old_rounded ? rounding + ulp(old[i]) / 2 : rounding;
      const double unit = ulp(old_rounded ? std::max(std::abs(old[i]), std::abs(now[i])) : exact[i]);
      s.touched += update > 0;
      s.lost += update > 0 && now[i] == old[i];
      s.update = std::max(s.update, update);
      s.error = std::max(s.error, error);
      s.ulps = std::max(s.ulps, error / unit);
      s.update_squares += update * update;
      s.error_squares += error * error;
    }
    s.elements = end - begin;
  });
  MergedModule sum;
  for (const MergedModule& s : parts) sum.add(s);
  return sum;
}

// w, as stored, becomes w + s B A, or w - s B A.
MergedModule fold(const Tensor& w, const AdapterModule& m, bool of_table, bool take_out) {
  constexpr int64_t elements = 1 << 16;  // at a time: 512 KiB in f64, of which there are five
  Tensor left = m.b.to(DType::f64), right = m.a.to(DType::f64);
  if (of_table) left = m.a.to(DType::f64).transpose(0, 1), right = m.b.to(DType::f64).transpose(0, 1);
  const Tensor magnitude = m.magnitude ? m.magnitude.to(DType::f64) : Tensor();
  const Ulp ulp(w.dtype());
  const int64_t rows = w.dim(0), step = std::max<int64_t>(1, elements / std::max<int64_t>(1, w.dim(1)));
  MergedModule sum;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(begin + step, rows);
    const Tensor part = w.slice(0, begin, end);
    const Tensor old = part.to(DType::f64), exact = Tensor::empty(part.shape(), DType::f64);
    copy(old.view(), exact.out());
    gemm(left.slice(0, begin, end).view(), right.view(), exact.out(true), take_out ? -m.scale : m.scale);
    if (magnitude) scale_rows(exact, magnitude.slice(0, begin, end));
    const Tensor rounded = exact.to(w.dtype());
    sum.add(account(old.data<double>(), exact.data<double>(), rounded.to(DType::f64).data<double>(), ulp, take_out));
    copy(rounded.view(), part.out());
  }
  return sum;
}

// ---- folders

// A folder of Gemma's weights, opened and checked.
struct Folder {
  std::string path;
  GemmaConfig config;
  Safetensors weights;
  std::string table, head;  // as the file spells them; no head: ""

  explicit Folder(const std::string& p) : path(p), config(read_hf_config(p)), weights(p) {
    check_weights(weights, config);
    for (const auto& [name, info] : weights.tensors()) {
      const WeightRole role = role_of(name);
      if (role == WeightRole::head) head = name;
      if (role == WeightRole::decoder && module_name(name) == "embed_tokens.weight") table = name;
    }
    if (table.empty())
      fail(Kind::file, "{}: its weights are not under Hugging Face's names, or not only; make a copy with facet convert first", path);
  }
  // Our name of a weight of the model; "" for what a text model leaves aside.
  std::string ours(const std::string& name) const {
    if (name == head) return config.tied_head ? "" : "lm_head.weight";
    return role_of(name) == WeightRole::decoder ? module_name(name) : "";
  }
  // The path of the module a weight belongs to, for matrices that adapters know.
  static std::string module(const std::string& ours) {
    return ours.ends_with(".weight") ? ours.substr(0, ours.size() - 7) : "";
  }
};

struct Hashes {
  std::string values, bf16;
};
Hashes hashes_of(const Folder& f) {
  WeightHash values(WeightHash::Of::values), rounded(WeightHash::Of::bf16);
  for (const auto& [name, info] : f.weights.tensors())
    if (const std::string ours = f.ours(name); !ours.empty()) {
      const Tensor t = f.weights.load(name);
      values.add(ours, t), rounded.add(ours, t);
    }
  return {hash_text(values.value()), hash_text(rounded.value())};
}

std::string in(const std::string& folder, const std::string& name) { return (fs::path(folder) / name).string(); }
std::string file_name(const std::string& path) { return fs::path(path).filename().string(); }
constexpr const char* index_name = "model.safetensors.index.json";

void copy_file_durably(const std::string& from, const std::string& to) {
  const InputFile source(from);
  DurableFile target(to);
  std::vector<uint8_t> piece(size_t{4} << 20);
  for (uint64_t at = 0; at < source.size(); at += piece.size()) {
    const std::span<uint8_t> now(piece.data(),
                                 static_cast<size_t>(std::min<uint64_t>(piece.size(), source.size() - at)));
    source.read(at, now);
    target.write(now.data(), now.size());
  }
  target.commit();
}

// What a copy of a folder changes.
struct Rewrite {
  std::optional<bool> tie;  // the head becomes tied, or the table's copy; nothing: as it is
  Metadata metadata;
  std::function<void(const std::string& module, const Tensor&)> change;  // of each matrix, in place
  MergeProgress progress;
};

DType stored(const Folder& f, const std::string& name, const TensorInfo& info) {
  for (const DType t : {DType::bf16, DType::f32, DType::f64, DType::i32})
    if (info.dtype == safetensors_dtype(t)) return t;
  fail(Kind::file, "{}: tensor \"{}\" is {}, which is not written here; make a copy with facet convert first", f.path,
       printable(name), info.dtype);
}

std::string with_tie(const std::string& path, bool tied) {
  auto json = nlohmann::ordered_json::parse(read_file(path));  // which read_hf_config() has accepted
  json["tie_word_embeddings"] = tied;
  if (const auto text = json.find("text_config"); text != json.end()) (*text)["tie_word_embeddings"] = tied;
  return json.dump(2) + "\n";
}

// Writes the folder's shards under their names, tensor by tensor.
void write_weights(const Folder& from, const std::string& out, const Rewrite& r, MergeReport& report) {
  const bool drop = r.tie == true && !from.head.empty();
  const std::string added = r.tie == false && from.head.empty() ? "lm_head.weight" : "";
  std::vector<std::vector<TensorSpec>> shards(from.weights.files().size());
  int64_t of = 0;
  const auto place = [&](const std::string& name, const std::string& as) {
    const TensorInfo& info = from.weights.info(name);
    shards[info.file].push_back({as, stored(from, name, info), info.shape});
    report.bytes += info.bytes;
    report.largest_tensor = std::max(report.largest_tensor, info.bytes);
    ++of;
  };
  for (const auto& [name, info] : from.weights.tensors())
    if (!(drop && name == from.head)) place(name, name);
  if (!added.empty()) place(from.table, added);
  check_free_space(out, out, report.bytes);

  int64_t done = 0;
  const TensorSource source = [&](const std::string& name) {
    if (r.progress) r.progress(++done, of);
    if (name == added) return from.weights.load(from.table);
    const Tensor t = from.weights.load(drop && name == from.table ? from.head : name);
    if (const std::string ours = from.ours(name); !ours.empty() && t.rank() == 2) r.change(Folder::module(ours), t);
    return t;
  };
  for (size_t i = 0; i < shards.size(); ++i)
    save_safetensors(in(out, file_name(from.weights.files()[i])), shards[i], source, r.metadata);

  const std::string index = in(from.path, index_name);
  if (!fs::exists(index)) return;
  Json json = read_json(index, uint64_t{64} << 20);
  if (!added.empty()) json["weight_map"][added] = json["weight_map"][from.table];
  if (drop) json["weight_map"].erase(from.head);
  if (json.contains("metadata") && json["metadata"].is_object()) json["metadata"]["total_size"] = report.bytes;
  write_file_atomically(in(out, index_name), json.dump(2) + "\n");
}

void rewrite(const Folder& from, const std::string& out, const Rewrite& r, MergeReport& report,
             const std::function<void(const std::string&)>& more) {
  StagedFolder staged(out);
  write_weights(from, staged.path(), r, report);
  for (const std::string& name : companion_files(from.path)) {
    if (name == report_name) continue;
    if (name == "config.json" && r.tie)
      write_file_atomically(in(staged.path(), name), with_tie(in(from.path, name), *r.tie));
    else copy_file_durably(in(from.path, name), in(staged.path(), name));
  }
  if (more) more(staged.path());
  staged.commit();
}

// The change of every adapted matrix, which fills the report.
auto folding(const AdapterFile& adapter, MergeReport& report, bool take_out) {
  for (const auto& [path, m] : adapter.modules) report.modules.push_back({.path = path});
  return [&adapter, &report, take_out](const std::string& path, const Tensor& w) {
    const auto m = adapter.modules.find(path);
    if (m == adapter.modules.end()) return;
    MergedModule& entry = report.modules[static_cast<size_t>(std::distance(adapter.modules.begin(), m))];
    entry.add(fold(w, m->second, path == "embed_tokens", take_out));
    if (!std::isfinite(entry.error_squares) || !std::isfinite(entry.update_squares))
      fail(Kind::file, "{}: \"{}\" {} the adapter holds values that are not finite; nothing was written", adapter.path,
           path, take_out ? "less" : "with");
  };
}

std::string scale_text(const AdapterFile& adapter) {
  double least = adapter.modules.begin()->second.scale, most = least;
  for (const auto& [path, m] : adapter.modules) least = std::min(least, m.scale), most = std::max(most, m.scale);
  return least == most ? fmt::format("{}", least) : fmt::format("{} to {}", least, most);
}

MergeRecord record_of(const Folder& f) {
  const auto& all = f.weights.metadata();
  const auto text = [&](const char* key) {
    const auto at = all.find(key);
    return at == all.end() ? "" : printable(at->second, 60);
  };
  MergeRecord r{.base = text(base_key),
                .adapter = text(adapter_key),
                .scale = text(scale_key),
                .own_head = text(head_key) == "own"};
  if (r.base.empty() || r.adapter.empty())
    fail(Kind::file,
         "{}: its weights have no record of a merge ({}, {}); only what facet merge wrote can be taken apart", f.path,
         base_key, adapter_key);
  return r;
}

}  // namespace

double MergedModule::drift() const { return update_squares > 0 ? std::sqrt(error_squares / update_squares) : 0; }

void MergedModule::add(const MergedModule& o) {
  elements += o.elements, touched += o.touched, lost += o.lost;
  update = std::max(update, o.update), error = std::max(error, o.error), ulps = std::max(ulps, o.ulps);
  update_squares += o.update_squares, error_squares += o.error_squares;
}

MergedModule MergeReport::total() const {
  MergedModule sum;
  for (const MergedModule& m : modules) sum.add(m);
  return sum;
}

std::string adapter_hash(const AdapterFile& adapter) {
  WeightHash h;
  for (const auto& [path, m] : adapter.modules) {
    h.add(path + ".lora_A", m.a);
    h.add(path + ".lora_B", m.b);
    if (m.magnitude) h.add(path + ".lora_magnitude_vector", m.magnitude);
    h.add(path + ".scale", Tensor::scalar(m.scale, DType::f64).reshape({1}));
  }
  return hash_text(h.value());
}

std::string folder_hash(const std::string& folder, WeightHash::Of of) {
  const Hashes h = hashes_of(Folder(folder));
  return of == WeightHash::Of::bf16 ? h.bf16 : h.values;
}

MergeRecord merge_record(const std::string& folder) { return record_of(Folder(folder)); }

MergeReport merge_adapter(const std::string& base, const AdapterFile& adapter, const std::string& out,
                          const MergeProgress& progress) {
  const Folder from(base);
  check_adapter(adapter, from.config, "");  // names and shapes, before weights are read
  if (adapter.aside)
    fail(Kind::file,
         "{}: {} of its tensors are for the image tower, which is copied as it is here; the result would be neither model. "
         "PEFT folds both (merge_and_unload)",
         adapter.path, adapter.aside);
  const Hashes hashes = hashes_of(from);
  check_adapter(adapter, from.config, hashes.bf16);
  if (adapter.table) check_adapter_table(adapter, from.weights.load(from.table));

  MergeReport report;
  const bool unties = from.config.tied_head && adapter.modules.count("embed_tokens");
  report.record = {
      .base = hashes.values, .adapter = adapter_hash(adapter), .scale = scale_text(adapter), .own_head = unties};
  Rewrite r{
      .tie = {}, .metadata = from.weights.metadata(), .change = folding(adapter, report, false), .progress = progress};
  if (unties) r.tie = false;
  r.metadata[base_key] = report.record.base;
  r.metadata[adapter_key] = report.record.adapter;
  r.metadata[scale_key] = report.record.scale;
  r.metadata.erase(head_key);
  if (unties) r.metadata[head_key] = "own";
  rewrite(from, out, r, report,
          [&](const std::string& folder) { write_file_atomically(in(folder, report_name), to_json(report) + "\n"); });
  return report;
}

MergeRecord unmerge_with_base(const std::string& merged, const std::string& base, const std::string& out) {
  const MergeRecord record = merge_record(merged);
  const Folder from(base);
  if (const std::string found = hashes_of(from).values; found != record.base)
    fail(Kind::file,
         "{}: was fused from a base whose values hash to {}; those of {} hash to {}. Give the one it came from, or the "
         "adapter in its place",
         merged, record.base, base, found);
  StagedFolder staged(out);
  uint64_t bytes = 0;
  std::vector<std::string> files = from.weights.files();
  if (const std::string index = in(base, index_name); fs::exists(index)) files.push_back(index);
  for (const std::string& name : companion_files(base)) files.push_back(in(base, name));
  for (const std::string& file : files) bytes += InputFile(file).size();
  check_free_space(out, staged.path(), bytes);
  for (const std::string& file : files) copy_file_durably(file, in(staged.path(), file_name(file)));
  staged.commit();
  return record;
}

MergeReport unmerge_with_adapter(const std::string& merged, const AdapterFile& adapter, const std::string& out,
                                 const MergeProgress& progress) {
  const Folder from(merged);
  MergeReport report;
  report.record = record_of(from);
  if (const std::string found = adapter_hash(adapter); found != report.record.adapter)
    fail(Kind::file,
         "{}: was fused with an adapter that hashes to {}; {} hashes to {}. Give the one it came from, or the base in its "
         "place",
         merged, report.record.adapter, adapter.path, found);
  if (adapter.options.dora)
    fail(Kind::usage,
         "{}: a DoRA adapter cannot be subtracted, since the merge forgot the length of the base's rows; give the base",
         adapter.path);
  check_adapter(adapter, from.config, "");
  Rewrite r{.tie = {}, .metadata = from.weights.metadata(), .change = {}, .progress = progress};
  // The head that the merge set apart is the base's table to the bit.
  if (report.record.own_head) r.tie = true;
  const auto fold_out = folding(adapter, report, true);
  r.change = [&](const std::string& path, const Tensor& w) {
    if (!(report.record.own_head && path == "embed_tokens")) fold_out(path, w);
  };
  for (const char* key : {base_key, adapter_key, scale_key, head_key}) r.metadata.erase(key);
  rewrite(from, out, r, report, {});
  return report;
}

std::string to_json(const MergeReport& report) {
  const auto of = [](const MergedModule& m) {
    Json j = {{"elements", m.elements}, {"touched", m.touched}, {"lost", m.lost},    {"update", m.update},
              {"error", m.error},       {"ulps", m.ulps},       {"drift", m.drift()}};
    if (!m.path.empty()) j["module"] = m.path;
    return j;
  };
  Json modules = Json::array();
  for (const MergedModule& m : report.modules) modules.push_back(of(m));
  const Json json = {{"base", report.record.base},
                     {"adapter", report.record.adapter},
                     {"scale", report.record.scale},
                     {"own_head", report.record.own_head},
                     {"bytes", report.bytes},
                     {"total", of(report.total())},
                     {"modules", modules}};
  return json.dump(2);
}

}  // namespace facet
