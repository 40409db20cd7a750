/* SPDX-License-Identifier: MIT */
#include "model/arch/build.h"

#include <math.h>
#include <stdio.h>

zm_builder zm_builder_make(zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error) {
    return (zm_builder){.checkpoint = checkpoint,
                        .arena = arena,
                        .config = zm_checkpoint_config(checkpoint),
                        .stream = zm_checkpoint_stream(checkpoint),
                        .error = error};
}

/* Allocates the struct of a module and initialises it as parent's next child. */
static zmlx_status make(zm_module **module, zm_builder *builder, size_t size, zm_module_kind kind,
                        zm_module *parent, const char *name) {
    *module = zm_arena_alloc(builder->arena, 1, size);
    if (!*module) return zm_fail_memory(builder->error);
    return zm_module_init(*module, kind, parent, name, zm_standard_forward(kind), builder->arena,
                          builder->error);
}

static zmlx_status declare(zm_builder *builder, zm_module *module, const char *name, mlx_array *slot) {
    return zm_module_add_parameter(module, name, slot, builder->arena, builder->error);
}

static zmlx_status take_vector(mlx_array *slot, zm_builder *builder, zm_module *module, const char *name,
                               int size, bool keep_float32) {
    const char *path = zm_arena_printf(builder->arena, "%s.%s", module->path, name);
    if (!path) return zm_fail_memory(builder->error);
    ZM_TRY(declare(builder, module, name, slot));
    return zm_checkpoint_take(slot, builder->checkpoint, path, &size, 1, keep_float32, builder->error);
}

static zmlx_status take_weight(zm_weight *weight, zm_builder *builder, zm_module *module,
                               zm_linear_shape shape) {
    weight->in_features = shape.in_features;
    weight->out_features = shape.out_features;
    weight->n_experts = shape.n_experts;
    ZM_TRY(zm_checkpoint_take_weight(weight, builder->checkpoint, module->path, shape.has_bias,
                                     builder->error));
    ZM_TRY(declare(builder, module, "weight", &weight->weight));
    if (zm_is_set(weight->scales)) ZM_TRY(declare(builder, module, "scales", &weight->scales));
    if (zm_is_set(weight->biases)) ZM_TRY(declare(builder, module, "biases", &weight->biases));
    if (zm_is_set(weight->bias)) ZM_TRY(declare(builder, module, "bias", &weight->bias));
    return ZMLX_OK;
}

zmlx_status zm_build_linear(zm_linear **linear, zm_builder *builder, zm_module *parent, const char *name,
                            zm_linear_shape shape) {
    zm_module_kind kind = shape.n_experts ? ZM_MODULE_SWITCH_LINEAR : ZM_MODULE_LINEAR;
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **linear, kind, parent, name));
    *linear = (zm_linear *)base;
    return take_weight(&(*linear)->weight, builder, base, shape);
}

zmlx_status zm_build_norm(zm_norm **norm, zm_builder *builder, zm_module *parent, const char *name, int size,
                          double eps) {
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **norm, ZM_MODULE_RMS_NORM, parent, name));
    *norm = (zm_norm *)base;
    (*norm)->eps = (float)eps;
    return take_vector(&(*norm)->weight, builder, base, "weight", size, false);
}

static zmlx_status build_projections(zm_attention *attention, zm_builder *builder,
                                     const zm_attention_plan *plan) {
    zm_module *base = &attention->base;
    int values = plan->heads.n_heads * plan->heads.head_dim, queries = plan->has_output_gate ? 2 * values : values;
    int keys = plan->heads.n_kv_heads * plan->heads.head_dim;
    zm_linear_shape to_queries = {plan->hidden_size, queries, 0, plan->has_bias};
    zm_linear_shape to_keys = {plan->hidden_size, keys, 0, plan->has_bias};
    zm_linear_shape to_hidden = {values, plan->hidden_size, 0, plan->has_output_bias};
    ZM_TRY(zm_build_linear(&attention->q_proj, builder, base, "q_proj", to_queries));
    ZM_TRY(zm_build_linear(&attention->k_proj, builder, base, "k_proj", to_keys));
    ZM_TRY(zm_build_linear(&attention->v_proj, builder, base, "v_proj", to_keys));
    return zm_build_linear(&attention->o_proj, builder, base, plan->o_proj, to_hidden);
}

