# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: MIT
# Read by measure.sh: its parts, a function each, called with shape and bits.

# size SHAPE BITS: GB of a checkpoint or GGUF, and seconds of decode's part on an H100
size() {
    local row
    case $1 in
    lfm2-8b-a1b) row="5 70" ;;
    qwen3-30b-a3b) row="17 85" ;;
    gpt-oss-20b) row="12 75" ;;
    mixtral-8x7b) row="27 120" ;;
    qwen3-4b) row="3 35" ;;
    llama-3.2-1b) row="1 25" ;;
    esac
    echo $((${row% *} * $2 / 4 + 1)) $((${row#* } * ($2 + 8) / 12))
}

# checkpoint SHAPE BITS: makes $folder, which stays until another one is needed
checkpoint() {
    local gb
    folder=$files/$1-$2
    [ ! -d "$folder" ] || return 0
    rm -rf "$files"/*-[2-8]
    read -r gb _ <<<"$(size "$1" "$2")"
    set -- "$1" "$folder" --bits "$2"
    [ "$4" != 4 ] || set -- "$1" "$folder" # gpt-oss has its experts in mxfp4 then
    run $((30 + 3 * gb)) "$ZMLX" synth "$@" && return
    rm -rf "$folder"
    return 1
}

measure_decode() {
    local seconds gguf=$files/model.gguf
    read -r _ seconds <<<"$(size "$1" "$2")"
    fits "$seconds" && checkpoint "$1" "$2" || return
    sync # nothing is written meanwhile
    run 150 "$ZMLX" bench model "$folder" --prompt-length 512 --max-tokens 256 --runs 2 --patterns decode \
        "${bandwidth[@]}"
    [ -n "$LLAMA" ] && [[ $2 == [48] ]] || return
    run 120 python3 bench/gguf_shape.py "$1" "$gguf" --bits "$2" || return
    sync
    # Without a working CUDA llama-bench says so and runs on the CPU.
    run 70 env LD_LIBRARY_PATH="$LLAMA:$LLAMA/lib:$LD_LIBRARY_PATH" "$LLAMA/llama-bench" -m "$gguf" \
        -p 0 -n 256 -d 512 -r 2 -ngl 99 -fa "$FLASH"
    rm -f "$gguf"
}

# With MLX's choice of attention, as the logs of prompts have it.
measure_prompts() {
    fits 90 && checkpoint lfm2-8b-a1b 4 || return
    local bench=(env -u MLX_CUDA_USE_CUDNN_SDPA "$ZMLX" bench model "$folder" --max-tokens 2)
    run 150 "${bench[@]}" --prompt-length 512 --runs 3
    run 60 "${bench[@]}" --prompt-length 2048 --runs 3
    run 30 "${bench[@]}" --prompt-length 512 --runs 7 --patched-only
    run 30 "${bench[@]}" --prompt-length 2048 --runs 5 --patched-only
}
measure_moe() {
    fits 50 && checkpoint lfm2-8b-a1b 4 || return
    run 90 "$ZMLX" bench moe "$folder" --patterns prompt --runs 3
}
measure_timeline() {
    fits 50 && checkpoint "$1" "$2" || return
    run 90 "$ZMLX" bench model "$folder" --patterns decode,prompt --patched-only --timeline "${bandwidth[@]}"
}
measure_tokens() { fits 250 && run 450 python3 bench/mlx_lm_tokens.py "$ZMLX" 500; }
measure_table() { # products of float32 without TF32, which MLX uses otherwise
    fits 200 || return
    run 260 env MLX_ENABLE_TF32=0 "$TESTS/kernel_table" --device gpu --jobs "$(nproc)"
    run 60 env MLX_ENABLE_TF32=0 "$TESTS/kernel_table" --device gpu --control
}

# row SECONDS LABEL COMMAND: one more for the pool
row() { printf '%s\t%s\t%s\n' "$@" >>"$logs/$part.rows"; }
measure_tests() {
    local test name
    fits 200 || return
    # what takes longest first
    awk '{ print /widths|test_float16|published|random/ ? 0 : /trained|few|linear|experts|gated/ ? 1 : 2, $0 }' \
        "$bundle/TESTS" | sort -s -n -k 1,1 | while read -r _ test name; do
        if [ "$name" != - ]; then
            row 400 "$test $name" "\$TESTS/test_$test $name"
        else
            row 400 "$test" "ZMLX_TEST_DEVICE=gpu MLX_ENABLE_TF32=0 \$TESTS/test_$test | tail -15"
        fi
    done
    pool 11
}

# whole SHAPE BITS DTYPE: in a job
whole() {
    local folder=$files/whole-$1-$2-$3 options=() status
    [ "$2" = 4 ] || options=(--bits "$2")
    "$ZMLX" synth "$1" "$folder" "${options[@]}" >/dev/null &&
        "$ZMLX" validate "$folder" --prompt-tokens 5,6,7 --max-tokens 200 --runs 1 --ignore-eos --dtype "$3"
    status=$?
    rm -rf "$folder"
    return $status
}
measure_validate() {
    local shape dtype
    fits 150 || return
    for shape in lfm2-moe-tiny-4bit llama-tiny-4bit; do
        for dtype in bfloat16 float16; do
            row 250 "validate $shape, $dtype" \
                "\$ZMLX validate models/$shape --max-tokens 200 --runs 1 --ignore-eos --dtype $dtype"
        done
    done
    for shape in qwen3-30b-a3b lfm2-8b-a1b gpt-oss-20b llama-3.2-1b qwen3-4b; do
        row 250 "validate $shape" "whole $shape 4 bfloat16"
    done
    row 250 "validate lfm2-8b-a1b, 8 bits" "whole lfm2-8b-a1b 8 bfloat16"
    row 250 "validate lfm2-8b-a1b, float16" "whole lfm2-8b-a1b 4 float16"
    pool 4 # about 45 GB of the card
}

# sanitized TOOL MODEL: in a job; of kernels, those of this project
sanitized() {
    compute-sanitizer --tool "$1" --kernel-regex kns=zm_ --error-exitcode 9 \
        "$ZMLX" generate "$2" --prompt-tokens 5 --max-tokens 3 --ignore-eos --patterns decode
}
export -f whole sanitized
measure_sanitize() {
    local model layers tool
    fits 100 || return
    mkdir -p "$files/few"
    for model in {lfm2-8b-a1b:3,qwen3-30b-a3b:2,gpt-oss-20b:2,llama-3.2-1b:1,qwen3-4b:1}; do
        IFS=: read -r model layers <<<"$model"
        run 30 "$ZMLX" synth "$model" "$files/few/$model" --layers "$layers" --vocab 4096
    done
    for model in models/{lfm2-moe,llama}-tiny-4bit "$files"/few/*; do
        for tool in memcheck racecheck synccheck; do
            row 240 "$tool ${model##*/}" "sanitized $tool $model"
        done
    done
    pool 6
}
