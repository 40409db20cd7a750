/* SPDX-License-Identifier: MIT */
/* decode's kernels and those of prompts compile with NVRTC, which needs neither a GPU nor a folder, and decode's take
 * pieces of weights and rows of x of the bytes that their launches give them. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/text.h"
#include "fused/cuda/launch.h"
#include "fused/cuda/program.h"
#include "fused/cuda/prompt_node.h"
#include "fused/cuda/sizes.cuh"
#include "mlx/gpu.h"
#include "runtime/cache.h"
#include "temporary.h"

enum { CAPABILITY = 90 };

/* Here in place of MLX's. */
zm_gpu_kind zm_gpu_get(int *compute_capability) {
    if (compute_capability) *compute_capability = CAPABILITY;
    return ZM_GPU_CUDA;
}

/* Steps of 512 (up to 4 bits), 256 or, in mxfp4, 1024 elements come in pieces of up to 5, of 3, of 5 and of 4; scales
 * by 16, 8 and 4 bytes, and from the word before. A row of the hidden size brings all kernels, 8 chosen experts those
 * on tensor cores; these are compiled with stamps too. */
static const zm_decode_settings settings[] = {
    {.bits = 4, .group_size = 64, .k = 704, .hidden_size = 704, .head_dim = 64, .top_k = 4},
    {.bits = 4, .group_size = 64, .k = 512, .hidden_size = 512, .head_dim = 128, .top_k = 8, .is_float16 = true},
    {.bits = 4, .group_size = 32, .k = 2880, .hidden_size = 2880, .head_dim = 64, .top_k = 4, .is_mxfp4 = true},
    {.bits = 3, .group_size = 64, .k = 2880, .hidden_size = 64, .head_dim = 64, .top_k = 4},
    {.bits = 4, .group_size = 128, .k = 7168, .hidden_size = 64, .head_dim = 64, .top_k = 2},
    {.bits = 8, .group_size = 64, .k = 2048, .hidden_size = 64, .head_dim = 64, .top_k = 4, .is_float16 = true},
    {.bits = 6, .group_size = 128, .k = 640, .hidden_size = 64, .head_dim = 64, .top_k = 1},
    {.bits = 5, .group_size = 32, .k = 1792, .hidden_size = 64, .head_dim = 64, .top_k = 1, .is_float16 = true},
    {.bits = 2, .group_size = 64, .k = 9728, .hidden_size = 64, .head_dim = 64, .top_k = 1},
};

/* What launches reserve for a weight, as claims about the text. */
static void claim_sizes(zm_text *text, const zm_weight *weight) {
    zm_text_printf(text, "static_assert(layout<ZM_K>::X * 16 == %d, \"bytes of a row of x\");\n",
                   zm_launch_staged_bytes(weight));
    for (int rows = 1; rows <= 3; rows++) {
        zm_launch launch = {0};
        zm_product_plan plan = {weight, .n_tasks = 1, .task_rows = rows, .n_inputs = 1};
        zm_launch_reserve(&launch, &plan, 1, 1);
        zm_text_printf(text,
                       "static_assert(layout<ZM_K>::PIECES == %d, \"pieces of a row\");\n"
                       "static_assert(slot<ZM_K, %d, false>::BYTES == %d && slot<ZM_K, %d, true>::BYTES == %d, "
                       "\"bytes of a piece of %d rows\");\n",
                       plan.n_pieces, rows, plan.round_bytes, rows, plan.round_bytes, rows);
    }
}

/* A key of every kind. */
static const zm_prompt_code_key prompt_keys[] = {
    {.bits = 4, .group_size = 64, .weight_rows = ZM_PROMPT_FEW_WEIGHTS, .span = 8},
    {.kind = ZM_PROMPT_GATED | ZM_PROMPT_FIRST, .bits = 8, .group_size = 64, .weight_rows = ZM_PROMPT_MANY_WEIGHTS,
     .span = 4, .is_float16 = true},
    {.kind = ZM_PROMPT_FIRST | ZM_PROMPT_SECOND, .bits = 3, .group_size = 128, .weight_rows = ZM_PROMPT_MANY_WEIGHTS,
     .span = 2},
    {.kind = ZM_PROMPT_ROUTE, .count = 4},
    {.kind = ZM_PROMPT_ROUTE, .count = 8, .is_float16 = true},
    {.kind = ZM_PROMPT_PLAN},
    {.kind = ZM_PROMPT_COMBINE, .is_float16 = true},
    {.kind = ZM_PROMPT_CONVOLVE},
    {.kind = ZM_PROMPT_EMBED, .bits = 5, .group_size = 64},
    {.kind = ZM_PROMPT_FEW, .bits = 4, .group_size = 64, .k = 2048, .count = 3},
    {.kind = ZM_PROMPT_FEW, .bits = 6, .group_size = 32, .k = 704, .count = 7, .is_float16 = true},
    {.kind = ZM_PROMPT_SORTED_IN, .bits = 4, .group_size = 32, .k = 2880},
    {.kind = ZM_PROMPT_SORTED_OUT, .bits = 4, .group_size = 32, .k = 2880},
    {.kind = ZM_PROMPT_TILED | ZM_PROMPT_GATED | ZM_PROMPT_FIRST, .bits = 4, .group_size = 64, .k = 2048},
    {.kind = ZM_PROMPT_TILED | ZM_PROMPT_SECOND, .bits = 6, .group_size = 128, .k = 768, .is_float16 = true},
    {.kind = ZM_PROMPT_TILED, .bits = 8, .group_size = 32, .k = 256},
};

