/* SPDX-License-Identifier: MIT */
/* Adding tensors to the plan of a synthetic checkpoint: sizes are such that activations keep theirs. */
#ifndef ZM_MODEL_SYNTH_TENSORS_H
#define ZM_MODEL_SYNTH_TENSORS_H

#include "model/synth_plan.h"

/* Of queries and keys. Sharp attention makes a token depend on all before it, else the text soon repeats. */
#define ZM_SYNTH_QUERY_GAIN 2.0

typedef struct zm_synth_linear {
    int experts, out, in; /* experts 0: one matrix */
    bool bias;
    double gain; /* of the output's size over the input's */
    bool is_router, is_mxfp4;
} zm_synth_linear;

/* "<path>.<part>" of uniform values with that mean and standard deviation. */
void zm_synth_add_values(zm_synth_plan *plan, const char *path, const char *part, const int shape[3],
                         zm_synth_fill fill, double mean, double deviation);
void zm_synth_add_norm(zm_synth_plan *plan, const char *path, int size, double mean);
/* Quantised as the plan says where the group size divides in. */
void zm_synth_add_linear(zm_synth_plan *plan, const char *path, zm_synth_linear map);

/* A name inside layer: "model.layers.<layer>.<rest>"; NULL never comes back, an empty text may. */
const char *zm_synth_in_layer(zm_synth_plan *plan, int layer, const char *rest);
void zm_synth_add_layer_linear(zm_synth_plan *plan, int layer, const char *rest, zm_synth_linear map);
void zm_synth_add_layer_norm(zm_synth_plan *plan, int layer, const char *rest, int size);

/* The layers and the rest of a model whose mixtures are grouped (arch/grouped_moe.h); its config is valid. */
zmlx_status zm_synth_add_grouped(zm_synth_plan *plan, const char *model_type, zmlx_error *error);

#endif
