#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Wrong use: exit status 2, one line on standard error that says what, nothing on standard output.
source "$(dirname "$0")/lib/expect.sh"

expect_bad 'no command; expected one of generate, validate'
expect_bad 'unknown command "kernel"; expected one of generate, validate' kernel
expect_bad 'unknown command ""' ''
expect_bad 'unknown command "a?b"' $'a\nb'

for word in help --help -h version --version; do
    arguments=(generate)
    [ $word != help ] || arguments=(generate other)
    expect_bad "$word: unexpected argument \"${arguments[-1]}\"; see zmlx --help" $word "${arguments[@]}"
done
expect_bad 'unknown command "kernel"; expected one of generate, validate' help kernel

for command in generate validate patch smart-patch; do
    expect_bad "zmlx $command: MODEL is missing; see zmlx $command --help" "$command"
    expect_bad 'MODEL is empty' "$command" ''
    expect_bad 'unknown option "--no-such"' "$command" "$model" --no-such 1
    expect_bad 'unknown option "-x"' "$command" "$model" -x
    expect_bad 'unexpected argument "other"' "$command" "$model" other
    expect_bad '--device: expected cpu|gpu, got "tpu"' "$command" "$model" --device tpu
    expect_bad '--device: its value cpu|gpu is missing' "$command" "$model" --device
    expect_bad '--dtype: expected float32|float16|bfloat16, got "float"' "$command" "$model" --dtype float
    expect_bad '--threads: expected an integer of at least 1, got "0"' "$command" "$model" --threads 0
    expect_bad '--threads: expected an integer of at most 256, got "257"' "$command" "$model" --threads=257
    expect_bad '--json: takes no value, got "yes"' "$command" "$model" --json=yes
    expect_bad '--patterns: unknown pattern "all_mlp"; expected auto' "$command" "$model" --patterns all_mlp
    expect_bad '--patterns: unknown pattern "residual_norm" (here it is add_rms_norm); expected auto' "$command" "$model" \
        --patterns residual_norm
    expect_bad '--patterns: unknown pattern ""' "$command" "$model" --patterns moe_mlp,
    expect_bad '--patterns: moe_mlp is named twice' "$command" "$model" --patterns moe_mlp,moe_mlp
done
for command in patch smart-patch; do
    expect_bad '--patterns: unknown pattern "none"' "$command" "$model" --patterns none
done
for command in generate validate; do
    expect_bad "zmlx $command: --activations: int8 is for fused products, and --patterns none leaves none; see" \
        "$command" "$model" --prompt a --activations int8 --patterns none
    expect_status 0 "$command" "$model" --prompt a --max-tokens 2 --activations float32 --patterns none
done

bad_generate() {
    local text=$1
    shift
    expect_bad "zmlx generate: $text" generate "$model" "$@"
}
bad_generate 'the prompt is missing'
bad_generate '--prompt: the text is empty' --prompt ''
bad_generate "--prompt-file: the file's name is empty" --prompt-file ''
bad_generate '--prompt, --prompt-file and --prompt-tokens exclude each other' --prompt a --prompt-tokens 1
bad_generate '--prompt-tokens: expected token ids' --prompt-tokens ''
bad_generate '--prompt-tokens: expected token ids' --prompt-tokens 1,,2
bad_generate '--prompt-tokens: expected token ids' --prompt-tokens 1,2,
bad_generate '--prompt-tokens: expected token ids' --prompt-tokens 1,-2
bad_generate '--prompt-tokens: expected token ids' --prompt-tokens 1,99999999999999999999
bad_generate '--max-tokens: expected an integer of at least 1, got "0"' --prompt a --max-tokens 0
bad_generate '--max-tokens: expected an integer of at least 1, got "-3"' --prompt a --max-tokens -3
bad_generate '--max-tokens: expected an integer of at least 1, got "x"' --prompt a --max-tokens x
bad_generate '--max-tokens: expected an integer of at least 1, got ""' --prompt a --max-tokens=
bad_generate '--max-tokens: expected an integer of at least 1, got "1.5"' --prompt a --max-tokens 1.5
bad_generate '--max-tokens: expected an integer of at most 1000000000' --prompt a --max-tokens 99999999999999999999
bad_generate '--max-tokens: its value N is missing' --prompt a --max-tokens
bad_generate '--temp: expected a number of at least 0, got "-1"' --prompt a --temp -1
bad_generate '--temp: expected a number of at least 0, got "nan"' --prompt a --temp nan
bad_generate '--temp: expected a number of at most 1000000' --prompt a --temp 1e999
bad_generate '--top-p: expected a number of at most 1, got "1.5"' --prompt a --top-p 1.5
bad_generate '--top-k: expected an integer of at least 0, got "-1"' --prompt a --top-k -1
bad_generate '--min-p: expected a number of at most 1, got "2"' --prompt a --min-p 2
bad_generate '--seed: expected an integer of at least 0, got "-1"' --prompt a --seed -1
bad_generate '--seed: expected an integer of at most 9007199254740992, got "9007199254740993"' --prompt a --seed 9007199254740993
bad_generate '--ignore-eos: takes no value' --prompt a --ignore-eos=1

expect_bad '--runs: expected an integer of at least 1, got "0"' validate "$model" --runs 0
expect_bad '--max-tokens: expected an integer of at least 1, got "0"' validate "$model" --max-tokens 0
expect_bad '--threshold: expected a number of at least 0.001' smart-patch "$model" --threshold 0
expect_bad 'unexpected argument "here"' doctor here
expect_bad '--threads: expected an integer' doctor --threads many
expect_bad '--threads: expected an integer of at most 256, got "257"' doctor --threads 257
expect_bad 'SHAPE is missing' synth
expect_bad 'DIR is missing' synth llama-3.2-1b
expect_bad '--bits: expected an integer of at least 2' synth llama-3.2-1b dir --bits 1
expect_bad '--layers: expected an integer of at least 1' synth llama-3.2-1b dir --layers 0
expect_bad 'no-such-shape' synth no-such-shape dir
expect_bad '' synth llama-3.2-1b dir --bits 7
expect_bad '' synth llama-3.2-1b dir --group-size 48
[ ! -e dir ] || fail "synth left a folder behind after wrong use"
finish
