#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Closed pipes, full disks, ^C and other signals.
source "$(dirname "$0")/lib/expect.sh"
short=(--prompt-tokens 1,5,6 --max-tokens 4 --patterns none)

# expect_output_error REASON ARGUMENT...: with standard output on a full disk, or closed.
expect_output_error() {
    local reason=$1
    shift
    if [ "$reason" = 'No space left on device' ]; then
        "$zmlx" "$@" >/dev/full 2>err
    else
        "$zmlx" "$@" >&- 2>err
    fi
    local result=$?
    [ $result = 2 ] || fail "status $result instead of 2: zmlx $* (output: $reason)"
    expect_line "standard output: $reason" "zmlx $*"
}

[ -c /dev/full ] || {
    echo "no /dev/full here"
    exit 77
}
for reason in 'No space left on device' 'Bad file descriptor'; do
    expect_output_error "$reason" --help
    expect_output_error "$reason" --version
    expect_output_error "$reason" generate --help
    expect_output_error "$reason" generate "$model" "${short[@]}"
    expect_output_error "$reason" generate "$model" "${short[@]}" --json
    expect_output_error "$reason" patch "$model"
    expect_output_error "$reason" patch "$model" --json
    expect_output_error "$reason" emit --expr 'x * y'
    expect_output_error "$reason" emit --expr 'x * y' --target ir --json
done
expect_output_error 'No space left on device' validate "$model" --runs 1 --max-tokens 2 --prompt-tokens 1,5,6
[ -c /dev/full ] || fail "/dev/full was replaced"

# A closed pipe: the reader has what it wanted, the program stops and is content. (It would go on for days.)
cp -r "$model" endless
sed 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 1000000000/' "$model/config.json" \
    >endless/config.json
timeout 100 "$zmlx" generate endless --prompt-tokens 1,5,6 --max-tokens 100000000 --ignore-eos --patterns none \
    2>err | head -c 10 >out
results=("${PIPESTATUS[@]}")
[ "${results[0]}" = 0 ] || fail "status ${results[0]} at a closed pipe"
[ "$(wc -c <out)" = 10 ] || fail "$(wc -c <out) bytes came through the pipe instead of 10"
[ ! -s err ] || fail "messages at a closed pipe: $(cat err)"
"$zmlx" generate "$model" "${short[@]}" --json 2>err | true
results=("${PIPESTATUS[@]}")
[ "${results[0]}" = 0 ] && [ ! -s err ] || fail "JSON to a closed pipe: ${results[0]} $(cat err)"

# A signal while the reader of a full pipe stands still ends the program.
python3 - "$zmlx" endless <<'PYTHON' || fail "a signal at a full pipe"
import fcntl, os, signal, struct, subprocess, sys, termios, time
zmlx, model = sys.argv[1:]
process = subprocess.Popen([zmlx, "generate", model, "--prompt-tokens", "1,5,6", "--max-tokens", "100000000",
                            "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=4096)
def waiting():
    return struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)))[0]
before, now = 0, waiting()
while now == 0 or now != before:
    time.sleep(1)
    before, now = now, waiting()
process.send_signal(signal.SIGTERM)
try:
    status = process.wait(timeout=30)
except subprocess.TimeoutExpired:
    process.kill()
    sys.exit("it goes on")
messages = process.stderr.read().decode().splitlines()
assert status == 128 + signal.SIGTERM and messages[-1].startswith("zmlx: cancelled after "), (status, messages[-1:])
PYTHON

# ^C after the first text: what there is stays, a line says so, status 130; with --json too.
python3 - "$zmlx" "$model" <<'PYTHON' || fail "^C"
import json, signal, subprocess, sys, time
zmlx, model = sys.argv[1:]
many = ["--prompt-tokens", "1,5,6", "--max-tokens", "4000", "--ignore-eos"]

