# SPDX-License-Identifier: MIT
"""mlx-lm's own decode speed on the CPU in float32: what an unpatched model is compared with.

    build/python/bin/python bench/mlx_lm_decode.py MODEL [RUNS]
"""
import platform
import sys

import mlx.core as mx

mx.set_default_device(mx.cpu)
from mlx_lm import load, stream_generate  # noqa: E402  (after the device is chosen)

model, tokenizer = load(sys.argv[1])
model.set_dtype(mx.float32)
mx.eval(model.parameters())
prompt = list(range(100, 183))  # as long as the default prompt of `zmlx validate`
for run in range(int(sys.argv[2]) if len(sys.argv) > 2 else 4):
    for answer in stream_generate(model, tokenizer, prompt, max_tokens=200):
        pass
    print(f"{sys.argv[1]} {platform.machine()} mlx {mx.__version__} run {run}: "
          f"prompt {answer.prompt_tps:.1f} tok/s, decode {answer.generation_tps:.1f} tok/s", flush=True)
