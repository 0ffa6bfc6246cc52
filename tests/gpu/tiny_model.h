// The tiny Gemma 3 of the goldens on the emulated GPU, something to read, and a few steps of training.
#pragma once
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "optim/adamw.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tests/support/goldens.h"
#include "train/sft.h"

namespace facet::test {

inline std::unique_ptr<Gemma> tiny(Device device, DType storage = DType::f32) {
  gpu::emulate(true);
  const std::string dir = std::string(FACET_GOLDENS) + "/gemma3-tiny";
  auto model = std::make_unique<Gemma>(read_hf_config(dir), storage);
  load_weights(dir, model->config, named_values(*model));
  model->to(device);
  return model;
}

inline Tokens tokens_of(const std::string& set) {
  const Golden g("gemma3-tiny-ref/taps.safetensors");
  return masked_tokens(g[set + ".input_ids"], g[set + ".attention_mask"]);
}

inline Batch batch_of(const Tokens& t) {
  Batch b;
  b.ids = t.ids, b.positions = t.positions;
  b.labels = Tensor::full(t.ids.shape(), -1, DType::i32);
  int32_t* label = b.labels.out().as<int32_t>();
  for (int64_t i = 0; i < t.ids.dim(0); ++i)
    for (int64_t j = 0; j + 1 < t.ids.dim(1); ++j)
      if (t.positions.at({i, j}) >= 0 && t.positions.at({i, j + 1}) >= 0) {
        label[i * t.ids.dim(1) + j] = static_cast<int32_t>(t.ids.at({i, j + 1}));
        ++b.supervised;
      }
  b.tokens = t.ids.numel();
  return b;
}

/// A few steps of training; their losses.
inline std::vector<double> train(Gemma& model, const std::vector<Batch>& batches, int steps) {
  AdamW optimizer({{.parameters = parameters(model)}});
  optimizer.keep_gradients(model.device() == Device::gpu);
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    losses.push_back(accumulate_sft(model, batches).loss);
    optimizer.step(1e-3, optimizer.clip(1.0).scale);
  }
  return losses;
}

}  // namespace facet::test
