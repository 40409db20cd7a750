/* SPDX-License-Identifier: MIT */
/* A part of decode in one setting, by kernels of two libraries (host.h), or the programs that it needs:
 *
 *   host PART NAME=NUMBER...                        prints the text of each program, with @name for its parts
 *   host PART NAME=NUMBER... FIRST SECOND SKIPPED   FOLDER/<program>.so; names of kernels that are not compared
 *
 * PART: moe, mlp, qkv, conv or prompt. Ends with 0 where all is the same, 1 where not, 2 where it could not be
 * compared. */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fused/cuda/decode.h"
#include "fused/cuda/prompt.h"
#include "runtime.h"

enum { HEAD_DIM = 128, TAPS = 3 };

host_options options = {
#define OPTION(name, value) .name = value,
    HOST_OPTIONS(OPTION)
#undef OPTION
};

typedef struct subject {
    zm_decode decode;
    zm_scope scope;
    zm_place h;
    zm_decode_norm norm;
    host_kind kind;
    bool has_biases;
} subject;

static zm_weight new_weight(const subject *of, int in, int out, int n_experts) {
    int bits = options.bits, group = options.group;
    bool is_mxfp4 = options.mxfp4;
    size_t rows = (size_t)out * (size_t)(n_experts ? n_experts : 1), k = (size_t)in;
    zm_weight made = {.quantization = {group, bits, is_mxfp4 ? "mxfp4" : "affine"},
                      .in_features = in,
                      .out_features = out,
                      .n_experts = n_experts};
    made.weight = host_codes(rows * k * (size_t)bits / 8);
    host_groups(&made.scales, &made.biases, rows * (k / (size_t)group), bits, is_mxfp4, of->kind);
    if (of->kind == HOST_CANCELLING) {
        host_repeat_groups(made.weight, rows, (size_t)(group * bits / 8));
        host_repeat_groups(made.scales, rows, is_mxfp4 ? 1 : 2);
        host_repeat_groups(made.biases, rows, 2);
    }
    /* Of mxfp4 the bias says which halves the kernels compute with. */
    if (of->has_biases || (is_mxfp4 && options.float16)) made.bias = host_halves(rows, of->kind);
    return made;
}

/* Routers are affine in mxfp4 models too. */
static zm_weight new_router(const subject *of) {
    host_options own = options;
    if (options.mxfp4) options.bits = 8, options.group = 64, options.mxfp4 = 0;
    zm_weight made = new_weight(of, options.hidden, options.experts, 0);
    options = own;
    return made;
}

static void begin(subject *of, host_kind kind, bool has_biases) {
    *of = (subject){.kind = kind, .has_biases = has_biases};
    zm_decode_begin(&of->decode, &of->scope, options.float16 ? MLX_FLOAT16 : MLX_BFLOAT16, options.hidden, HEAD_DIM,
                    options.top_k);
    /* Its norm and what follows must be finite. */
    mlx_array h = host_halves((size_t)options.hidden, kind == HOST_EXTREME ? HOST_EXTREME : HOST_USUAL);
    of->h = zm_decode_input(&of->decode, h);
    of->norm = (zm_decode_norm){host_halves((size_t)options.hidden, HOST_USUAL), 1e-5f};
    if (kind == HOST_CANCELLING) {
        host_negate_groups(h, (size_t)options.group);
        host_repeat_groups(of->norm.weight, 1, (size_t)options.group * sizeof(uint16_t));
    }
}

static bool run_moe(subject *of, int gating) {
    int hidden = options.hidden, inner = options.inner, n = options.experts;
    zm_weight router = new_router(of), gate = new_weight(of, hidden, inner, n), up = new_weight(of, hidden, inner, n);
    zm_weight down = new_weight(of, inner, hidden, n);
    zm_moe_arguments arguments = {.router = &router,
                                  .gate = &gate,
                                  .up = &up,
                                  .down = &down,
                                  .gating = (zm_gating)gating,
                                  .activation = of->has_biases ? ZM_ACTIVATION_SWIGLU_OAI : ZM_ACTIVATION_SWIGLU,
                                  .top_k = options.top_k,
                                  .normalize_top_k = true,
                                  .normalize_epsilon = 1e-20f,
                                  .routed_scaling_factor = 2.5f};
    /* The other kinds of choice know none. */
    if (gating == ZM_GATING_SIGMOID_BIAS) arguments.expert_bias = host_floats((size_t)n);
    const char *reason;
    if (!zm_decode_serves_experts(&gate, &down, arguments.activation, options.top_k, &reason)) {
        printf("not served: %s\n", reason);
        return false;
    }
    /* Half of them as a mixture by itself, whose input is normed already. */
    if (gating % 2) of->norm.weight = (mlx_array){NULL};
    zm_decode_moe(&of->decode, of->h, of->norm, &arguments);
    return true;
}

