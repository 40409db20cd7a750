# SPDX-License-Identifier: MIT
"""The demonstration checkpoints against what mlx-lm answered greedily (tests/vectors).

families_driver is fed each prompt and the recorded answer; at every step the best logit must be the
recorded token, and the eight best logits of the first step must have the recorded values. Exit status 0:
all of them are.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np


def logits_of(driver, model, calls, tokens):
    with tempfile.TemporaryDirectory() as path:
        source, target = pathlib.Path(path, "input"), pathlib.Path(path, "output")
        source.write_bytes(np.array([len(calls), *calls, *tokens], dtype=np.int32).tobytes())
        subprocess.run([driver, model, source, target], check=True)
        return np.fromfile(target, dtype=np.float32).reshape(len(tokens), -1)


def check_vector(driver, model, vector):
    prompt, answer = vector["prompt_ids"], vector["tokens"]
    calls = [len(prompt) - 1] * (len(prompt) > 1) + [1] * len(answer)
    logits = logits_of(driver, model, calls, prompt + answer[:-1])[len(prompt) - 1:]
    equal = int((logits.argmax(axis=-1) == np.array(answer)).sum())
    first = vector["first_logits"]
    close = np.allclose(logits[0][first["ids"]], first["logits"], rtol=0, atol=1e-4)
    print(f"{model.name:20} prompt of {len(prompt):2} tokens: {equal}/{len(answer)} tokens identical, "
          f"first logits {'equal' if close else 'DIFFER'}")
    return equal == len(answer) and close


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, help="folder of the checkpoints")
    arguments = parser.parse_args()
    models = arguments.models or arguments.source / "models"
    driver = arguments.build / "tests" / "families_driver"
    results = [check_vector(driver, models / path.stem, vector)
               for path in sorted((arguments.source / "tests" / "vectors").glob("*.json"))
               if (models / path.stem).is_dir()
               for vector in json.loads(path.read_text())["vectors"]]
    print(f"{sum(results)} of {len(results)} prompts identical")
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
