# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: MIT
# Read by measure.sh: the machine, and how parts of a measurement run in the time that is left.

: "${BUNDLE:=build/gpu.tar.xz}" "${MLX_SETUP:=}" "${LLAMA:=}" "${FLASH:=auto,off}"
: "${LIMIT:=560}" "${OUT:=build/measured}" "${SHM_SIZE:=}"
work=${TMPDIR:-/tmp}/zmlx-measure bundle=$work/bundle logs=$work/logs ptx=$work/ptx # the last is kept for the next call
begun=$EPOCHSECONDS deadline=$((EPOCHSECONDS + LIMIT - 10))
failed=() not_run=() pools=() pooled=()

fail() {
    echo "measure: $*" >&2
    exit 2
}
left() { echo $((begun + LIMIT - EPOCHSECONDS)); }
say() { echo "== $((EPOCHSECONDS - begun)) s: $*"; }
free_gb() { df -BG --output=avail "$1" | tail -1 | tr -dc 0-9; }

prepare() {
    local archive folder compiled_in
    [ -f "$BUNDLE" ] || fail "there is no $BUNDLE; set BUNDLE to an archive of tools/gpu/pack.sh"
    [ -z "$LLAMA" ] || [ -x "$LLAMA/llama-bench" ] || fail "there is no $LLAMA/llama-bench"
    rm -rf "$bundle" "$logs" "$work/files"
    mkdir -p "$OUT" "$bundle" "$logs" "$ptx" || exit
    exec > >(tee -a "$OUT/measure.log") 2>&1
    writer=$!
    say "$(date -u '+%F %T') UTC, $(uname -r), $(nproc) processors: ${parts[*]}"

    # Reading and writing checkpoints are as fast everywhere in memory.
    [ -z "$SHM_SIZE" ] || mount -o "remount,size=$SHM_SIZE" /dev/shm
    files=$work/files
    [ ! -w /dev/shm ] || [ "$(free_gb /dev/shm)" -lt 60 ] || files=$(mktemp -d /dev/shm/zmlx.XXXXXX)
    trap 'stop_pools; rm -rf "$files" "$logs"' EXIT

    if [ -n "$MLX_SETUP" ]; then
        set +u # it may be less strict
        # shellcheck source=/dev/null
        source "$MLX_SETUP" || say "$MLX_SETUP failed"
        set -u
    fi
    tar -C "$bundle" -xJf "$BUNDLE" || fail "$BUNDLE was not unpacked"
    cat "$bundle/COMMIT"
    # Tests look for models where they were compiled.
    compiled_in=$(<"$bundle/SOURCE")
    [ -e "$compiled_in" ] || { mkdir -p "${compiled_in%/*}" && ln -sfn "$PWD" "$compiled_in"; }
    [ -e "$compiled_in/models" ] || say "tests will fail: they look for models in $compiled_in"

    LD_LIBRARY_PATH=$bundle/lib${MLX_ROOT:+:$MLX_ROOT/lib}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    for folder in /usr/local/cuda/lib64 /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
        [ ! -d "$folder" ] || LD_LIBRARY_PATH+=:$folder
    done
    # MLX's own vector attention on both sides: with cuDNN's, unpatched runs do not repeat their own tokens.
    export MLX_CUDA_USE_CUDNN_SDPA=0
    export ZMLX=$bundle/zmlx TESTS=$bundle/tests files LD_LIBRARY_PATH PATH=$PATH:/usr/local/cuda/bin
    export TMPDIR=$files/tmp XDG_CACHE_HOME=$work/cache MLX_PTX_CACHE_DIR=$ptx PYTHONUNBUFFERED=1
    mkdir -p "$TMPDIR"
    for archive in "$OUT/ptx.tar.xz" "$(dirname "$BUNDLE")/ptx.tar.xz"; do
        [ ! -f "$archive" ] || tar -C "$ptx" --skip-old-files -xJf "$archive"
    done

    card=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,memory.total --format=csv,noheader)
    case $card in # GB/s that a copy reaches
    *H100*) bandwidth=(--bandwidth 3030) ;;
    *H200*) bandwidth=(--bandwidth 4270) ;;
    *) bandwidth=() ;;
    esac
    say "${card:-no GPU is found}"
    say "$("$ZMLX" --version 2>&1 | head -1), llama.cpp: ${LLAMA:-none}, $(free_gb "$files/tmp") GB in $files"
}

