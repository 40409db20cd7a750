/* SPDX-License-Identifier: MIT */
/* The subjects of `zmlx bench` and what they share. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "command.h"
#include "options.h"

int cli_bench_model(int argc, char **argv);
int cli_bench_moe(int argc, char **argv);

/* The bandwidth to compare with, in bytes a second: given in GB/s, else measured on the CPU; 0 on a GPU. */
int cli_bench_bandwidth(double *bandwidth, double given, const cli_general *general);

#endif
