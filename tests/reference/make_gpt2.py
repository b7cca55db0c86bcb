"""Makes gpt2_a/, gpt2_b/ and gpt2.npz: small GPT-2s with random weights, and what they compute.

Made with transformers 5.23.0 and torch 2.13.0:  python tests/reference/make_gpt2.py

gpt2_a, gpt2_b: model.safetensors and config.json as `save_pretrained` writes them. gpt2.npz, for each of the two:
tokens (B, T), logits (B, T, V), loss, and the gradient of the loss for every parameter, computed in float64.
"""
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
CONFIGS = {"gpt2_a": dict(vocab_size=640, n_positions=32, n_embd=16, n_layer=2, n_head=2),
           "gpt2_b": dict(vocab_size=61, n_positions=24, n_embd=32, n_layer=3, n_head=4)}

golden = {}
for seed, (name, sizes) in enumerate(CONFIGS.items()):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                                     attn_implementation="eager", bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():    # all of them, biases and norms too, far from their initial values
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    shutil.rmtree(HERE / name, ignore_errors=True)
    model.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    model = model.double()
    tokens = torch.randint(sizes["vocab_size"], (2, 16))
    result = model(tokens, labels=tokens)   # transformers shifts the labels itself
    result.loss.backward()
    golden[f"{name}/tokens"] = tokens.numpy().astype(np.int16)
    golden[f"{name}/logits"] = result.logits.detach().numpy().astype(np.float32)
    golden[f"{name}/loss"] = result.loss.detach().numpy()
    for key, parameter in model.named_parameters():
        golden[f"{name}/grad/{key.removeprefix('transformer.')}"] = parameter.grad.numpy().astype(np.float32)
np.savez_compressed(HERE / "gpt2.npz", **golden)
