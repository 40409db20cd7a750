/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "output.h"

const char cli_report_nothing_patched[] = "nothing was patched: this compares the model with itself";

static const char *verdict(const zmlx_validation *validation) {
    if (validation->approximate) return "APPROXIMATE";
    return validation->passed ? "PASS" : "FAIL";
}

static json_t *describe_rates(const double *rates, int count) {
    json_t *array = json_array();
    for (int i = 0; i < count; i++) cli_json_append(array, cli_json_measured(rates[i]));
    return array;
}

static json_t *describe_side(const zmlx_validate_side *side) {
    json_t *object = json_object();
    cli_json_set(object, "prefill_tok_s", describe_rates(side->prefill_tok_s, side->n_runs));
    cli_json_set(object, "decode_tok_s", describe_rates(side->decode_tok_s, side->n_runs));
    cli_json_set(object, "median_prefill_tok_s", cli_json_measured(side->median_prefill_tok_s));
    cli_json_set(object, "median_decode_tok_s", cli_json_measured(side->median_decode_tok_s));
    cli_json_set(object, "peak_memory_bytes", json_integer((json_int_t)side->peak_memory_bytes));
    return object;
}

static json_t *describe_fidelity(const zmlx_validation *validation) {
    json_t *object = json_object(), *divergence = json_null();
    if (validation->diverged) {
        divergence = json_object();
        cli_json_set(divergence, "index", json_integer((json_int_t)validation->first_divergence));
        cli_json_set(divergence, "baseline", json_integer(validation->baseline_token));
        cli_json_set(divergence, "patched", json_integer(validation->patched_token));
        cli_json_set(divergence, "margin", cli_json_number(validation->margin));
    }
    cli_json_set(object, "matched", json_integer((json_int_t)validation->matched));
    cli_json_set(object, "total", json_integer((json_int_t)validation->total));
    cli_json_set(object, "first_divergence", divergence);
    return object;
}

static json_t *describe_teacher_forced(const zmlx_validation *validation) {
    json_t *object = json_object();
    cli_json_set(object, "positions", json_integer((json_int_t)validation->positions));
    cli_json_set(object, "argmax_agree", json_integer((json_int_t)validation->argmax_agree));
    cli_json_set(object, "max_abs_logit_diff", cli_json_number(validation->max_abs_logit_diff));
    cli_json_set(object, "mean_kl", cli_json_number(validation->mean_kl));
    return object;
}

static json_t *describe_environment(const validate_subject *subject) {
    const zmlx_model_info *info = zmlx_model_get_info(subject->model);
    char date[32] = "";
    time_t seconds = time(NULL);
    struct tm parts;
    if (gmtime_r(&seconds, &parts)) strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &parts);
    json_t *object = json_object();
    cli_json_set(object, "zmlx", json_string(zmlx_version()));
    cli_json_set(object, "mlx", cli_json_string(subject->system->mlx_version));
    cli_json_set(object, "device", cli_json_string(info->device));
    cli_json_set(object, "cpu", cli_json_string(subject->system->cpu_name));
    cli_json_set(object, "threads", json_integer(info->n_threads));
    cli_json_set(object, "dtype", cli_json_string(info->dtype));
    cli_json_set(object, "date", json_string(date));
    cli_json_set(object, "command", cli_json_string(subject->command));
    return object;
}

json_t *cli_report_json(const validate_subject *subject) {
    const zmlx_validation *validation = subject->validation;
    json_t *object = json_object(), *patched = describe_side(&validation->patched);
    cli_json_set(patched, "patterns", cli_json_counts(validation->counts, validation->n_counts));
    cli_json_set(object, "model", cli_json_string(subject->folder));
    cli_json_set(object, "verdict", json_string(verdict(validation)));
    cli_json_set(object, "fidelity", describe_fidelity(validation));
    cli_json_set(object, "teacher_forced", describe_teacher_forced(validation));
    cli_json_set(object, "baseline", describe_side(&validation->baseline));
    cli_json_set(object, "patched", patched);
    cli_json_set(object, "decode_speedup", cli_json_measured(validation->decode_speedup));
    cli_json_set(object, "prefill_speedup", cli_json_measured(validation->prefill_speedup));
    cli_json_set(object, "environment", describe_environment(subject));
    return object;
}

