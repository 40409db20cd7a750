/* SPDX-License-Identifier: MIT */
/* The rotary embeddings' scaling rules, as mlx-lm's initialize_rope. Frequencies are computed in float32
 * by MLX operations in mlx-lm's order, so that they have the same bits. */
#include <math.h>
#include <string.h>

#include "model/arch/config.h"

typedef struct rope_rule {
    const zm_builder *builder;
    const zm_rope_config *config;
    zm_rope_parameters *rope;
    zm_json_object scaling;
} rope_rule;

static zmlx_status positive(double *result, const rope_rule *rule, const char *key, double fallback) {
    return zm_config_positive(result, rule->scaling, key, fallback, rule->builder->error);
}

static mlx_array number(zm_scope *scope, double value) { return zm_scalar(scope, value, MLX_FLOAT32); }

/* base^(2j / dims) for the first n_features features. */
static mlx_array powers(zm_scope *scope, const rope_rule *rule, int n_features) {
    mlx_array exponents = zm_arange(scope, 0, n_features, 2, MLX_FLOAT32);
    exponents = zm_divide(scope, exponents, number(scope, rule->rope->dims));
    return zm_power(scope, number(scope, rule->config->base), exponents);
}

static void begin(zm_scope *scope, const rope_rule *rule) {
    zm_scope_begin(scope, rule->builder->stream);
}

/* Evaluates freqs into the parameters and ends scope. */
static zmlx_status finish(zm_scope *scope, rope_rule *rule, mlx_array freqs) {
    zmlx_error *error = rule->builder->error;
    zm_scope_keep(scope, &rule->rope->freqs, freqs);
    ZM_TRY(zm_scope_end(scope, error));
    return mlx_array_eval(rule->rope->freqs) ? zm_mlx_fail(error, rule->scaling.file) : ZMLX_OK;
}

static zmlx_status plain(rope_rule *rule) {
    (void)rule;
    return ZMLX_OK;
}

static zmlx_status linear(rope_rule *rule) {
    double factor;
    ZM_TRY(positive(&factor, rule, "factor", NAN));
    rule->rope->scale = (float)(1 / factor);
    return ZMLX_OK;
}

static zmlx_status dynamic(rope_rule *rule) {
    double factor;
    ZM_TRY(positive(&factor, rule, "factor", NAN));
    if (!rule->config->max_position_embeddings || rule->rope->dims <= 2)
        return zm_fail(rule->builder->error, ZMLX_ERROR_FORMAT, rule->scaling.file,
                       "dynamic scaling needs max_position_embeddings and heads of more than 2 features");
    rule->rope->dynamic_factor = factor;
    return ZMLX_OK;
}

/* Long wavelengths are divided by factor, short ones kept, those between blended. */
static zmlx_status llama3(rope_rule *rule) {
    double factor, low, high, trained;
    ZM_TRY(positive(&factor, rule, "factor", NAN));
    ZM_TRY(positive(&low, rule, "low_freq_factor", 1));
    ZM_TRY(positive(&high, rule, "high_freq_factor", 4));
    ZM_TRY(positive(&trained, rule, "original_max_position_embeddings", 8192));
    if (low == high)
        return zm_fail(rule->builder->error, ZMLX_ERROR_FORMAT, rule->scaling.file,
                       "low_freq_factor equals high_freq_factor");
    zm_scope scope;
    begin(&scope, rule);
    mlx_array freqs = powers(&scope, rule, rule->rope->dims);
    mlx_array wavelengths = zm_multiply(&scope, number(&scope, 2 * M_PI), freqs);
    mlx_array longest = number(&scope, trained / low), shortest = number(&scope, trained / high);
    freqs = zm_where(&scope, zm_less(&scope, longest, wavelengths),
                     zm_multiply(&scope, freqs, number(&scope, factor)), freqs);
    mlx_array between = zm_logical_and(&scope, zm_less(&scope, shortest, wavelengths),
                                       zm_less(&scope, wavelengths, longest));
    mlx_array smooth = zm_divide(&scope, number(&scope, trained), wavelengths);
    smooth = zm_subtract(&scope, smooth, number(&scope, low));
    smooth = zm_divide(&scope, smooth, number(&scope, high - low));
    mlx_array rest = zm_subtract(&scope, number(&scope, 1), smooth);
    rest = zm_add(&scope, zm_divide(&scope, rest, number(&scope, factor)), smooth);
    return finish(&scope, rule, zm_where(&scope, between, zm_divide(&scope, freqs, rest), freqs));
}

