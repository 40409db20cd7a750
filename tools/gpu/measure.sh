#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Measures and proves a CUDA build that tools/gpu/pack.sh packed, on a machine with a GPU; needs no network. One call at a
# time: each begins by removing the last one's files in zmlx-measure below TMPDIR (/tmp).
#
#   [SETTING=VALUE...] tools/gpu/measure.sh WHAT...
#
# WHAT is done in the order given:
#   decode[:SHAPE[:BITS]]  256 tokens after 512, unpatched and patched in turn, then llama.cpp (all of README's)
#   prompts, moe           prompts of 512 and 2048 tokens, and layers of experts, of lfm2-8b-a1b
#   timeline[:SHAPE]       where the time of patched decoding goes (lfm2-8b-a1b and qwen3-30b-a3b)
#   tokens                 500 tokens after each prompt of tests/vectors beside mlx-lm's own
#   table                  every kernel of the catalogue against float64
#   tests                  the packed unit tests, a process each
#   validate               200 tokens of whole models, unpatched and patched
#   sanitize               compute-sanitizer over three tokens of small models, and of few layers of large ones
# The last three need no quiet machine: where they follow one another they run side by side. What is not expected to fit
# into LIMIT is left out and named at the end as NOT RUN. Status 1 where anything failed or was not run.
#
# Settings:
#   BUNDLE     the archive of pack.sh (build/gpu.tar.xz)
#   MLX_SETUP  a script to source that makes MLX for CUDA and Python's packages available, if they are not found anyway
#   MLX_ROOT   folder of Python's package mlx, whose lib/ is searched; MLX_SETUP may set it
#   LLAMA      folder with llama-bench, its libraries beside it or in lib/; without it llama.cpp is left out
#   FLASH      what llama-bench's -fa gets (auto,off)
#   LIMIT      seconds (560); the end may take 20 more
#   OUT        folder for the log and for the kernels that MLX compiled (build/measured). These save a later call two
#              minutes, also on another machine: ptx.tar.xz is taken from here or from beside BUNDLE
#   SHM_SIZE   gives /dev/shm that size first, such as 100G (as root); checkpoints go there if it has 60 GB
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
source tools/gpu/machine.sh
source tools/gpu/parts.sh

# The most important first.
table="lfm2-8b-a1b qwen3-30b-a3b gpt-oss-20b lfm2-8b-a1b:8 llama-3.2-1b qwen3-4b mixtral-8x7b"
parts=()
[ $# -gt 0 ] || fail "expected: tools/gpu/measure.sh WHAT...; its head says more"
for what; do
    IFS=: read -r _ shape bits <<<"$what"
    case $what in
    decode) for shape in $table; do parts+=("decode:$shape"); done ;;
    timeline) parts+=(timeline:lfm2-8b-a1b timeline:qwen3-30b-a3b) ;;
    decode:* | timeline:*)
        [[ " $table " == *" $shape "* ]] || fail "$what: there is no such shape; there are $table"
        [[ ${bits:-4} == [234568] ]] || fail "$what: expected 2, 3, 4, 5, 6 or 8 bits"
        parts+=("$what")
        ;;
    prompts | moe | tokens | table | tests | validate | sanitize) parts+=("$what") ;;
    *) fail "there is no $what; the head of tools/gpu/measure.sh says what there is" ;;
    esac
done

prepare
for part in "${parts[@]}"; do
    IFS=: read -r name shape bits <<<"$part"
    [[ $name == @(tests|validate|sanitize) ]] || settle
    "measure_$name" "$shape" "${bits:-4}"
done
settle
finish
