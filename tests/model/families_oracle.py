# SPDX-License-Identifier: MIT
"""Every model family against mlx-lm: tiny random checkpoints, float32 on the CPU.

Each case writes a checkpoint, feeds the same tokens to mlx-lm and to families_driver (a long prompt in
two pieces that crosses 256 tokens and the attention window, 32 single tokens, then a few more pieces) and
compares all logits. Exit status 0: every relative error is at most 1e-5.
"""
import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import tempfile

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import MODEL_REMAPPING, load_model

LIMIT = 1e-5
LONG = [200, 101] + [1] * 32 + [7, 1, 1]
CROSSING = [250] + [1] * 32
SHORT = [5] + [1] * 32

SIZES = dict(hidden_size=128, vocab_size=320, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, intermediate_size=192, max_position_embeddings=4096)
LFM2 = dict(SIZES, norm_eps=1e-5, conv_bias=False, conv_L_cache=3,
            layer_types=["conv", "full_attention", "conv", "full_attention"])
LFM2_MOE = dict(LFM2, moe_intermediate_size=64, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True,
                use_expert_bias=True, num_dense_layers=1, rope_theta=50000.0)
LFM2_DENSE = dict(LFM2, block_dim=128, block_multiple_of=64, block_ffn_dim_multiplier=1.3,
                  block_auto_adjust_ff_dim=True, block_ff_dim=256)
LLAMA = dict(SIZES, rms_norm_eps=1e-5)
QWEN3 = dict(SIZES, rms_norm_eps=1e-6, head_dim=48, tie_word_embeddings=True, rope_theta=1e6)
QWEN3_MOE = dict(QWEN3, tie_word_embeddings=False, num_experts=8, num_experts_per_tok=2,
                 decoder_sparse_step=1, mlp_only_layers=[1], moe_intermediate_size=64, norm_topk_prob=True)
DELTA_NET = dict(rms_norm_eps=1e-6, head_dim=32, full_attention_interval=3, linear_num_value_heads=4,
                 linear_num_key_heads=2, linear_key_head_dim=32, linear_value_head_dim=48, linear_conv_kernel_dim=4)
SHARED_EXPERT = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=64,
                     shared_expert_intermediate_size=96)
QWEN3_NEXT = dict(SIZES, **DELTA_NET, **SHARED_EXPERT, rope_theta=1e5, partial_rotary_factor=0.25,
                  decoder_sparse_step=1, mlp_only_layers=[1], norm_topk_prob=True)
QWEN3_5 = dict(SIZES, **DELTA_NET,
               rope_parameters=dict(rope_type="default", mrope_section=[2, 1, 1], rope_theta=1e6,
                                    partial_rotary_factor=0.5))
QWEN3_5_MOE = dict(QWEN3_5, **SHARED_EXPERT)
MIXTRAL = dict(SIZES, num_local_experts=4, num_experts_per_tok=2, rms_norm_eps=1e-5)
GPT_OSS = dict(SIZES, head_dim=32, num_local_experts=8, num_experts_per_tok=3, sliding_window=48,
               rope_theta=150000)
GROUPED = dict(moe_intermediate_size=64, norm_topk_prob=True, n_group=1, topk_group=1, n_shared_experts=1,
               n_routed_experts=8, routed_scaling_factor=1.5, num_experts_per_tok=3, first_k_dense_replace=1)
GLM4_MOE = dict(SIZES, **GROUPED, head_dim=32, rms_norm_eps=1e-5, rope_theta=1e5, rope_scaling=None,
                use_qk_norm=True, tie_word_embeddings=False, attention_bias=True, partial_rotary_factor=0.5)
LATENT = dict(SIZES, **GROUPED, num_key_value_heads=4, rms_norm_eps=1e-5, q_lora_rank=96, kv_lora_rank=64,
              qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=48, rope_theta=1e5)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
            original_max_position_embeddings=128)
SLIDING = dict(layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=64)


def affine(bits, group_size=64):
    return {"group_size": group_size, "bits": bits, "mode": "affine"}


# Names as Hugging Face publishes them, from mlx-lm's.