static int rope_dims(const zm_attention_plan *plan) { return plan->rope_dims ? plan->rope_dims : plan->heads.head_dim; }

/* Made once here; dynamic scaling makes them for each call. */
static zmlx_status keep_inverse_freqs(zm_rope_parameters *rope, zm_builder *builder, zm_module *module) {
    if (rope->dynamic_factor > 0) return ZMLX_OK;
    ZM_TRY(declare(builder, module, "rope.inverse_freqs", &rope->inverse_freqs));
    zm_scope scope;
    zm_scope_begin(&scope, builder->stream);
    zm_scope_keep(&scope, &rope->inverse_freqs, zm_rope_inverse_freqs(&scope, rope, 0));
    ZM_TRY(zm_scope_end(&scope, builder->error));
    return mlx_array_eval(rope->inverse_freqs) ? zm_mlx_fail(builder->error, module->path) : ZMLX_OK;
}

zmlx_status zm_build_attention(zm_module **module, zm_builder *builder, zm_module *parent,
                               const zm_attention_plan *plan) {
    ZM_TRY(make(module, builder, sizeof(zm_attention), ZM_MODULE_ATTENTION, parent, plan->name));
    zm_attention *attention = (zm_attention *)*module;
    int head_dim = plan->heads.head_dim;
    attention->n_heads = plan->heads.n_heads;
    attention->n_kv_heads = plan->heads.n_kv_heads;
    attention->head_dim = head_dim;
    attention->scale = (float)(1 / sqrt(head_dim));
    attention->has_output_gate = plan->has_output_gate;
    ZM_TRY(build_projections(attention, builder, plan));
    if (plan->q_norm)
        ZM_TRY(zm_build_norm(&attention->q_norm, builder, *module, plan->q_norm, head_dim, plan->norm_eps));
    if (plan->k_norm)
        ZM_TRY(zm_build_norm(&attention->k_norm, builder, *module, plan->k_norm, head_dim, plan->norm_eps));
    if (plan->has_sinks)
        ZM_TRY(take_vector(&attention->sinks, builder, *module, "sinks", attention->n_heads, false));
    ZM_TRY(declare(builder, *module, "rope.freqs", &attention->rope.freqs));
    ZM_TRY(zm_rope_init(&attention->rope, builder, rope_dims(plan), &plan->rope));
    return keep_inverse_freqs(&attention->rope, builder, *module);
}

zmlx_status zm_check_attention(const zm_builder *builder, const zm_attention_plan *plan) {
    zm_rope_parameters rope;
    zmlx_status status = zm_rope_init(&rope, builder, rope_dims(plan), &plan->rope);
    mlx_array_free(rope.freqs);
    return status;
}

static zmlx_status build_multi_linear(zm_linear **linear, zm_builder *builder, zm_module *parent, const char *name,
                                      zm_linear_shape shape) {
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **linear, ZM_MODULE_MULTI_LINEAR, parent, name));
    *linear = (zm_linear *)base;
    return take_weight(&(*linear)->weight, builder, base, shape);
}

static zmlx_status build_latent_queries(zm_latent_attention *attention, zm_builder *builder,
                                        const zm_latent_attention_plan *plan) {
    zm_module *base = &attention->base;
    int queries = plan->n_heads * (plan->qk_nope_head_dim + plan->qk_rope_head_dim), rank = plan->q_lora_rank;
    zm_linear_shape whole = {plan->hidden_size, queries, 0, false};
    zm_linear_shape first = {plan->hidden_size, rank, 0, plan->has_bias}, second = {rank, queries, 0, false};
    if (!rank) return zm_build_linear(&attention->q_proj, builder, base, "q_proj", whole);
    ZM_TRY(zm_build_linear(&attention->q_a_proj, builder, base, "q_a_proj", first));
    ZM_TRY(zm_build_norm(&attention->q_a_layernorm, builder, base, "q_a_layernorm", rank, plan->norm_eps));
    return zm_build_linear(&attention->q_b_proj, builder, base, "q_b_proj", second);
}

