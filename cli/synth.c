/* SPDX-License-Identifier: MIT */
#include "zmlx/synth.h"

#include "options.h"
#include "output.h"

typedef struct synth_values {
    cli_general general;
    int64_t bits, group_size, n_layers, vocab_size, seed;
} synth_values;

#define AT(member) offsetof(synth_values, member)
static const cli_option options[] = {
    {"bits", CLI_INTEGER, AT(bits), "4|8", "bits of a weight; 2, 3, 5 and 6 work too, 16 is\nbfloat16 (4)", 2,
     16},
    {"group-size", CLI_INTEGER, AT(group_size), "N", "weights that share a scale: 32, 64 or 128 (64)", 32,
     128},
    {"layers", CLI_INTEGER, AT(n_layers), "N", "fewer layers, same widths (default: all)", 1, 10000},
    {"vocab", CLI_INTEGER, AT(vocab_size), "N", "size of the vocabulary (default: the shape's)", 259, 1e8},
    {"seed", CLI_INTEGER, AT(seed), "S", "of the random weights (0)", 0, 9007199254740992.0},
    CLI_JSON_OPTION(synth_values),
};

static const cli_page page = {
    .arguments = "SHAPE DIR",
    .about =
        "SHAPE is lfm2-8b-a1b, lfm2-24b-a2b, qwen3-30b-a3b, qwen3-next-80b-a3b, mixtral-8x7b,\n"
        "gpt-oss-20b, qwen3-4b, llama-3.2-1b, or a config.json. DIR is made, or empty before; it\n"
        "becomes a complete checkpoint with a tokenizer of single bytes. What the model says is noise:\n"
        "it is for timing.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

static bool draw_write(void *context, uint64_t done, uint64_t total) {
    cli_progress_draw(context, done, total);
    return !cli_interrupted();
}

static int show(const synth_values *values, const char *shape, const char *folder, uint64_t size) {
    if (!values->general.json) {
        cli_print("%s: %s, %.3f GB of weights\n", folder, shape, 1e-9 * (double)size);
        return CLI_DONE;
    }
    json_t *object = json_object();
    cli_json_set(object, "model", cli_json_string(folder));
    cli_json_set(object, "shape", cli_json_string(shape));
    cli_json_set(object, "weight_bytes", json_integer((json_int_t)size));
    cli_json_set(object, "seed", json_integer(values->seed));
    return cli_print_json(object);
}

int cli_synth(const cli_command *command, int argc, char **argv) {
    synth_values values = {0};
    const char *arguments[2];
    int status;
    if (!cli_parse(command, &page, &values, arguments, argc, argv, &status)) return status;
    cli_progress progress;
    cli_progress_start(&progress, "writing");
    zmlx_synth_options choice = {
        .bits = (int)values.bits,
        .group_size = (int)values.group_size,
        .n_layers = (int)values.n_layers,
        .vocab_size = (int)values.vocab_size,
        .seed = (uint64_t)values.seed,
        .progress = draw_write,
        .progress_context = &progress,
    };
    cli_catch_interrupt();
    uint64_t size;
    zmlx_error error;
    zmlx_status result = zmlx_synth(&size, arguments[0], arguments[1], &choice, &error);
    cli_progress_end(&progress);
    if (result && cli_interrupted()) {
        cli_note("cancelled; %s was not made", arguments[1]);
        return cli_interrupt_status();
    }
    return result ? cli_fail_option(command, &page, &error) : show(&values, arguments[0], arguments[1], size);
}