def split_experts(weights, pattern, names):
    """<pattern>.switch_mlp.<new>.* becomes <pattern>.experts.<e>.<old>.*"""
    result = {}
    for name, array in weights.items():
        for new, old in names.items():
            marker = f"{pattern}.switch_mlp.{new}."
            if marker in name:
                for expert in range(array.shape[0]):
                    result[name.replace(marker, f"{pattern}.experts.{expert}.{old}.")] = array[expert]
                break
        else:
            result[name] = array
    return result


def publish_lfm2(weights):
    return {name: array.transpose(0, 2, 1) if "conv.weight" in name else array
            for name, array in weights.items()}


def publish_lfm2_moe(weights):
    names = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    weights = split_experts(publish_lfm2(weights), "feed_forward", names)
    for new, old in names.items():
        weights = {name.replace(f"feed_forward.{new}.", f"feed_forward.{old}."): array
                   for name, array in weights.items()}
    return weights


def publish_qwen3_moe(weights):
    return split_experts(weights, "mlp", {name: name for name in ("gate_proj", "up_proj", "down_proj")})


def publish_delta_net(weights):
    """Convolutions as (channels, 1, taps), norms without the 1 that the model adds, a head for tokens further on."""
    shifted = ("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")
    result = {}
    for name, array in weights.items():
        if "conv1d.weight" in name:
            array = array.transpose(0, 2, 1)
        result[name] = array - 1 if name.endswith(shifted) else array
    return dict(result, **{"mtp.layers.0.input_layernorm.weight": mx.ones((8,))})


def publish_qwen3_next(weights):
    return publish_qwen3_moe(publish_delta_net(weights))


def publish_glm4_moe(weights, extra_layer=4):
    """Experts one by one, and a layer that predicts the token after the next."""
    weights = publish_qwen3_moe(weights)
    return dict(weights, **{f"model.layers.{extra_layer}.eh_proj.weight": mx.ones((128, 256)),
                            f"model.layers.{extra_layer}.mlp.gate.e_score_correction_bias": mx.ones((8,))})


def join_kv_b(weights, bits=None):
    """embed_q and unembed_out as the one map that they were, quantised if bits say so."""
    result = {}
    for name, array in weights.items():
        if ".embed_q." in name:
            values = weights[name.replace("embed_q", "unembed_out")]
            joined = mx.concatenate([array.swapaxes(-1, -2), values], axis=1).flatten(0, 1)
            path = name.replace("embed_q.weight", "kv_b_proj")
            parts = mx.quantize(joined, group_size=32, bits=bits) if bits else [joined]
            result.update(zip((f"{path}.weight", f"{path}.scales", f"{path}.biases"), parts))
        elif ".unembed_out." not in name:
            result[name] = array
    return result


def publish_glm4_moe_lite(weights):
    return publish_glm4_moe(join_kv_b(weights))


def publish_deepseek_v3(weights, kv_b_bits=None):
    return publish_glm4_moe(join_kv_b(weights, kv_b_bits), extra_layer=61)


def publish_6bit_kv_b(weights):
    """Dense but for kv_b_proj; stored rotary frequencies too."""
    return dict(publish_deepseek_v3(weights, 6),
                **{"model.layers.0.self_attn.rotary_emb.inv_freq": mx.ones((8,))})