static bool is_skipped; /* without NVRTC */

/* what: for a failure. */
static void compile(zm_text *text, bool for_it_alone, int number, const char *what) {
    assert_false(text->failed);
    zm_cuda_source source = {.text = text->data, .size = text->size, .n_parts = 1,
                             .compute_capability = CAPABILITY, .for_it_alone = for_it_alone};
    const zm_text *cubin;
    zmlx_error error;
    zmlx_status status = is_skipped ? ZMLX_OK : zm_compile_cuda(&cubin, NULL, &source, 0, &error);
    zm_text_free(text);
    is_skipped = is_skipped || status == ZMLX_ERROR_UNSUPPORTED;
    if (status == ZMLX_ERROR_UNSUPPORTED) print_message("skipped: %s\n", error.message);
    else if (status) fail_msg("%s %d: %s", what, number, error.message);
}

static void compiles_with_the_launches_sizes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        zm_decode_settings of = settings[i];
        zm_weight weight = {.quantization = {of.group_size, of.bits, of.is_mxfp4 ? "mxfp4" : "affine"},
                            .in_features = of.k,
                            .out_features = 2};
        zm_text text = {0};
        zm_decode_program_text(&text, of);
        claim_sizes(&text, &weight);
        compile(&text, false, (int)i, "settings");
        if (of.k != of.hidden_size) continue;
        of.stamps = true;
        zm_decode_program_text(&text, of);
        compile(&text, false, (int)i, "with stamps: settings");
    }
}

static void prompts_compile(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof prompt_keys / sizeof *prompt_keys; i++) {
        zm_text text = {0};
        zm_prompt_code_key key = prompt_keys[i];
        bool for_it_alone = zm_prompt_code_text(&text, key);
        if (key.kind & ZM_PROMPT_TILED && key.kind < ZM_PROMPT_PLAN) {
            zm_weight weight = {.quantization = {key.group_size, key.bits, "affine"}, .in_features = key.k};
            zm_text_printf(&text, "static_assert(sizeof(tile_ring) == %d, \"bytes of a warp\");\n",
                           zm_launch_tile_bytes(&weight, TILED_SLOTS(key.bits, key.k)));
        }
        compile(&text, for_it_alone, (int)i, "prompt key");
    }
}

/* Where no file may have a byte, as on a full disk: the kernel is compiled, once, and only not kept. */
static int compile_without_files(void) {
    static const char text[] = "extern \"C\" __global__ void zm_unkept(int *x) { *x = 1; }\n";
    const zm_cuda_source source = {.text = text, .size = sizeof text - 1, .n_parts = 1,
                                   .compute_capability = CAPABILITY};
    const struct rlimit none = {0, 0};
    const zm_text *cubin;
    int compiled;
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &none)) return 1;
    zmlx_status status = zm_compile_cuda(&cubin, &compiled, &source, 0, NULL);
    if (status) return status == ZMLX_ERROR_UNSUPPORTED ? 0 : 2;
    bool is_whole = cubin->size > 100 && !memcmp(cubin->data, "\177ELF", 4);
    return is_whole && compiled && zm_cache_get_counts().compiled == 1 ? 0 : 3;
}

static void full_disk(void **state) {
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) _exit(compile_without_files());
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static atomic_bool is_compiled;

static void *compile_in_thread(void *unused) {
    (void)unused;
    const zm_prompt_code_key slow = {.kind = ZM_PROMPT_SORTED_IN, .bits = 4, .group_size = 32, .k = 5760};
    const zm_text *cubin;
    zmlx_status status = zm_prompt_code_get(&cubin, slow, NULL);
    atomic_store(&is_compiled, true);
    return status ? unused : &is_compiled;
}

/* Who wants a kernel that is there has it while another thread compiles one. */
static void compiling_stops_nobody(void **state) {
    (void)state;
    enum { LEAST = 20, MICROSECONDS = 1000 };
    const zm_prompt_code_key known = {.kind = ZM_PROMPT_PLAN};
    const zm_text *first, *cubin;
    char folder[TEMPORARY_SIZE];
    pthread_t thread;
    void *compiled;
    int n_taken = 0;
    if (is_skipped) skip();
    assert_non_null(mkdtemp(temporary_template(folder)));
    assert_int_equal(zm_cache_set(folder, NULL, NULL), ZMLX_OK); /* which has nothing yet */
    assert_int_equal(zm_prompt_code_get(&first, known, NULL), ZMLX_OK);
    assert_int_equal(pthread_create(&thread, NULL, compile_in_thread, NULL), 0);
    while (!atomic_load(&is_compiled)) {
        usleep(MICROSECONDS);
        assert_int_equal(zm_prompt_code_get(&cubin, known, NULL), ZMLX_OK);
        assert_ptr_equal(cubin, first);
        n_taken++;
    }
    pthread_join(thread, &compiled);
    assert_non_null(compiled);
    assert_true(n_taken >= LEAST);
    assert_int_equal(zm_cache_set(NULL, NULL, NULL), ZMLX_OK);
    temporary_remove(folder);
}

int main(void) {
    /* First what forks, before NVRTC has run here. */
    const struct CMUnitTest tests[] = {cmocka_unit_test(full_disk), cmocka_unit_test(compiles_with_the_launches_sizes),
                                       cmocka_unit_test(prompts_compile), cmocka_unit_test(compiling_stops_nobody)};
    enum { SKIPPED = 77 };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    return n_failed || !is_skipped ? n_failed : SKIPPED;
}
