"""Makes llama/ and llama.npz: small Llamas and Qwens with random weights, and what they compute.

Made with transformers 5.24.0 and torch 2.13.0:  python tests/reference/make_llama.py

llama/NAME: weights and config.json as `save_pretrained` writes them; those of llama_a in two shards, those of qwen2 in
bfloat16. llama.npz, for each of them: tokens (B, T), logits (B, T, V), loss, and the gradient of the loss for every
parameter, computed in float64.
"""
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import (LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

HERE = Path(__file__).parent
SMALL = dict(vocab_size=47, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, bos_token_id=0,
             eos_token_id=0, pad_token_id=None, attn_implementation="eager")
MODELS = {
    "llama_a": (LlamaForCausalLM, LlamaConfig(
        **SMALL, hidden_size=24, intermediate_size=32, num_key_value_heads=2, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=256))),
    "llama_b": (LlamaForCausalLM, LlamaConfig(
        **SMALL, hidden_size=16, intermediate_size=24, num_key_value_heads=4, tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="yarn", rope_theta=500.0, factor=4.0, beta_fast=4.0, beta_slow=1.0,
                             original_max_position_embeddings=16))),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(
        **SMALL, hidden_size=24, intermediate_size=32, num_key_value_heads=1, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="linear", rope_theta=1e6, factor=2.0))),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(
        **SMALL, hidden_size=24, intermediate_size=32, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=1e6))),
}

golden = {}
shutil.rmtree(HERE / "llama", ignore_errors=True)
for seed, (name, (make, config)) in enumerate(MODELS.items()):
    torch.manual_seed(seed)
    model = make(config)
    for parameter in model.parameters():    # all of them, biases and norms too, far from their initial values
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    if name == "qwen2":
        model = model.bfloat16()
    model.save_pretrained(HERE / "llama" / name, max_shard_size="22KB" if name == "llama_a" else "1GB")
    (HERE / "llama" / name / "generation_config.json").unlink(missing_ok=True)
    model = make.from_pretrained(HERE / "llama" / name, attn_implementation="eager", dtype=torch.float32).double()
    tokens = torch.randint(SMALL["vocab_size"], (2, 24))
    result = model(tokens, labels=tokens)   # transformers shifts the labels itself
    result.loss.backward()
    golden[f"{name}/tokens"] = tokens.numpy().astype(np.int16)
    golden[f"{name}/logits"] = result.logits.detach().numpy().astype(np.float32)
    golden[f"{name}/loss"] = result.loss.detach().numpy()
    for key, parameter in model.named_parameters():
        golden[f"{name}/grad/{key}"] = parameter.grad.numpy().astype(np.float32)
np.savez_compressed(HERE / "llama.npz", **golden)