static double yarn_scale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* The feature whose wavelength makes that many turns within the trained length. */
static double yarn_feature(const rope_rule *rule, double trained, double turns) {
    return rule->rope->dims * log(trained / (turns * 2 * M_PI)) / (2 * log(rule->config->base));
}

static zmlx_status yarn(rope_rule *rule) {
    double factor, trained, fast, slow, mscale, mscale_all;
    ZM_TRY(positive(&factor, rule, "factor", NAN));
    ZM_TRY(positive(&trained, rule, "original_max_position_embeddings", 4096));
    ZM_TRY(positive(&fast, rule, "beta_fast", 32));
    ZM_TRY(positive(&slow, rule, "beta_slow", 1));
    ZM_TRY(zm_config_number_or(&mscale, rule->scaling, "mscale", 1, rule->builder->error));
    ZM_TRY(zm_config_number_or(&mscale_all, rule->scaling, "mscale_all_dim", 0, rule->builder->error));
    if (rule->config->base <= 1)
        return zm_config_fail(rule->builder, "rope_theta", "yarn needs a base greater than 1");
    double scale = yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all);
    if (!isfinite(scale))
        return zm_fail(rule->builder->error, ZMLX_ERROR_FORMAT, rule->scaling.file,
                       "mscale and mscale_all_dim give no finite scale");
    rule->rope->input_scale = (float)scale;
    int dims = rule->rope->dims;
    double low = fmax(floor(yarn_feature(rule, trained, fast)), 0);
    double high = fmin(ceil(yarn_feature(rule, trained, slow)), dims - 1);
    if (low == high) high += 0.001;

    zm_scope scope;
    begin(&scope, rule);
    mlx_array zero = number(&scope, 0), one = number(&scope, 1);
    mlx_array extrapolated = powers(&scope, rule, dims);
    mlx_array interpolated = zm_multiply(&scope, number(&scope, factor), extrapolated);
    mlx_array ramp = zm_subtract(&scope, zm_arange(&scope, 0, dims / 2, 1, MLX_FLOAT32), number(&scope, low));
    ramp = zm_divide(&scope, ramp, number(&scope, high - low));
    ramp = zm_minimum(&scope, zm_maximum(&scope, ramp, zero), one);
    mlx_array mask = zm_subtract(&scope, one, ramp);
    mlx_array blend = zm_add(&scope, zm_multiply(&scope, interpolated, mask),
                             zm_multiply(&scope, extrapolated, zm_subtract(&scope, one, mask)));
    return finish(&scope, rule, zm_divide(&scope, zm_multiply(&scope, interpolated, extrapolated), blend));
}

/* long_factor as float32: one number, or one a pair of features. */
static zmlx_status read_long_factor(float *factors, int *count, const rope_rule *rule) {
    const json_t *value = zm_json_get(rule->scaling, "long_factor");
    int pairs = rule->rope->dims / 2;
    *count = json_is_array(value) ? pairs : 1;
    bool valid = json_is_number(value) || (json_is_array(value) && json_array_size(value) == (size_t)pairs);
    for (int i = 0; valid && i < *count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, (size_t)i) : value;
        valid = json_is_number(item) && json_number_value(item) > 0;
        factors[i] = (float)json_number_value(item);
    }
    if (valid) return ZMLX_OK;
    return zm_fail(rule->builder->error, ZMLX_ERROR_FORMAT, rule->scaling.file,
                   "long_factor must be %d positive numbers", pairs);
}