static zmlx_status build_latent_values(zm_latent_attention *attention, zm_builder *builder,
                                       const zm_latent_attention_plan *plan) {
    zm_module *base = &attention->base;
    int n_heads = plan->n_heads, rank = plan->kv_lora_rank;
    zm_linear_shape latent = {plan->hidden_size, rank + plan->qk_rope_head_dim, 0, plan->has_bias};
    zm_linear_shape keys = {plan->qk_nope_head_dim, rank, n_heads, false};
    zm_linear_shape values = {rank, plan->v_head_dim, n_heads, false};
    zm_linear_shape out = {n_heads * plan->v_head_dim, plan->hidden_size, 0, plan->has_bias};
    ZM_TRY(zm_build_linear(&attention->kv_a_proj_with_mqa, builder, base, "kv_a_proj_with_mqa", latent));
    ZM_TRY(zm_build_norm(&attention->kv_a_layernorm, builder, base, "kv_a_layernorm", rank, plan->norm_eps));
    ZM_TRY(build_multi_linear(&attention->embed_q, builder, base, "embed_q", keys));
    ZM_TRY(build_multi_linear(&attention->unembed_out, builder, base, "unembed_out", values));
    return zm_build_linear(&attention->o_proj, builder, base, "o_proj", out);
}

zmlx_status zm_build_latent_attention(zm_module **module, zm_builder *builder, zm_module *parent,
                                      const zm_latent_attention_plan *plan) {
    ZM_TRY(make(module, builder, sizeof(zm_latent_attention), ZM_MODULE_LATENT_ATTENTION, parent, "self_attn"));
    zm_latent_attention *attention = (zm_latent_attention *)*module;
    attention->n_heads = plan->n_heads;
    attention->kv_lora_rank = plan->kv_lora_rank;
    attention->qk_nope_head_dim = plan->qk_nope_head_dim;
    attention->qk_rope_head_dim = plan->qk_rope_head_dim;
    attention->v_head_dim = plan->v_head_dim;
    attention->scale = plan->scale;
    ZM_TRY(build_latent_queries(attention, builder, plan));
    ZM_TRY(build_latent_values(attention, builder, plan));
    ZM_TRY(declare(builder, *module, "rope.freqs", &attention->rope.freqs));
    return zm_rope_init(&attention->rope, builder, plan->qk_rope_head_dim, &plan->rope);
}

static zmlx_status build_depthwise(zm_depthwise_conv **conv, zm_builder *builder, zm_module *parent, const char *name,
                                   int channels, int taps, bool has_bias) {
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **conv, ZM_MODULE_CONV1D, parent, name));
    *conv = (zm_depthwise_conv *)base;
    (*conv)->channels = channels;
    (*conv)->taps = taps;
    const char *path = zm_arena_printf(builder->arena, "%s.weight", base->path);
    if (!path) return zm_fail_memory(builder->error);
    int shape[3] = {channels, taps, 1};
    ZM_TRY(declare(builder, base, "weight", &(*conv)->weight));
    ZM_TRY(zm_checkpoint_take(&(*conv)->weight, builder->checkpoint, path, shape, 3, false, builder->error));
    return has_bias ? take_vector(&(*conv)->bias, builder, base, "bias", channels, false) : ZMLX_OK;
}

zmlx_status zm_build_short_conv(zm_module **module, zm_builder *builder, zm_module *parent, int hidden_size,
                                int taps, bool has_bias) {
    ZM_TRY(make(module, builder, sizeof(zm_short_conv), ZM_MODULE_SHORT_CONV, parent, "conv"));
    zm_short_conv *conv = (zm_short_conv *)*module;
    conv->hidden_size = hidden_size;
    zm_linear_shape in = {hidden_size, 3 * hidden_size, 0, has_bias};
    zm_linear_shape out = {hidden_size, hidden_size, 0, has_bias};
    ZM_TRY(build_depthwise(&conv->conv, builder, *module, "conv", hidden_size, taps, has_bias));
    ZM_TRY(zm_build_linear(&conv->in_proj, builder, *module, "in_proj", in));
    return zm_build_linear(&conv->out_proj, builder, *module, "out_proj", out);
}

