// The pages of contracts, one per file of this folder. A new page is a line here and one in contracts.cpp.
#pragma once
#include "tests/contracts/contract.h"

namespace facet::test {

Contracts adapter_gradients_contracts();
Contracts add_linear_contracts();
Contracts add_rms_norm_contracts();
Contracts attention_contracts();
Contracts dropout_contracts();
Contracts einsum_contracts();
Contracts elementwise_contracts();
Contracts embedding_contracts();
Contracts gather_contracts();
Contracts geglu_contracts();
Contracts layer_norm_contracts();
Contracts linear_contracts();
Contracts linear_adapted_contracts();
Contracts linear_cross_entropy_contracts();
Contracts linear_log_probs_contracts();
Contracts matmul_contracts();
Contracts norm_rope_contracts();
Contracts reduce_contracts();
Contracts rms_norm_contracts();
Contracts shape_contracts();
Contracts softmax_contracts();

}  // namespace facet::test