def start(*options):
    return subprocess.Popen([zmlx, "generate", model, *many, *options], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

process = start("--patterns", "none")
first = process.stdout.read(8)
process.send_signal(signal.SIGINT)
rest, messages = process.communicate(timeout=60)
assert process.returncode == 130, process.returncode
assert len(first) == 8 and rest.endswith(b"\n"), (first, rest)
assert messages.startswith(b"zmlx: cancelled after ") and messages.count(b"\n") == 1, messages

process = start("--json", "--patterns", "moe_mlp")
while b"moe_mlp:" not in process.stderr.readline():
    pass
time.sleep(2)  # a first token, and far from 4000
process.send_signal(signal.SIGINT)
rest, messages = process.communicate(timeout=60)
assert process.returncode == 130, process.returncode
assert b"cancelled" in messages, messages
result = json.loads(rest)
assert result["finish"] == "cancelled" and 0 < len(result["tokens"]) < 4000, result

for number in signal.SIGTERM, signal.SIGHUP:
    process = start("--patterns", "none")
    process.stdout.read(8)
    process.send_signal(number)
    rest, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number, process.returncode
    assert messages.startswith(b"zmlx: cancelled after ") and rest.endswith(b"\n"), messages
PYTHON

# A signal while measuring or writing: one line, and nothing is left behind.
python3 - "$zmlx" "$model" <<'PYTHON' || fail "signals"
import os, signal, subprocess, sys, time
zmlx, model = sys.argv[1:]

def interrupt(number, ready, *arguments):
    """Sends the signal once ready(process) holds; returns the messages."""
    process = subprocess.Popen([zmlx, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not ready(process):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    rest, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number, (arguments, process.returncode, messages)
    assert messages.count(b"\n") == 1, messages
    return messages

def caught(process):
    """The program has its handler for SIGINT."""
    for line in open(f"/proc/{process.pid}/status"):
        if line.startswith("SigCgt:"):
            return int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1
    return False

# In a prompt of some ten seconds: at once, not behind it.
prompt = ",".join(["5"] * 4000)
for output in [], ["--json"]:
    messages = interrupt(signal.SIGINT, caught, "generate", model, "--prompt-tokens", prompt, "--max-tokens", "2",
                         "--patterns", "none", *output)
    assert messages == b"zmlx: cancelled\n", messages

for number in signal.SIGINT, signal.SIGTERM:
    long = ["--prompt-tokens", "1,5,6"]
    messages = interrupt(number, caught, "validate", model, *long, "--max-tokens", "2000", "--ignore-eos",
                         "--report", "report.json")
    assert messages == b"zmlx: cancelled\n", messages
    messages = interrupt(number, lambda process: process.stdout.readline().startswith(b"[smart_patch]"),
                         "smart-patch", model, *long, "--runs", "1000", "--patterns", "moe_mlp")
    assert messages == b"zmlx: cancelled\n", messages
    os.makedirs("empty", exist_ok=True)
    for folder in "empty", "absent":
        messages = interrupt(number, caught, "synth", "qwen3-4b", folder)
        assert b"cancelled" in messages, messages
        assert not os.path.exists("absent") and os.listdir("empty") == []
assert not [name for name in os.listdir() if ".tmp" in name or "report" in name], os.listdir()
PYTHON

# A bar only where a terminal can erase it.
python3 - "$zmlx" "$model" <<'PYTHON' || fail "progress bars"
import os, pty, subprocess, sys
zmlx, model = sys.argv[1:]

def messages(term):
    """Standard error of some seconds of work, on a terminal."""
    reader, terminal = pty.openpty()
    process = subprocess.Popen([zmlx, "bench", "model", model, "--runs", "20", "--prompt-length", "8", "--max-tokens",
                                "16", "--bandwidth", "1"], stdout=subprocess.DEVNULL, stderr=terminal,
                               env={**os.environ, "TERM": term})
    os.close(terminal)
    text = b""
    try:
        while part := os.read(reader, 4096):
            text += part
    except OSError:  # the terminal's other end is closed
        pass
    assert process.wait() == 0, text
    return text

assert b"\r" in messages("xterm")
assert messages("dumb") == b"", messages("dumb")
PYTHON
finish
