// The loss of a recorded training pass, replayed where the same rows carry it and launched where they differ.
#include "nn/body_graphs.h"
#include "tests/gpu/tiny_model.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("recorded loss: other rows, other weights, none, rows that come back, other memory: the bits of eager passes") {
  gpu::emulate(true);
  const auto masked = [](uint32_t seed, int64_t from) {
    Batch b = batch_of(plain_tokens(randint(key(seed), {2, 9}, 0, small_config().vocab)));
    for (int64_t i = from; i < b.labels.numel(); ++i) {
      int32_t& label = b.labels.out().as<int32_t>()[i];
      b.supervised -= label >= 0;
      label = -1;
    }
    return b;
  };
  std::vector<double> losses, values;
  for (const bool graphs : {false, true}) {
    const auto model = small_model();
    model->to(Device::gpu);
    if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
    std::vector<double> now, end;
    AdamW optimizer({{.parameters = parameters(*model)}});
    optimizer.keep_gradients(true);
    // All rows, half of them, none, all again; then gradients elsewhere, and everything is recorded anew. The weight changes in every step.
    const int64_t learned[] = {99, 99, 99, 99, 99, 9, 9, 9, 0, 99, 99, 99, 99, 99, 99, 99};
    for (uint32_t step = 0; step < std::size(learned); ++step) {
      if (step == 11)
        for (Parameter* p : parameters(*model)) p->clear_grad();
      now.push_back(batch_loss(*model, masked(step, learned[step]), 1.0 / (3 + step % 2)));
      optimizer.step(1e-3);
    }
    for (Parameter* p : parameters(*model))
      for (double v : p->value().detach().to_vector()) end.push_back(v);
    if (graphs) CHECK(model->graphs->loss_replays() == 7);
    if (losses.empty()) losses = now, values = end;
    CHECK(now == losses);
    CHECK((end == values));
  }
}
