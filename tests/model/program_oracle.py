# SPDX-License-Identifier: MIT
"""Every prompt of tests/vectors/: the program's greedy tokens equal what unpatched mlx-lm answered, unpatched and
patched, with one thread and with two. A checkpoint that is not in models/ (or in --models) is counted as skipped."""
import argparse
import json
import pathlib
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--build", type=pathlib.Path, required=True)
parser.add_argument("--source", type=pathlib.Path, required=True)
parser.add_argument("--models", type=pathlib.Path, help="folder of checkpoints (default: models/ of the source)")
arguments = parser.parse_args()
models = arguments.models or arguments.source / "models"


def generate(model, vector, patterns, threads):
    command = [arguments.build / "zmlx", "generate", model, "--json", "--device", "cpu", "--patterns", patterns,
               "--threads", str(threads), "--max-tokens", str(len(vector["tokens"])), "--prompt", vector["prompt"]]
    result = subprocess.run(command, capture_output=True)
    if result.returncode:
        sys.exit(f"status {result.returncode}: {result.stderr.decode()}")
    return json.loads(result.stdout)


differing = compared = 0
for path in sorted((arguments.source / "tests" / "vectors").glob("*.json")):
    model = models / path.stem
    if not model.is_dir():
        print(f"{path.stem}: skipped, no {model}")
        continue
    for vector in json.loads(path.read_text())["vectors"]:
        for patterns, threads in (("none", 1), *(("auto", threads) for threads in range(1, 5))):
            answer = generate(model, vector, patterns, threads)
            same = 0
            while same < len(vector["tokens"]) and answer["tokens"][same:same + 1] == vector["tokens"][same:same + 1]:
                same += 1
            right = (same == len(vector["tokens"]) == len(answer["tokens"])
                     and answer["prompt_tokens"] == len(vector["prompt_ids"]))
            compared += 1
            differing += not right
            if not right:
                print(f"{path.stem}: {vector['prompt']!r} --patterns {patterns} --threads {threads}: "
                      f"{same}/{len(vector['tokens'])} tokens, smallest margin {min(vector['margins'])}")
print(f"{compared} runs compared, {differing} differ")
sys.exit(1 if differing or not compared else 0)
