# SPDX-License-Identifier: MIT
"""Greedy tokens of zmlx beside mlx-lm's own on a GPU, for every prompt of tests/vectors, in bfloat16 and in float16.
MODELS: a folder with checkpoints by the vectors' names; those that are not there are left out.

    MLX_CUDA_USE_CUDNN_SDPA=0 python3 bench/mlx_lm_tokens.py build/zmlx [TOKENS [MODELS]]
"""
import concurrent.futures
import json
import pathlib
import subprocess
import sys

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

PROGRAM, COUNT = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500
ROOT = pathlib.Path(__file__).parent.parent
MODELS = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else ROOT / "models"
DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16}


def own_tokens(folder, dtype, prompt):
    command = [PROGRAM, "generate", str(folder), "--device", "gpu", "--dtype", dtype, "--max-tokens", str(COUNT),
               "--prompt-tokens", ",".join(map(str, prompt)), "--ignore-eos", "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return answer["tokens"], answer["patched"]


def mlx_lm_tokens(model, prompt):
    return [int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=COUNT)]


print(f"mlx {mx.__version__}, {mx.default_device()}, {COUNT} tokens a prompt")
failed, compared = False, False
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for vectors in sorted(ROOT.glob("tests/vectors/*.json")):
        prompts = [vector["prompt_ids"] for vector in json.loads(vectors.read_text())["vectors"]]
        folder = MODELS / vectors.stem
        if not folder.exists():
            continue
        for name, dtype in DTYPES.items():
            own = [pool.submit(own_tokens, folder, name, prompt) for prompt in prompts]
            model, _ = load_model(folder)
            model.set_dtype(dtype)
            same = []
            for prompt, answer in zip(prompts, own):
                tokens, patched = answer.result()
                reference = mlx_lm_tokens(model, prompt)
                same.append(next((i for i in range(COUNT) if tokens[i] != reference[i]), COUNT))
            failed |= min(same) < COUNT
            compared = True
            print(f"{vectors.stem}, {name}: equal tokens of each prompt {same}, patched {patched}", flush=True)
if not compared:
    sys.exit(f"no checkpoint of {MODELS} has prompts in {ROOT / 'tests/vectors'}")
sys.exit(failed)