static zmlx_status longrope(rope_rule *rule) {
    double trained;
    ZM_TRY(positive(&trained, rule, "original_max_position_embeddings", NAN));
    if (!rule->config->max_position_embeddings || trained <= 1)
        return zm_fail(rule->builder->error, ZMLX_ERROR_FORMAT, rule->scaling.file,
                       "longrope needs max_position_embeddings and an original length greater than 1");
    float *factors = zm_arena_alloc(rule->builder->arena, (size_t)rule->rope->dims / 2, sizeof *factors);
    if (!factors) return zm_fail_memory(rule->builder->error);
    int count;
    ZM_TRY(read_long_factor(factors, &count, rule));
    double growth = rule->config->max_position_embeddings / trained;
    if (growth > 1) rule->rope->input_scale = (float)sqrt(1 + log(growth) / log(trained));
    rule->rope->traditional = false;
    zm_scope scope;
    begin(&scope, rule);
    mlx_array factor = zm_from_data(&scope, factors, &count, count > 1 ? 1 : 0, MLX_FLOAT32);
    return finish(&scope, rule, zm_multiply(&scope, factor, powers(&scope, rule, rule->rope->dims)));
}

/* Only the first partial_rotary_factor * dims features turn; the others have infinite wavelength. */
static zmlx_status proportional(rope_rule *rule) {
    double factor, part;
    ZM_TRY(positive(&factor, rule, "factor", 1));
    ZM_TRY(positive(&part, rule, "partial_rotary_factor", 1));
    int dims = rule->rope->dims, rotated = part <= 1 ? (int)(dims * part) : 0;
    if (rotated < 1)
        return zm_fail(rule->builder->error, ZMLX_ERROR_FORMAT, rule->scaling.file,
                       "partial_rotary_factor %g selects none or too many of %d features", part, dims);
    int still = (dims - rotated) / 2;
    float *infinite = zm_arena_alloc(rule->builder->arena, (size_t)still, sizeof *infinite);
    if (!infinite) return zm_fail_memory(rule->builder->error);
    for (int i = 0; i < still; i++) infinite[i] = INFINITY;
    zm_scope scope;
    begin(&scope, rule);
    mlx_array freqs = zm_multiply(&scope, number(&scope, factor), powers(&scope, rule, rotated));
    if (still)
        freqs = zm_concatenate(&scope, freqs, zm_from_data(&scope, infinite, &still, 1, MLX_FLOAT32), 0);
    return finish(&scope, rule, freqs);
}

static zmlx_status mrope(rope_rule *rule) {
    const json_t *sections = zm_json_get(rule->scaling, "mrope_section");
    if (json_is_array(sections) && json_array_size(sections) == 3) return ZMLX_OK;
    return zm_fail(rule->builder->error, ZMLX_ERROR_FORMAT, rule->scaling.file,
                   "mrope_section must have 3 entries");
}

static zmlx_status rope_type(const char **type, const rope_rule *rule) {
    *type = "default";
    if (!rule->scaling.value) return ZMLX_OK;
    if (zm_json_get(rule->scaling, "type"))
        ZM_TRY(zm_json_string(type, rule->scaling, "type", rule->builder->error));
    else if (json_object_get(rule->scaling.value, "rope_type"))
        ZM_TRY(zm_json_string(type, rule->scaling, "rope_type", rule->builder->error));
    return ZMLX_OK;
}

zmlx_status zm_rope_init(zm_rope_parameters *rope, const zm_builder *builder, int dims,
                         const zm_rope_config *config) {
    static const struct {
        const char *type;
        zmlx_status (*apply)(rope_rule *);
    } rules[] = {
        {"default", plain},      {"linear", linear},         {"dynamic", dynamic},
        {"llama3", llama3},      {"yarn", yarn},             {"deepseek_yarn", yarn},
        {"telechat3-yarn", yarn}, {"longrope", longrope},    {"proportional", proportional},
        {"mrope", mrope},
    };
    *rope = (zm_rope_parameters){.dims = dims,
                                 .traditional = config->traditional,
                                 .base = (float)config->base,
                                 .scale = 1,
                                 .input_scale = 1,
                                 .max_position_embeddings = config->max_position_embeddings};
    rope_rule rule = {builder, config, rope, config->scaling};
    const char *type;
    ZM_TRY(rope_type(&type, &rule));
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (!strcmp(type, rules[i].type)) return rules[i].apply(&rule);
    return zm_fail(builder->error, ZMLX_ERROR_UNSUPPORTED, rule.scaling.file, "unknown rope type \"%.60s\"",
                   type);
}
