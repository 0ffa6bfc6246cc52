#include "app/conformance/small_model.h"

#include "tensor/gpu/pool.h"

namespace facet::app {

GemmaConfig small_config(const Conformance& c, int64_t vocab) {
  GemmaConfig g = preset("tiny");
  g.name = "";
  g.layers = c.tiny ? 2 : 4;
  g.kinds = pattern(g.layers, 2);
  g.width = c.tiny ? 32 : 256;
  g.heads = c.tiny ? 2 : 4;
  g.kv_heads = c.tiny ? 1 : 2;
  g.head_dim = c.tiny ? 16 : 64;
  g.query_scale_denominator = static_cast<double>(g.head_dim);
  g.hidden = c.tiny ? 48 : 512;
  g.vocab = vocab > 0 ? vocab : c.tiny ? 48 : 1000;
  g.window = c.tiny ? 6 : 32;
  g.init_std = 0.1;  // logits of size one, so that the best token is a clear one
  g.check();
  return g;
}

std::unique_ptr<Gemma> small_model(const Conformance& c, DType dtype, Device device, int64_t vocab) {
  auto model = std::make_unique<Gemma>(small_config(c, vocab), dtype);
  model->init(key(c.seed));
  model->to(device);
  return model;
}

int64_t device_bytes() { return static_cast<int64_t>(gpu::pool_stats().live_bytes); }

}  // namespace facet::app