static void print_runs(const char *name, const zmlx_validate_side *side) {
    char prefill[32], decode[32];
    cli_print("%s\n", name);
    for (int i = 0; i < side->n_runs; i++)
        cli_print("  run %d/%d: prompt %s tok/s, decode %s tok/s\n", i + 1, side->n_runs,
                  cli_measured_text(prefill, side->prefill_tok_s[i], 1),
                  cli_measured_text(decode, side->decode_tok_s[i], 1));
}

static void print_rates(const char *name, double baseline, double patched) {
    char left[32], right[32];
    cli_print("%-18s %12s %12s\n", name, cli_measured_text(left, baseline, 1),
              cli_measured_text(right, patched, 1));
}

static void print_token(const char *side, const zmlx_model *model, int32_t token) {
    if (token < 0) {
        cli_print(", %s had ended", side);
        return;
    }
    cli_print(", %s %d", side, token);
    const zmlx_tokenizer *tokenizer = zmlx_model_tokenizer(model);
    char *text, *quoted;
    size_t size;
    if (!tokenizer || zmlx_tokenizer_decode(tokenizer, &text, &size, &token, 1, false, NULL)) return;
    json_t *string = cli_json_bytes(text, size);
    quoted = json_dumps(string, JSON_ENCODE_ANY);
    if (quoted) cli_print(" %s", quoted);
    free(quoted);
    json_decref(string);
    free(text);
}

static void print_fidelity(const validate_subject *subject) {
    const zmlx_validation *validation = subject->validation;
    cli_print("\nFIDELITY: %zu/%zu tokens identical  [%s]\n", validation->matched, validation->total,
              verdict(validation));
    if (validation->diverged) {
        cli_print("First divergence at token %zu", validation->first_divergence);
        print_token("baseline", subject->model, validation->baseline_token);
        print_token("patched", subject->model, validation->patched_token);
        cli_print(", margin %.3g\n", validation->margin);
    }
    if (!validation->baseline_stable)
        cli_print("The baseline did not repeat itself: nothing can be compared.\n");
    cli_print("Teacher forced: %zu/%zu positions agree, largest logit difference %.3g, mean KL %.3g\n",
              validation->argmax_agree, validation->positions, validation->max_abs_logit_diff,
              validation->mean_kl);
}

void cli_report_print(const validate_subject *subject) {
    const zmlx_validation *validation = subject->validation;
    const zmlx_validate_side *baseline = &validation->baseline, *patched = &validation->patched;
    const zmlx_model_info *info = zmlx_model_get_info(subject->model);
    print_runs("Baseline: unpatched", baseline);
    print_runs("Patched", patched);
    cli_print("\nVALIDATION REPORT\n  Model:     %s (%s, %s)\n  Patterns: ", subject->folder, info->device,
              info->dtype);
    for (size_t i = 0; i < validation->n_counts; i++)
        cli_print("%s %s %d", i ? "," : "", validation->counts[i].pattern, validation->counts[i].count);
    cli_print("%s\n  Tokens:    %zu after a prompt of %zu\n", validation->n_counts ? "" : " none",
              validation->n_baseline_tokens, subject->n_prompt);
    if (!validation->n_counts) cli_print("  %s\n", cli_report_nothing_patched);
    print_fidelity(subject);
    cli_print("\n%-18s %12s %12s\n", "", "Baseline", "Patched");
    print_rates("Prompt tok/s", baseline->median_prefill_tok_s, patched->median_prefill_tok_s);
    print_rates("Decode tok/s", baseline->median_decode_tok_s, patched->median_decode_tok_s);
    cli_print("%-18s %12.3f %12.3f\n", "Peak memory (GB)", 1e-9 * (double)baseline->peak_memory_bytes,
              1e-9 * (double)patched->peak_memory_bytes);
    char speedup[32];
    cli_print("\nDecode speedup: %s%s\n", cli_measured_text(speedup, validation->decode_speedup, 3),
              validation->decode_speedup > 0 ? "x" : "");
    cli_flush();
}
