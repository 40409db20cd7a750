/* SPDX-License-Identifier: MIT */
/* The subjects of `zmlx bench` and what they share. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "command.h"
#include "options.h"

int cli_bench_model(int argc, char **argv);
int cli_bench_moe(int argc, char **argv);

/* Threads that read memory for a bandwidth to compare with; 0: on a GPU. */
int cli_bench_probe_threads(int *n_threads, const cli_general *general);

#endif