static zmlx_status build_delta_projections(zm_delta_net *net, zm_builder *builder, const zm_delta_net_plan *plan) {
    static const char *const interleaved[] = {"in_proj_qkvz", "in_proj_ba"};
    static const char *const separate[] = {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"};
    int heads = plan->n_v_heads, values = heads * plan->head_v_dim;
    int mixed = 2 * plan->n_k_heads * plan->head_k_dim + values;
    const int widths[2][4] = {{mixed, values, heads, heads}, {mixed + values, 2 * heads}};
    net->n_in_proj = plan->is_interleaved ? 2 : 4;
    for (int i = 0; i < net->n_in_proj; i++) {
        zm_linear_shape shape = {plan->hidden_size, widths[plan->is_interleaved][i], 0, false};
        const char *name = plan->is_interleaved ? interleaved[i] : separate[i];
        ZM_TRY(zm_build_linear(&net->in_proj[i], builder, &net->base, name, shape));
    }
    zm_linear_shape out = {values, plan->hidden_size, 0, false};
    ZM_TRY(build_depthwise(&net->conv, builder, &net->base, "conv1d", mixed, plan->taps, false));
    return zm_build_linear(&net->out_proj, builder, &net->base, "out_proj", out);
}

zmlx_status zm_build_delta_net(zm_module **module, zm_builder *builder, zm_module *parent,
                               const zm_delta_net_plan *plan) {
    ZM_TRY(make(module, builder, sizeof(zm_delta_net), ZM_MODULE_DELTA_NET, parent, plan->name));
    zm_delta_net *net = (zm_delta_net *)*module;
    net->n_k_heads = plan->n_k_heads;
    net->n_v_heads = plan->n_v_heads;
    net->head_k_dim = plan->head_k_dim;
    net->head_v_dim = plan->head_v_dim;
    ZM_TRY(build_delta_projections(net, builder, plan));
    ZM_TRY(take_vector(&net->A_log, builder, *module, "A_log", net->n_v_heads, true));
    ZM_TRY(take_vector(&net->dt_bias, builder, *module, "dt_bias", net->n_v_heads, false));
    return zm_build_norm(&net->norm, builder, *module, "norm", net->head_v_dim, plan->norm_eps);
}

static zmlx_status build_gated_projections(zm_linear *projections[3], zm_builder *builder, zm_module *parent,
                                           const zm_gated_plan *plan) {
    int hidden = plan->hidden_size, intermediate = plan->intermediate_size;
    zm_linear_shape widen = {hidden, intermediate, plan->n_experts, plan->has_bias};
    zm_linear_shape narrow = {intermediate, hidden, plan->n_experts, plan->has_bias};
    ZM_TRY(zm_build_linear(&projections[0], builder, parent, plan->gate, widen));
    ZM_TRY(zm_build_linear(&projections[1], builder, parent, plan->up, widen));
    return zm_build_linear(&projections[2], builder, parent, plan->down, narrow);
}

zmlx_status zm_build_gated_mlp(zm_module **module, zm_builder *builder, zm_module *parent,
                               const zm_gated_plan *plan) {
    zm_linear *projections[3];
    ZM_TRY(make(module, builder, sizeof(zm_gated_mlp), ZM_MODULE_GATED_MLP, parent, plan->name));
    zm_gated_mlp *mlp = (zm_gated_mlp *)*module;
    mlp->activation = plan->activation;
    ZM_TRY(build_gated_projections(projections, builder, &mlp->base, plan));
    mlp->gate_proj = projections[0];
    mlp->up_proj = projections[1];
    mlp->down_proj = projections[2];
    return ZMLX_OK;
}

static zmlx_status build_switch_glu(zm_switch_glu **experts, zm_builder *builder, zm_module *parent,
                                    const zm_gated_plan *plan) {
    zm_linear *projections[3];
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **experts, ZM_MODULE_SWITCH_GLU, parent, plan->name));
    *experts = (zm_switch_glu *)base;
    (*experts)->activation = plan->activation;
    ZM_TRY(build_gated_projections(projections, builder, base, plan));
    (*experts)->gate_proj = projections[0];
    (*experts)->up_proj = projections[1];
    (*experts)->down_proj = projections[2];
    return ZMLX_OK;
}

