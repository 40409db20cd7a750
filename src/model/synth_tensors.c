/* SPDX-License-Identifier: MIT */
#include "model/synth_tensors.h"

#include <math.h>
#include <string.h>

#include "base/map.h"

/* Root mean square of a code minus its group's n: codes are uniform numbers of that many bits, and n is on average
 * away from their mean by half a step and half its spread. Or of the values of e2m1. */
static double code_size(int bits) {
    double spread = zm_synth_spread(bits);
    return sqrt((pow(4, bits) - 1) / 12 + spread * spread / 3 - 1.0 / 12);
}
static const double e2m1_size = 2.926174;

static zm_synth_tensor *add(zm_synth_plan *plan, const char *path, const char *part) {
    if (plan->n_tensors == plan->capacity) {
        size_t capacity = plan->capacity ? plan->capacity * 2 : 256;
        zm_synth_tensor *larger = zm_arena_alloc(plan->arena, capacity, sizeof larger[0]);
        if (larger && plan->n_tensors) memcpy(larger, plan->tensors, plan->n_tensors * sizeof larger[0]);
        if (larger) {
            plan->tensors = larger;
            plan->capacity = capacity;
        }
    }
    char *name = zm_arena_printf(plan->arena, "%s%s%s%s", plan->prefix, path, *part ? "." : "", part);
    if (!name || plan->n_tensors == plan->capacity) {
        plan->out_of_memory = true;
        return NULL;
    }
    zm_synth_tensor *tensor = &plan->tensors[plan->n_tensors++];
    *tensor = (zm_synth_tensor){.name = name};
    tensor->seed = zm_hash(name, strlen(name)) ^ (plan->seed * 0xd1342543de82ef95u + 1);
    return tensor;
}

static void set_shape(zm_synth_tensor *tensor, int experts, int rows, int columns) {
    tensor->n_dims = 0;
    if (experts) tensor->shape[tensor->n_dims++] = experts;
    tensor->shape[tensor->n_dims++] = rows;
    if (columns) tensor->shape[tensor->n_dims++] = columns;
}

/* Uniform values with that mean and standard deviation. */
void zm_synth_add_values(zm_synth_plan *plan, const char *path, const char *part, const int shape[3],
                         zm_synth_fill fill, double mean, double deviation) {
    zm_synth_tensor *tensor = add(plan, path, part);
    if (!tensor) return;
    for (int i = 0; i < 3 && shape[i]; i++) tensor->shape[tensor->n_dims++] = shape[i];
    tensor->fill = fill;
    tensor->mean = (float)mean;
    tensor->width = (float)(deviation * sqrt(3));
}

void zm_synth_add_norm(zm_synth_plan *plan, const char *path, int size, double mean) {
    zm_synth_add_values(plan, path, "weight", (int[3]){size}, ZM_SYNTH_BFLOAT16, mean, 0.05 * mean);
}

/* Mixes 2^e and 2^(e + 1) so that their mean square is scale squared. */
static void set_scale(zm_synth_tensor *tensor, double scale) {
    tensor->exponent = (int)floor(log2(scale));
    double excess = pow(scale / ldexp(1, tensor->exponent), 2); /* in [1, 4) */
    tensor->high_part = (uint16_t)((excess - 1) / 3 * 65535);
}

static void set_entry(zm_synth_plan *plan, const char *path, int bits, int group_size, bool with_mode) {
    json_t *entry = json_pack("{s:i, s:i}", "group_size", group_size, "bits", bits);
    if (with_mode && entry) json_object_set_new(entry, "mode", json_string("affine"));
    const char *name = zm_arena_printf(plan->arena, "%s%s", plan->prefix, path);
    if (!name || json_object_set_new(plan->entries, name, entry)) plan->out_of_memory = true;
}

static void add_packed(zm_synth_plan *plan, const char *path, const zm_synth_linear *map, int bits, int group_size,
                       double deviation) {
    zm_synth_tensor *weight = add(plan, path, "weight");
    if (weight) set_shape(weight, map->experts, map->out, (int)((int64_t)map->in * bits / 32));
    if (weight) weight->fill = ZM_SYNTH_PACKED;
    zm_synth_tensor *scales = add(plan, path, "scales");
    if (!scales) return;
    set_shape(scales, map->experts, map->out, map->in / group_size);
    scales->bits = bits;
    scales->fill = map->is_mxfp4 ? ZM_SYNTH_EXPONENTS : ZM_SYNTH_SCALES;
    set_scale(scales, deviation / (map->is_mxfp4 ? e2m1_size : code_size(bits)));
    zm_synth_tensor copy = *scales;
    zm_synth_tensor *biases = map->is_mxfp4 ? NULL : add(plan, path, "biases");
    if (!biases) return;
    copy.name = biases->name;
    copy.fill = ZM_SYNTH_BIASES;
    *biases = copy; /* with the seed of scales */
}

void zm_synth_add_linear(zm_synth_plan *plan, const char *path, zm_synth_linear map) {
    double deviation = map.gain / sqrt(map.in);
    bool fits = map.in % plan->group_size == 0;
    if (map.is_mxfp4 && map.in % 32 == 0) {
        add_packed(plan, path, &map, 4, 32, deviation);
    } else if (plan->bits != 16 && fits && map.is_router && map.in % 64 == 0) {
        set_entry(plan, path, 8, 64, plan->is_mxfp4);
        map.is_mxfp4 = false;
        add_packed(plan, path, &map, 8, 64, deviation);
    } else if (plan->bits != 16 && fits && !map.is_mxfp4) {
        if (plan->is_mxfp4) set_entry(plan, path, plan->bits, plan->group_size, true);
        add_packed(plan, path, &map, plan->bits, plan->group_size, deviation);
    } else {
        int shape[3] = {map.out, map.in, 0};
        if (map.experts) memcpy(shape, (int[3]){map.experts, map.out, map.in}, sizeof shape);
        zm_synth_add_values(plan, path, "weight", shape, ZM_SYNTH_BFLOAT16, 0, deviation);
    }
    if (!map.bias) return;
    int shape[3] = {map.out, 0, 0};
    if (map.experts) memcpy(shape, (int[3]){map.experts, map.out, 0}, sizeof shape);
    zm_synth_add_values(plan, path, "bias", shape, ZM_SYNTH_BFLOAT16, 0, 0.1);
}

/* A name inside layer: "model.layers.<layer>.<rest>"; NULL never comes back, an empty text may. */
const char *zm_synth_in_layer(zm_synth_plan *plan, int layer, const char *rest) {
    const char *name = zm_arena_printf(plan->arena, "model.layers.%d.%s", layer, rest);
    if (!name) plan->out_of_memory = true;
    return name ? name : "";
}

void zm_synth_add_layer_linear(zm_synth_plan *plan, int layer, const char *rest, zm_synth_linear map) {
    zm_synth_add_linear(plan, zm_synth_in_layer(plan, layer, rest), map);
}

void zm_synth_add_layer_norm(zm_synth_plan *plan, int layer, const char *rest, int size) {
    zm_synth_add_norm(plan, zm_synth_in_layer(plan, layer, rest), size, 1);
}