static void run_mlp(subject *of) {
    int hidden = options.hidden, inner = options.inner;
    zm_weight gate = new_weight(of, hidden, inner, 0), up = new_weight(of, hidden, inner, 0);
    zm_weight down = new_weight(of, inner, hidden, 0);
    zm_activation activation = of->has_biases ? ZM_ACTIVATION_SWIGLU_OAI : ZM_ACTIVATION_SWIGLU;
    zm_decode_mlp(&of->decode, of->h, of->norm, &gate, &up, &down, activation);
}

static void run_qkv(subject *of) {
    int hidden = options.hidden, rows = options.inner;
    zm_weight q = new_weight(of, hidden, rows, 0), k = new_weight(of, hidden, rows / 4, 0);
    zm_weight v = new_weight(of, hidden, rows / 4, 0);
    zm_decode_qkv(&of->decode, of->h, of->norm, &q, &k, &v, of->has_biases ? 2000 : 100);
}

static void run_conv(subject *of) {
    zm_weight in_proj = new_weight(of, options.hidden, 3 * options.inner, 0);
    size_t n = (size_t)options.inner;
    zm_place state = zm_chain_overwrite(of->decode.chain, host_halves(n * (TAPS - 1), HOST_USUAL));
    zm_decode_conv(&of->decode, of->h, of->norm, &in_proj, host_halves(n * TAPS, HOST_USUAL), state);
}

/* A choice of experts in the gating's way; with the first one also a linear map, a gated pair and the experts. */
static void run_prompt(subject *of, int gating) {
    int hidden = options.hidden, inner = options.inner, n = options.experts, rows = options.tokens;
    zm_scope *scope = &of->scope;
    zm_gating_arguments choice = {.gating = (zm_gating)gating, .n_experts = n, .top_k = options.top_k,
                                  .normalize_top_k = true, .normalize_epsilon = 1e-20f, .routed_scaling_factor = 2.5f};
    if (gating == ZM_GATING_SIGMOID_BIAS) choice.expert_bias = host_floats((size_t)n);
    mlx_array chosen, weights, logits = host_shape(host_halves((size_t)(rows * n), of->kind), rows, n);
    zm_prompt_route(scope, &chosen, &weights, logits, &choice);
    if (gating) return;
    mlx_array x = host_shape(host_halves((size_t)(rows * hidden), of->kind), rows, hidden);
    if (!options.mxfp4) {
        zm_weight gate = new_weight(of, hidden, inner, 0), up = new_weight(of, hidden, inner, 0);
        zm_prompt_linear(scope, x, &gate);
        if (rows >= ZM_PROMPT_LEAST_ROWS) zm_prompt_gated(scope, x, &gate, &up);
    }
    zm_weight gates = new_weight(of, hidden, inner, n), ups = new_weight(of, hidden, inner, n);
    zm_weight downs = new_weight(of, inner, hidden, n);
    zm_moe_arguments arguments = {.gate = &gates, .up = &ups, .down = &downs, .activation = ZM_ACTIVATION_SWIGLU};
    zm_prompt_experts(scope, x, &arguments, chosen, weights);
}

static bool run_part(const char *name, host_kind kind, bool has_biases, int gating) {
    static const char *const kinds[] = {"usual", "cancelling", "extreme", "tiny"};
    subject made;
    begin(&made, kind, has_biases);
    host_describe("%s numbers%s, gating %d", kinds[kind], has_biases ? ", biases" : "", gating);
    bool known = true;
    if (!strcmp(name, "moe")) known = run_moe(&made, gating);
    else if (!strcmp(name, "mlp")) run_mlp(&made);
    else if (!strcmp(name, "qkv")) run_qkv(&made);
    else if (!strcmp(name, "conv")) run_conv(&made);
    else if (!strcmp(name, "prompt")) run_prompt(&made, gating);
    else known = false;
    zm_chain_free(made.decode.chain);
    host_free_all();
    return known && !zm_scope_failed(&made.scope);
}

static void take_option(const char *text) {
    size_t n = strcspn(text, "=");
#define OPTION(name, value) \
    if (n == sizeof #name - 1 && !strncmp(text, #name, n)) options.name = atoi(text + n + 1);
    HOST_OPTIONS(OPTION)
#undef OPTION
}

int main(int argc, char **argv) {
    int i = 2;
    for (; i < argc && strchr(argv[i], '='); i++) take_option(argv[i]);
    bool compares = argc == i + 3;
    if (argc < 2 || (!compares && argc != i)) {
        fputs("host PART NAME=NUMBER... [FIRST SECOND SKIPPED]\n", stderr);
        return 2;
    }
    if (compares) host_compare_libraries(argv[i], argv[i + 1], argv[i + 2]);
    bool has_choice = !strcmp(argv[1], "moe") || !strcmp(argv[1], "prompt");
    for (int kind = 0; kind < options.kinds; kind++)
        for (int biases = 0; biases <= options.biases; biases++)
            for (int gating = 0; gating < (has_choice ? options.gatings : 1); gating++)
                if (!run_part(argv[1], (host_kind)kind, biases, gating)) return 2;
    return host_verdict();
}