static zmlx_status build_shared_expert(zm_moe *moe, zm_builder *builder, const zm_moe_plan *plan) {
    if (!plan->shared.name) return ZMLX_OK;
    zm_module *shared;
    ZM_TRY(zm_build_gated_mlp(&shared, builder, &moe->base, &plan->shared));
    moe->shared_experts = (zm_gated_mlp *)shared;
    if (!plan->shared_router) return ZMLX_OK;
    zm_linear_shape gate = {plan->experts.hidden_size, 1, 0, false};
    return zm_build_linear(&moe->shared_router, builder, &moe->base, plan->shared_router, gate);
}

static zmlx_status build_expert_bias(zm_moe *moe, zm_builder *builder, const zm_moe_plan *plan) {
    if (plan->has_expert_bias)
        ZM_TRY(take_vector(&moe->expert_bias, builder, &moe->base, "expert_bias", moe->n_experts, true));
    if (plan->gating == ZM_GATING_SIGMOID_GROUPS) {
        if (zm_weight_is_quantized(&moe->router->weight))
            return zm_fail(builder->error, ZMLX_ERROR_UNSUPPORTED, moe->router->base.path,
                           "a router of this kind is never quantised, but this one is");
        ZM_TRY(take_vector(&moe->expert_bias, builder, &moe->router->base, "e_score_correction_bias", moe->n_experts,
                           true));
    }
    return ZMLX_OK;
}

zmlx_status zm_build_moe(zm_module **module, zm_builder *builder, zm_module *parent,
                         const zm_moe_plan *plan) {
    ZM_TRY(make(module, builder, sizeof(zm_moe), ZM_MODULE_MOE, parent, plan->name));
    zm_moe *moe = (zm_moe *)*module;
    moe->gating = plan->gating;
    moe->n_experts = plan->experts.n_experts;
    moe->top_k = plan->top_k;
    moe->n_groups = plan->n_groups;
    moe->top_groups = plan->top_groups;
    moe->normalize_top_k = plan->normalize_top_k;
    moe->normalize_epsilon = (float)plan->normalize_epsilon;
    moe->routed_scaling_factor = (float)plan->routed_scaling_factor;
    zm_linear_shape router = {plan->experts.hidden_size, moe->n_experts, 0, plan->has_router_bias};
    ZM_TRY(zm_build_linear(&moe->router, builder, *module, plan->router, router));
    ZM_TRY(build_switch_glu(&moe->experts, builder, *module, &plan->experts));
    ZM_TRY(build_expert_bias(moe, builder, plan));
    return build_shared_expert(moe, builder, plan);
}

static zmlx_status build_block(zm_block **block, zm_builder *builder, zm_module *list, int layer,
                               const zm_model_plan *plan) {
    char name[16];
    snprintf(name, sizeof name, "%d", layer);
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **block, ZM_MODULE_BLOCK, list, name));
    *block = (zm_block *)base;
    ZM_TRY(plan->build_block(builder, *block, layer, plan->config));
    ZM_TRY(zm_build_norm(&(*block)->operator_norm, builder, base, plan->operator_norm, plan->hidden_size,
                         plan->norm_eps));
    return zm_build_norm(&(*block)->feed_forward_norm, builder, base, plan->feed_forward_norm,
                         plan->hidden_size, plan->norm_eps);
}

static zmlx_status build_embedding(zm_embedding **embedding, zm_builder *builder, zm_module *parent,
                                   const zm_model_plan *plan) {
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **embedding, ZM_MODULE_EMBEDDING, parent, "embed_tokens"));
    *embedding = (zm_embedding *)base;
    zm_linear_shape shape = {plan->hidden_size, plan->vocab_size, 0, false};
    zm_weight *table = &(*embedding)->weight;
    ZM_TRY(take_weight(table, builder, base, shape));
    (*embedding)->dtype = mlx_array_dtype(zm_weight_is_quantized(table) ? table->scales : table->weight);
    return ZMLX_OK;
}