# fits SECONDS: whether the part is expected to end in time
fits() {
    say "$part: $1 s expected, $(left) left"
    [ "$(left)" -lt "$1" ] || return 0
    not_run+=("$part")
    return 1
}

# run SECONDS COMMAND...: at most so long; a failure is kept for the end, and all goes on
run() {
    local seconds=$1 status TIMEFORMAT='-- %R s'
    shift
    echo "\$ $*"
    [ "$seconds" -lt "$(left)" ] || seconds=$(left)
    time timeout -k 5 $((seconds > 0 ? seconds : 1)) "$@"
    status=$?
    [ $status = 0 ] && return
    echo "-- status $status$([[ $status != @(124|137) ]] || echo ": out of time")"
    failed+=("$part ($status)")
    return $status
}

# pool JOBS: the rows of the part, so many at a time; settle waits for them. A job's output comes when it has ended.
pool() {
    export verdicts=$logs/$part
    touch "$verdicts" "$verdicts.rows"
    tr '\t\n' '\0\0' <"$verdicts.rows" | xargs -0 -r -n 3 -P "$1" bash -c 'job "$@"' job &
    pools+=($!) pooled+=("$part")
}
job() {
    local seconds=$1 start=$EPOCHSECONDS status log=$logs/job.$BASHPID
    [ "$seconds" -lt $((deadline - start)) ] || seconds=$((deadline - start))
    if [ "$seconds" -le 0 ]; then
        echo "- $2" >>"$verdicts"
        return
    fi
    # A folder of its own for MLX's kernels: none is read while another process writes it.
    MLX_PTX_CACHE_DIR=$log.ptx
    cp -al "$ptx" "$MLX_PTX_CACHE_DIR"
    timeout -k 5 "$seconds" bash -o pipefail -c "$3" >"$log" 2>&1 </dev/null
    status=$?
    {
        flock 9
        [ $status -ge 124 ] || cp -aln "$MLX_PTX_CACHE_DIR/." "$ptx/"
        printf '#### %s: status %d, %d s\n$ %s\n' "$2" $status $((EPOCHSECONDS - start)) "$3"
        tail -c 60000 "$log"
        echo "$status $2" >>"$verdicts"
    } 9>"$logs/lock"
    rm -rf "$log" "$log.ptx"
}
export -f job
export logs ptx deadline

# No job of the pools is begun any more.
stop_pools() { [ ${#pools[@]} = 0 ] || kill "${pools[@]}" 2>/dev/null; }

# Waits for the pools. A test that was skipped (77) has proved nothing here.
settle() {
    local name status label n_rows n_verdicts
    [ ${#pools[@]} -gt 0 ] || return 0
    wait "${pools[@]}"
    for name in "${pooled[@]}"; do
        say "$name: status of each (124, 137: out of time, -: not begun)"
        sort "$logs/$name"
        n_rows=$(wc -l <"$logs/$name.rows") n_verdicts=$(wc -l <"$logs/$name")
        [ "$n_rows" -gt 0 ] && [ "$n_rows" = "$n_verdicts" ] || not_run+=("$name: $n_verdicts of $n_rows have a status")
        while read -r status label; do
            case $status in
            0) ;;
            -) not_run+=("$label") ;;
            *) failed+=("$label ($status)") ;;
            esac
        done <"$logs/$name"
    done
    pools=() pooled=()
}

finish() {
    # Half an archive would be half kernels for the next call.
    if timeout 20 tar -C "$ptx" -cf - . | xz -1 -T0 >"$OUT/ptx.tar.xz.new"; then
        mv "$OUT/ptx.tar.xz.new" "$OUT/ptx.tar.xz"
    else
        rm -f "$OUT/ptx.tar.xz.new"
    fi
    [ ${#failed[@]} = 0 ] || printf 'FAILED: %s\n' "${failed[@]}"
    [ ${#not_run[@]} = 0 ] || printf 'NOT RUN: %s\n' "${not_run[@]}"
    say "end"
    exec >&- 2>&-
    wait "$writer" # the log is whole
    exit $((${#failed[@]} + ${#not_run[@]} > 0))
}
