# SPDX-License-Identifier: MIT
"""null in config.json against mlx-lm, for every field of every family.

Each case sets one field of a tiny checkpoint's config to null. Where mlx-lm then computes, zmlx must compute the same
logits; where mlx-lm fails, zmlx must refuse with a line that names the field. Exit status 0: all do.
"""
import argparse
import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import mlx.core as mx
import numpy as np

import families_oracle as families

CALLS = [20, 1, 1]
YARN = dict(rope_type="yarn", factor=8.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=128,
            mscale=1.0, mscale_all_dim=0.5)
ROTATIONS = [dict(families.LLAMA3), dict(type="linear", factor=2.0), dict(type=None, rope_type="linear", factor=2.0),
             dict(type="dynamic", factor=2.0), YARN, dict(type="mrope", mrope_section=[4, 6, 6]),
             dict(type="longrope", original_max_position_embeddings=64, short_factor=[1.0] * 16,
                  long_factor=[1.0 + 0.3 * i for i in range(16)]),
             dict(type="proportional", factor=2.0, partial_rotary_factor=0.4)]
GROUPED = dict(scoring_func="sigmoid", topk_method="noaux_tc")
LATENT = dict(families.LATENT, **GROUPED, moe_layer_freq=1, attention_bias=False, rope_scaling=YARN)
EVERY_LAYER = dict(decoder_sparse_step=1, mlp_only_layers=[])  # has experts
QWEN3_NESTED = dict(families.QWEN3, rope_parameters=dict(families.LLAMA3, rope_theta=2e5))
del QWEN3_NESTED["rope_theta"]

CONFIGS = [
    ("lfm2_moe", dict(families.LFM2_MOE, routed_scaling_factor=1.5)),
    ("lfm2_moe", dict(families.LFM2_MOE, rope_parameters=dict(rope_theta=1e6, rope_type="default"))),
    ("lfm2_moe", dict(families.LFM2_MOE, num_dense_layers=0)),
    ("lfm2", families.LFM2_DENSE),
    ("llama", dict(families.LLAMA, **families.SLIDING, head_dim=32, attention_bias=False, mlp_bias=False, rope_theta=1e4,
                   rope_traditional=False, tie_word_embeddings=True)),
    *[("llama", dict(families.LLAMA, max_position_embeddings=64, rope_scaling=rotation)) for rotation in ROTATIONS],
    ("llama", dict(families.LLAMA, quantization=families.affine(4))),
    ("qwen3", dict(families.QWEN3, rope_scaling=None)),
    ("qwen3", QWEN3_NESTED),
    ("qwen3_moe", families.QWEN3_MOE),
    ("qwen3_moe", dict(families.QWEN3_MOE, **EVERY_LAYER)),
    ("qwen3_next", dict(families.QWEN3_NEXT, tie_word_embeddings=False, attention_bias=False)),
    ("qwen3_next", dict(families.QWEN3_NEXT, **EVERY_LAYER)),
    ("qwen3_5", dict(families.QWEN3_5, tie_word_embeddings=False, attention_bias=False, num_experts=0)),
    ("qwen3_5", dict(families.QWEN3_5, rope_parameters=None, rope_theta=3e4, partial_rotary_factor=0.75,
                     rope_scaling=dict(type="linear", factor=4.0))),
    ("qwen3_5", dict(text_config=families.QWEN3_5)),
    ("qwen3_5_moe", dict(families.QWEN3_5_MOE, norm_topk_prob=True)),
    ("mixtral", dict(families.MIXTRAL, rope_theta=1e6, rope_traditional=False, tie_word_embeddings=False)),
    ("glm4_moe", dict(families.GLM4_MOE, **GROUPED)),
    ("glm4_moe", dict(families.GLM4_MOE, n_group=4, topk_group=2)),
    ("glm4_moe", dict(families.GLM4_MOE, first_k_dense_replace=0)),
    ("glm4_moe_lite", dict(LATENT, rope_scaling=None)),
    ("deepseek_v3", LATENT),
    ("deepseek_v3", dict(LATENT, first_k_dense_replace=0)),
    ("deepseek_v3", dict(LATENT, rope_scaling=dict(type="dynamic", factor=2.0))),
    ("gpt_oss", dict(families.GPT_OSS, rms_norm_eps=1e-5, rope_scaling=families.YARN,
                     layer_types=families.SLIDING["layer_types"])),
]
# mlx-lm takes the number of layers from layer_types there, which no checkpoint relies on. The others are refused for
# what they hold: tensors, and a field that is missing then.
LEFT_OUT = {("llama", "num_hidden_layers"), ("llama", "quantization"), ("qwen3", "rope_parameters")}


def find_fields(config, before=()):
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from find_fields(value, (*before, key))


def with_null(config, field):
    result = owner = copy.deepcopy(config)
    for key in field[:-1]:
        owner = owner[key]
    owner[field[-1]] = None
    return result


def write_model(folder, model_type, config, changed):
    """With the arrays that changed makes in mlx-lm, if it makes any; else with config's."""

    def write(choice):
        plain = {key: value for key, value in choice.items() if key != "quantization"}
        families.write_checkpoint(folder, ("", model_type, plain, config.get("quantization"), None, CALLS), 1)

    try:
        write(changed)
    except Exception:
        write(config)
    (folder / "config.json").write_text(json.dumps(dict(changed, model_type=model_type)))


def run_zmlx(driver, folder, tokens):
    """Logits and what was refused."""
    source, target = folder / "input", folder / "output"
    source.write_bytes(np.array([len(CALLS), *CALLS, *tokens], dtype=np.int32).tobytes())
    done = subprocess.run([driver, folder, source, target], capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip()
    return np.fromfile(target, dtype=np.float32).reshape(len(tokens), -1), ""


def check_case(driver, model_type, config, field, tokens):
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        write_model(folder, model_type, config, with_null(config, field))
        try:
            expected, failure = families.run_mlx_lm(folder, tokens, CALLS), ""
        except Exception as error:
            expected, failure = None, f"{type(error).__name__} {error}"
        actual, refusal = run_zmlx(driver, folder, tokens)
    name = f"{model_type}: {'.'.join(field)}: null"
    if expected is None:
        if actual is None and "config.json" in refusal and field[-1] in refusal:
            return True
        print(f"{name}: mlx-lm fails ({failure[:60]}), zmlx {refusal or 'computes'}", flush=True)
        return False
    if actual is None:
        print(f"{name}: mlx-lm computes, zmlx refuses: {refusal}", flush=True)
        return False
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    if error > families.LIMIT:
        print(f"{name}: relative error {error:.1e}", flush=True)
    return error <= families.LIMIT


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--source", type=pathlib.Path)
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    driver = arguments.build / "tests" / "families_driver"
    tokens = np.random.default_rng(1).integers(0, families.SIZES["vocab_size"], sum(CALLS))
    results = [check_case(driver, model_type, config, field, tokens) for model_type, config in CONFIGS
               for field in find_fields(config) if (model_type, *field) not in LEFT_OUT]
    print(f"{sum(results)} of {len(results)} fields as in mlx-lm")
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
