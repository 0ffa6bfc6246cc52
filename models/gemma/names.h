// One table of Gemma's weights in three spellings:
//   ours      layers.3.self_attn.q_proj.weight       [H*Dh, D]    what modules and checkpoints say
//   HF        model.layers.3.self_attn.q_proj.weight [H*Dh, D]    ours behind one of several prefixes
//   DeepMind  transformer/layer_3/attn/q_einsum/w    [H, D, Dh]   flat flax names, some weights fused or transposed
// Sources: transformers modeling_gemma3.py, convert_gemma3_weights.py; google-deepmind/gemma gm/nn/_modules.py.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/gemma/config.h"
#include "tensor/io/tensor_files.h"

namespace facet {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

struct WeightShape {
  std::string name;  ///< ours
  Shape shape;
};
/// Every weight of a model of this config, in the order modules list them.
std::vector<WeightShape> weights_of(const GemmaConfig&);

/// What a tensor of a checkpoint is, by its name.
enum class WeightRole : uint8_t { decoder, head, vision, buffer, unknown };
WeightRole role_of(std::string_view hf_name);
/// Our name of an HF name: without "model.", "language_model.model." or "model.language_model."; other names come back as they are.
std::string module_name(const std::string& hf_name);
/// The name in a text-only HF checkpoint.
std::string hf_name(const std::string& ours);

/// How the axes of a weight in a file lie in ours: of heads [n, D, Dh] in [n Dh, D], of output [H, Dh, D] in [D, H Dh].
enum class Axes : uint8_t { same, heads, output, transposed };
/// A window on one of our weights that has the axes of the file.
Tensor window_on(const Tensor& ours, Axes, const GemmaConfig&);

/// A weight in a file: a tensor or a part of one.
struct WeightPlace {
  std::string name;  ///< of the tensor, as the file spells it
  TensorInfo info;
  Axes axes = Axes::same;
};
/// Looks a flat flax name up; null when there is none.
using FlaxLookup = std::function<const WeightPlace*(const std::string& flat)>;
/// Where one of our weights lies in a DeepMind tree. Both layouts of the gate ([2, F, D] and [2, D, F]) and of fused q, k, v are
/// understood. Returns what is wrong, the flat name that is missing or has another shape, or "".
std::string find_flax(const GemmaConfig&, const std::string& ours, const FlaxLookup&, WeightPlace& place);
/// All weights under flat flax names. `gate_rows_first`: [2, F, D], the layout of Gemma 2 9B and later; Gemma 2 2B has [2, D, F].
NamedTensors to_flax(const GemmaConfig&, const NamedTensors& ours, bool gate_rows_first = true);

}  // namespace facet
