/* SPDX-License-Identifier: MIT */
/* What a synthetic checkpoint consists of: its tensors and their random content, from a config. */
#ifndef ZM_MODEL_SYNTH_PLAN_H
#define ZM_MODEL_SYNTH_PLAN_H

#include "base/arena.h"
#include "base/json.h"

/* How a tensor's elements are made. A group's scale and bias are such as MLX's quantiser leaves: of either sign, with
 * bias = -n * scale for a whole number n, which for normal weights is half the number of codes or a little more
 * (zm_synth_spread). Scales are powers of two, so that both are exact in bfloat16. */
typedef enum zm_synth_fill {
    ZM_SYNTH_PACKED,    /* uint32: random bits */
    ZM_SYNTH_SCALES,    /* bfloat16: 2^exponent or 2^(exponent + 1), or their negatives */
    ZM_SYNTH_BIASES,    /* bfloat16: -n times the scale of the same seed */
    ZM_SYNTH_EXPONENTS, /* uint8: the scale's exponent + 127 */
    ZM_SYNTH_BFLOAT16,  /* uniform in mean +- width */
    ZM_SYNTH_FLOAT32
} zm_synth_fill;

typedef struct zm_synth_tensor {
    const char *name;
    int shape[3], n_dims;
    zm_synth_fill fill;
    uint64_t seed;
    float mean, width;
    int bits, exponent;
    uint16_t high_part; /* of 65536: how often exponent + 1 is taken */
} zm_synth_tensor;

typedef struct zm_synth_plan {
    zm_arena *arena;       /* borrowed; holds all of the plan */
    zm_json_object config; /* quantisation entries are written into it */
    const char *prefix;    /* of all names; set from the config */
    int bits, group_size;  /* bits 16: dense */
    bool is_cut;           /* to fewer layers than the config has */
    uint64_t seed;
    zm_synth_tensor *tensors;
    size_t n_tensors, capacity;
    bool is_mxfp4;   /* experts are mxfp4, what else is quantised has an entry */
    json_t *entries; /* borrowed: config's "quantization", or NULL */
    bool out_of_memory;
} zm_synth_plan;

/* Fills plan->tensors and the config's quantization from the config's model_type and sizes. Fails where the
 * family would refuse to load the config. */
zmlx_status zm_synth_plan_make(zm_synth_plan *plan, zmlx_error *error);

/* How many n there are, from 2^(bits - 1) on. */
static inline int zm_synth_spread(int bits) { return bits > 3 ? 1 << (bits - 3) : 1; }

uint64_t zm_synth_tensor_elements(const zm_synth_tensor *tensor);
int zm_synth_element_bytes(zm_synth_fill fill);
/* Elements [first, first + count) to out; first is a multiple of 4. */
void zm_synth_fill_elements(void *out, const zm_synth_tensor *tensor, uint64_t first, size_t count);

/* tokenizer.json and tokenizer_config.json of a vocabulary of that size (at least ZM_SYNTH_MIN_VOCAB): tokens
 * 0, 1, 2 are padding, begin and end, then one for each byte. The caller frees; NULL when out of memory. */
enum { ZM_SYNTH_PAD = 0, ZM_SYNTH_BOS = 1, ZM_SYNTH_EOS = 2, ZM_SYNTH_MIN_VOCAB = 259 };
char *zm_synth_tokenizer(int vocab_size);
const char *zm_synth_tokenizer_config(void);

/* Writes the plan's tensors as a safetensors file that must not exist; a failure leaves none. */
zmlx_status zm_synth_write(uint64_t *size, const zm_synth_plan *plan, const char *path,
                           bool (*progress)(void *, uint64_t, uint64_t), void *context, zmlx_error *error);

#endif