def publish_fp8(weights):
    """Projections in e4m3 with a scale for each block of 128 x 128, of which the last are not whole."""
    result = {}
    for name, array in publish_deepseek_v3(weights).items():
        if not name.endswith("_proj.weight") or ".eh_proj." in name:
            result[name] = array
            continue
        rows, columns = array.shape
        scales = 0.01 + 0.01 * mx.random.uniform(shape=(-(-rows // 128), -(-columns // 128)))
        whole = mx.repeat(mx.repeat(scales, 128, axis=0), 128, axis=1)[:rows, :columns]
        result[name] = mx.to_fp8(array / whole)
        result[name + "_scale_inv"] = scales
    return result


def publish_int4(weights):
    """Experts in packs of eight codes whose zero is 8, a scale for each group of 32."""
    result = {}
    for name, array in publish_deepseek_v3(weights).items():
        if ".experts." not in name:
            result[name] = array
            continue
        groups = array.reshape(array.shape[0], -1, 32)
        scales = mx.abs(groups).max(axis=-1, keepdims=True) / 7
        codes = (mx.clip(mx.round(groups / scales), -8, 7) + 8).astype(mx.uint32)
        words = (codes.reshape(array.shape[0], -1, 8) << mx.arange(0, 32, 4, dtype=mx.uint32)).sum(axis=-1)
        path = name.removesuffix("weight")
        result[path + "weight_packed"] = words.astype(mx.uint32).view(mx.int32)
        result[path + "weight_scale"] = scales.squeeze(-1)
        result[path + "weight_shape"] = mx.array(array.shape, dtype=mx.int32)
    return result


def publish_qwen3_5(weights):
    """Names of a model that sees images, with some of its other tensors."""
    result = {}
    for name, array in publish_delta_net(weights).items():
        name = name.replace("language_model.model.", "model.language_model.")
        result[name.removeprefix("language_model.")] = array
    return dict(result, **{"model.visual.blocks.0.norm1.weight": mx.ones((8,))})


def publish_qwen3_5_moe(weights):
    """Experts in two tensors, gate above up."""
    result = publish_qwen3_5(weights)
    for name in [name for name in result if name.endswith("switch_mlp.gate_proj.weight")]:
        layer = name.removesuffix("switch_mlp.gate_proj.weight")
        parts = [result.pop(f"{layer}switch_mlp.{part}.weight") for part in ("gate_proj", "up_proj", "down_proj")]
        result[f"{layer}experts.gate_up_proj"] = mx.concatenate(parts[:2], axis=1)
        result[f"{layer}experts.down_proj"] = parts[2]
    return result


def publish_mixtral(weights):
    return split_experts(weights, "block_sparse_moe",
                         {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"})


def publish_head(weights):
    """A copy of the tied embedding as the head."""
    return dict(weights, **{"lm_head.weight": weights["model.embed_tokens.weight"]})


def publish_llama(weights):
    """Stored rotary frequencies too, as in older checkpoints."""
    return dict(publish_head(weights), **{"model.layers.0.self_attn.rotary_emb.inv_freq": mx.ones((16,))})


def publish_gpt_oss(weights):
    """Experts in mxfp4: gate and up interleaved, blocks of 16 bytes."""
    result, pairs = {}, {}
    for name, array in weights.items():
        if ".experts." not in name:
            result[name] = array
            continue
        layer, _, rest = name.partition(".experts.")
        projection, part = rest.split(".")
        if part == "weight":
            packed, scales = mx.quantize(array, group_size=32, bits=4, mode="mxfp4")
            blocks = packed.view(mx.uint8)
            parts = {"_blocks": blocks.reshape(*blocks.shape[:2], -1, 16), "_scales": scales}
        else:
            parts = {"_bias": array}
        for suffix, value in parts.items():
            if projection == "down_proj":
                result[f"{layer}.experts.down_proj{suffix}"] = value
            else:
                pairs.setdefault((layer, suffix), {})[projection] = value
    for (layer, suffix), pair in pairs.items():
        both = mx.stack([pair["gate_proj"], pair["up_proj"]], axis=2)
        result[f"{layer}.experts.gate_up_proj{suffix}"] = both.flatten(1, 2)
    return result


# (name, model_type, config, quantization or None, publish or None, calls)
CASES = [
    ("float32, published names", "lfm2_moe", LFM2_MOE, None, publish_lfm2_moe, LONG),
    ("4-bit, router 8-bit", "lfm2_moe",
     dict(LFM2_MOE, conv_bias=True, routed_scaling_factor=2.5,
          rope_parameters=dict(rope_theta=1e6, rope_type="default")), affine(4), None, LONG),
    ("3-bit group 32, no bias", "lfm2_moe",
     dict(LFM2_MOE, use_expert_bias=False, norm_topk_prob=False, full_attn_idxs=[0, 2], conv_L_cache=4),
     affine(3, 32), None, SHORT),
    ("float32, published names", "lfm2", LFM2_DENSE, None, publish_lfm2, LONG),
    ("4-bit", "lfm2", dict(LFM2_DENSE, block_auto_adjust_ff_dim=False, conv_bias=True), affine(4), None,
     LONG),
    ("6-bit", "lfm2", LFM2_DENSE, affine(6), None, CROSSING),
    ("float32, biases, untied", "llama",
     dict(LLAMA, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, head_dim=24), None, None,
     LONG),
    ("4-bit, llama3 rope", "llama", dict(LLAMA, rope_scaling=LLAMA3), affine(4), None, CROSSING),
    ("8-bit, yarn rope", "llama",
     dict(LLAMA, rope_scaling=dict(type="yarn", factor=8.0, mscale=1.0, mscale_all_dim=0.5)), affine(8, 32),
     None, LONG),
    ("4-bit, biases, sliding", "llama", dict(LLAMA, **SLIDING, attention_bias=True), affine(4), None, LONG),
    ("float32, sliding, short", "llama", dict(LLAMA, **dict(SLIDING, sliding_window=16)), None, None, SHORT),
    ("linear rope, old tensors", "llama",
     dict(LLAMA, rope_scaling=dict(type="linear", factor=4.0)), None, publish_llama, SHORT),
    ("dynamic rope", "llama",
     dict(LLAMA, max_position_embeddings=64, rope_scaling=dict(type="dynamic", factor=2.0)), None, None,
     LONG),
    ("longrope", "llama",
     dict(LLAMA, rope_scaling=dict(type="longrope", original_max_position_embeddings=64,
                                   short_factor=[1.0] * 16, long_factor=[1.0 + 0.3 * i for i in range(16)])),
     None, None, LONG),
    ("proportional rope", "llama",
     dict(LLAMA, rope_scaling=dict(type="proportional", factor=2.0, partial_rotary_factor=0.4)), None, None,
     LONG),
    ("mrope, traditional", "llama",
     dict(LLAMA, rope_traditional=True, rope_scaling=dict(type="mrope", mrope_section=[4, 6, 6])), None, None,
     SHORT),
    ("null for false", "llama",
     dict(LLAMA, tie_word_embeddings=None, attention_bias=None, mlp_bias=None), None, None, SHORT),
    ("4-bit, as mistral", "mistral", dict(LLAMA, tie_word_embeddings=False), affine(4), None, SHORT),
    ("float32, rope_parameters", "qwen3",
     {key: value for key, value in dict(QWEN3, rope_parameters=dict(LLAMA3, rope_theta=2e5)).items()
      if key != "rope_theta"}, None, publish_head, LONG),
    ("4-bit, yarn, untied", "qwen3", dict(QWEN3, tie_word_embeddings=False, rope_scaling=YARN, head_dim=32),
     affine(4), None, LONG),
    ("null for false, no positions", "qwen3",
     dict(QWEN3, tie_word_embeddings=None, max_position_embeddings=None), None, None, SHORT),
    ("float32, published names", "qwen3_moe", QWEN3_MOE, None, publish_qwen3_moe, LONG),
    ("4-bit, router 8-bit", "qwen3_moe",
     dict(QWEN3_MOE, decoder_sparse_step=2, mlp_only_layers=[], norm_topk_prob=False,
          tie_word_embeddings=True), affine(4), None, LONG),
    ("float32, published names", "qwen3_next", QWEN3_NEXT, None, publish_qwen3_next, LONG),
    ("4-bit, router 8-bit, tied", "qwen3_next",
     dict(QWEN3_NEXT, norm_topk_prob=False, tie_word_embeddings=True, attention_bias=True, mlp_only_layers=[],
          linear_num_key_heads=4, linear_value_head_dim=32, rope_scaling=dict(type="linear", factor=2.0)),
     affine(4), None, LONG),
    ("4-bit, no experts", "qwen3_next",
     dict(QWEN3_NEXT, num_experts=0, full_attention_interval=2, partial_rotary_factor=1.0), affine(4), None, SHORT),
    ("float32, published names", "qwen3_5", dict(text_config=QWEN3_5), None, publish_qwen3_5, LONG),
    ("4-bit, tied, flat config", "qwen3_5",
     {key: value for key, value in dict(QWEN3_5, tie_word_embeddings=True, attention_bias=True, rope_theta=5.0,
                                        linear_num_key_heads=4, linear_value_head_dim=32).items()
      if key != "rope_parameters"}, affine(4), None, LONG),
    ("8-bit, fields for the rotation", "qwen3_5",
     dict(text_config=dict(QWEN3_5, rope_parameters=None, rope_theta=3e4, partial_rotary_factor=0.75,
                           rope_scaling=dict(type="linear", factor=4.0))), affine(8, 32), None, SHORT),
    ("float32, published names", "qwen3_5_moe", dict(text_config=QWEN3_5_MOE), None, publish_qwen3_5_moe, LONG),
    ("4-bit, router 8-bit", "qwen3_5_moe",
     dict(text_config=dict(QWEN3_5_MOE, norm_topk_prob=False, full_attention_interval=2)), affine(4), None, LONG),
    ("null for false", "qwen3_5_moe", dict(text_config=dict(QWEN3_5_MOE, norm_topk_prob=None)), None, None, SHORT),
    ("float32, published names", "mixtral", dict(MIXTRAL, rope_traditional=True), None, publish_mixtral,
     LONG),
    ("4-bit, published names", "mixtral", MIXTRAL, affine(4), publish_mixtral, LONG),
    ("5-bit, tied", "mixtral", dict(MIXTRAL, tie_word_embeddings=True), affine(5, 32), None, SHORT),
    ("float32, published names", "glm4_moe", dict(GLM4_MOE, n_group=4, topk_group=2), None, publish_glm4_moe,
     LONG),
    ("4-bit, published names", "glm4_moe",
     dict(GLM4_MOE, use_qk_norm=False, n_shared_experts=2, partial_rotary_factor=1.0), affine(4),
     publish_glm4_moe, LONG),
    ("8-bit, plain weights", "glm4_moe",
     dict(GLM4_MOE, norm_topk_prob=False, attention_bias=False, n_shared_experts=None, n_group=2,
          topk_group=2, first_k_dense_replace=0), affine(8, 32), None, LONG),
    ("6-bit, one expert", "glm4_moe", dict(GLM4_MOE, num_experts_per_tok=1, n_group=2), affine(6), None, SHORT),
    ("float32, no experts", "glm4_moe", dict(GLM4_MOE, n_routed_experts=None), None, None, SHORT),
    ("float32, published names", "glm4_moe_lite", dict(LATENT, n_group=4, topk_group=2), None,
     publish_glm4_moe_lite, LONG),
    ("4-bit, biases", "glm4_moe_lite", dict(LATENT, attention_bias=True, moe_layer_freq=2), affine(4, 32), None,
     LONG),
    ("5-bit, no query latent", "glm4_moe_lite",
     dict(LATENT, q_lora_rank=None, v_head_dim=64, num_experts_per_tok=1, norm_topk_prob=False), affine(5, 32),
     None, CROSSING),
    ("float32, published names", "deepseek_v3",
     dict(LATENT, q_lora_rank=None, n_group=2, routed_scaling_factor=2.5), None, publish_deepseek_v3, LONG),
    ("4-bit, yarn", "deepseek_v3",
     dict(LATENT, n_group=4, topk_group=3, attention_bias=True,
          rope_scaling=dict(type="yarn", factor=40, mscale=1.0, mscale_all_dim=0.7, beta_fast=32, beta_slow=1,
                            original_max_position_embeddings=64)), affine(4, 32), None, LONG),
    ("kv_b_proj 6-bit, dense", "deepseek_v3", dict(LATENT, n_shared_experts=None), "kv_b_proj", publish_6bit_kv_b,
     SHORT),
    ("fp8 blocks", "deepseek_v3", dict(LATENT, hidden_size=160, n_shared_experts=2), "fp8", publish_fp8, LONG),
    ("int4 packs", "kimi_k2", LATENT, "int4", publish_int4, LONG),
    ("null for false", "deepseek_v3", dict(LATENT, norm_topk_prob=None, attention_bias=None), None, None, SHORT),
    ("8-bit, no experts", "joyai_llm_flash", dict(LATENT, n_routed_experts=None), affine(8, 32), None, SHORT),
    ("float32", "gpt_oss", dict(GPT_OSS, sliding_window=200), None, None, LONG),
    ("4-bit, router 8-bit, yarn", "gpt_oss", dict(GPT_OSS, rope_scaling=YARN), affine(4), None, LONG),
    ("mxfp4, published names", "gpt_oss", dict(GPT_OSS, rope_scaling=YARN), "mxfp4", publish_gpt_oss, LONG),
]


def randomise(model, seed):
    mx.random.seed(seed)  # of what publish draws
    source = np.random.default_rng(seed)

    def draw(path, array):
        noise = mx.array(source.standard_normal(array.shape, dtype=np.float32))
        if path.endswith("norm.weight"):
            return 1 + 0.2 * noise
        if path.endswith("conv1d.weight"):  # small queries and keys, so that the epsilon of their norms counts
            return 0.02 * noise
        return 0.3 * noise if array.ndim == 1 else 1.5 * noise / array.shape[-1] ** 0.5

    model.update(tree_map_with_path(draw, model.parameters()))


def quantise(model, config, quantization):
    """Quantises as mlx-lm's converter: routers as the model's own rule says."""
    rule = getattr(model, "quant_predicate", None) or (lambda path, module: True)
    config["quantization"] = dict(quantization)

    def predicate(path, module):
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % quantization["group_size"]:
            return False
        choice = rule(path, module)
        if isinstance(choice, dict):
            choice = dict(choice, group_size=min(choice["group_size"], 32))
            config["quantization"][path] = choice
        return choice

    nn.quantize(model, **quantization, class_predicate=predicate)


def write_checkpoint(folder, case, seed):
    _, model_type, config, quantization, publish, _ = case
    config = dict(config, model_type=model_type)
    module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}")
    model = module.Model(module.ModelArgs.from_dict(config))
    randomise(model, seed)
    if quantization == "mxfp4":
        config["quantization_config"] = {"quant_method": "mxfp4"}
    elif quantization == "kv_b_proj":
        config["quantization"] = affine(6, 32)
    elif quantization == "fp8":
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    elif quantization == "int4":
        config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    elif quantization:
        quantise(model, config, quantization)
    weights = dict(tree_flatten(model.parameters()))
    if publish:
        weights = publish(weights)
    names = sorted(weights)
    for index, part in enumerate((names[::2], names[1::2]), 1):
        mx.save_safetensors(str(folder / f"model-0000{index}-of-00002.safetensors"),
                            {name: mx.contiguous(weights[name]) for name in part})
    (folder / "config.json").write_text(json.dumps(config))


def run_mlx_lm(folder, tokens, calls):
    model, _ = load_model(folder)
    cache = make_prompt_cache(model)
    logits, start = [], 0
    for length in calls:
        logits.append(np.array(model(mx.array(tokens[start:start + length])[None], cache=cache)[0]))
        start += length
    return np.concatenate(logits)


def run_zmlx(driver, folder, tokens, calls):
    source, target = folder / "input", folder / "output"
    source.write_bytes(np.array([len(calls), *calls, *tokens], dtype=np.int32).tobytes())
    if subprocess.run([driver, folder, source, target]).returncode:
        return None
    return np.fromfile(target, dtype=np.float32).reshape(len(tokens), -1)


def check_case(driver, case, seed):
    name, model_type, _, _, _, calls = case
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        write_checkpoint(folder, case, seed)
        tokens = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], sum(calls))
        expected = run_mlx_lm(folder, tokens, calls)
        actual = run_zmlx(driver, folder, tokens, calls)
    error = float("inf")
    if actual is not None and actual.shape == expected.shape:
        error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    passed = error <= LIMIT
    print(f"{model_type:11} {name:30} {len(tokens):4} tokens  {error:8.1e}  {'ok' if passed else 'FAIL'}",
          flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--source", type=pathlib.Path)
    parser.add_argument("--only", default="", help="model type")
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    driver = arguments.build / "tests" / "families_driver"
    print("relative error of the logits against mlx-lm")
    results = [check_case(driver, case, seed) for seed, case in enumerate(CASES, 1)
               if arguments.only in ("", case[1])]
    print(f"{sum(results)} of {len(results)} cases within {LIMIT:g}")
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