static zmlx_status build_decoder(zm_decoder **decoder_slot, zm_builder *builder, zm_module *root,
                                 const zm_model_plan *plan) {
    zm_module *base, *list;
    ZM_TRY(make(&base, builder, sizeof(zm_decoder), ZM_MODULE_DECODER, root, "model"));
    zm_decoder *decoder = *decoder_slot = (zm_decoder *)base;
    ZM_TRY(build_embedding(&decoder->embed_tokens, builder, base, plan));
    ZM_TRY(make(&list, builder, sizeof *list, ZM_MODULE_LIST, base, "layers"));
    decoder->blocks = zm_arena_alloc(builder->arena, (size_t)plan->n_layers, sizeof *decoder->blocks);
    if (!decoder->blocks) return zm_fail_memory(builder->error);
    decoder->n_blocks = plan->n_layers;
    for (int i = 0; i < plan->n_layers; i++)
        ZM_TRY(build_block(&decoder->blocks[i], builder, list, i, plan));
    return zm_build_norm(&decoder->norm, builder, base, plan->norm, plan->hidden_size, plan->norm_eps);
}

/* The output projection that reads the embedding's table: it borrows the arrays, so declares none. */
static zmlx_status build_tied_head(zm_linear **head, zm_builder *builder, zm_embedding *embedding) {
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **head, ZM_MODULE_LINEAR, &embedding->base, "as_linear"));
    *head = (zm_linear *)base;
    (*head)->weight = embedding->weight;
    return ZMLX_OK;
}

static zmlx_status build_lm_head(zm_causal_lm *model, zm_builder *builder, zm_module *parent,
                                 const zm_model_plan *plan) {
    if (plan->is_tied) return build_tied_head(&model->lm_head, builder, model->decoder->embed_tokens);
    zm_linear_shape head = {plan->hidden_size, plan->vocab_size, 0, false};
    return zm_build_linear(&model->lm_head, builder, parent, "lm_head", head);
}

static zmlx_status build_tree(zm_causal_lm *model, zm_builder *builder, const zm_model_plan *plan) {
    zm_module *base, *parent = &model->base;
    if (plan->prefix) ZM_TRY(make(&parent, builder, sizeof *parent, ZM_MODULE_LIST, parent, plan->prefix));
    ZM_TRY(build_decoder(&model->decoder, builder, parent, plan));
    ZM_TRY(build_lm_head(model, builder, parent, plan));
    ZM_TRY(make(&base, builder, sizeof *model->greedy_head, ZM_MODULE_GREEDY_HEAD, &model->base, "greedy_head"));
    model->greedy_head = (zm_greedy_head *)base;
    model->greedy_head->lm_head = model->lm_head;
    return ZMLX_OK;
}

zmlx_status zm_build_model(zm_causal_lm **root, zm_builder *builder, const zm_model_plan *plan) {
    *root = NULL;
    zm_module *base;
    ZM_TRY(make(&base, builder, sizeof **root, ZM_MODULE_CAUSAL_LM, NULL, ""));
    zmlx_status status = build_tree((zm_causal_lm *)base, builder, plan);
    if (status != ZMLX_OK) {
        zm_module_release(base);
        return status;
    }
    *root = (zm_causal_lm *)base;
    return ZMLX_OK;
}

zmlx_status zm_build_stack_experts(zm_builder *builder, const char *module, const char *source,
                                   const char *target, int n_experts) {
    const char *prefix = zm_arena_printf(builder->arena, "%s.experts", module);
    const char *name = zm_arena_printf(builder->arena, "%s.switch_mlp.%s", module, target);
    if (!prefix || !name) return zm_fail_memory(builder->error);
    return zm_checkpoint_stack(builder->checkpoint, prefix, source, n_experts, name, builder->error);
}

zmlx_status zm_build_stack_layers(zm_builder *builder, const char *module, int n_layers, int n_experts) {
    static const char *const names[3] = {"gate_proj.weight", "up_proj.weight", "down_proj.weight"};
    for (int i = 0; i < n_layers; i++) {
        const char *path = zm_arena_printf(builder->arena, "model.layers.%d.%s", i, module);
        if (!path) return zm_fail_memory(builder->error);
        for (int n = 0; n < 3; n++)
            ZM_TRY(zm_build_stack_experts(builder, path, names[n], names[n], n_experts));
    }
    return ZMLX_OK;
}
