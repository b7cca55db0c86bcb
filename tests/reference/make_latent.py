"""Makes latent.npz: a block of a diffusion Transformer, and a flow from noise to data, by diffusers, for
tests/test_latent_diffusion.py.

python tests/reference/make_latent.py      (made with diffusers 0.42.1, torch 2.13.0, numpy 2.4.6)

All is computed in float64. block/NAME: the weights of a BasicTransformerBlock (ada_norm_zero, with cross-attention,
2 heads of 16) under the names of our DiTBlock, stored as float16, which holds them exactly. block/x (2, 6, 32), e (2,
32): the vector before the SiLU, words (2, 5, 32), mask (2, 5), 1 where a word is; block/out (2, 6, 32).
x0, eps (10, 2, 3): data and noise; v (10, 2, 3): what a network is said to have answered at each call.
    sigmas (6,): the times of 5 steps, as the pipelines of Stable Diffusion 3 and Flux ask for
    noised (5, 2, 3): FlowMatchEulerDiscreteScheduler.scale_noise of x0 and eps at these times
    euler (6, 2, 3): x at each of the times, from eps[0]
    heun (6, 2, 3): likewise, by FlowMatchHeunDiscreteScheduler, which asks 9 times
"""
import types
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from diffusers.models.attention import BasicTransformerBlock
from diffusers.schedulers import (scheduling_flow_match_euler_discrete,
                                  scheduling_flow_match_heun_discrete)

print("diffusers", diffusers.__version__, "torch", torch.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
golden = {}

# ---- the block
D = 32
block = BasicTransformerBlock(D, 2, 16, cross_attention_dim=D, activation_fn="gelu", num_embeds_ada_norm=1,
                              attention_bias=True, norm_type="ada_norm_zero", norm_eps=1e-6).double().eval()
# to_q and so on have biases: those of attention_bias; norm3 keeps its weight of 1 and bias of 0
for name, weight in block.named_parameters():
    if "norm3" not in name and "emb." not in name:
        size = 0.3 if weight.ndim > 1 else 0.5
        weight.data = torch.tensor(rng.normal(size=weight.shape) * size).half().double()
w = dict(block.named_parameters())


def joined(names, part):
    return torch.cat([w[f"{name}.{part}"] for name in names])


ours = {
    "modulation": ["norm1.linear"],
    "qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "proj": ["attn1.to_out.0"],
    "cross_norm": ["norm2"],
    "cross_q": ["attn2.to_q"],
    "cross_kv": ["attn2.to_k", "attn2.to_v"],
    "cross_proj": ["attn2.to_out.0"],
    "fc": ["ff.net.0.proj"],
    "fc_proj": ["ff.net.2"],
}
for name, theirs in ours.items():
    for part in ("weight", "bias"):
        golden[f"block/{name}.{part}"] = joined(theirs, part).detach().numpy().astype(np.float16)

x = torch.tensor(rng.normal(size=(2, 6, D)))
e = torch.tensor(rng.normal(size=(2, D)))
words = torch.tensor(rng.normal(size=(2, 5, D)))
mask = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
block.norm1.emb.forward = lambda *_, **__: e        # in place of an embedding of a whole number and a class
bias = torch.where(mask[:, None] == 1, 0.0, -torch.inf).double()
with torch.no_grad():
    out = block(x, encoder_hidden_states=words, encoder_attention_mask=bias, timestep=torch.zeros(2),
                class_labels=torch.zeros(2))
golden |= {"block/x": x, "block/e": e, "block/words": words, "block/mask": mask, "block/out": out}

# ---- the flow. diffusers rounds samples and times to float32 on their way: here that is float64
for module in (scheduling_flow_match_euler_discrete, scheduling_flow_match_heun_discrete):
    module.torch = types.SimpleNamespace(**{**vars(torch), "float32": torch.float64})
    module.np = types.SimpleNamespace(**{**vars(np), "float32": np.float64})
x0, eps, v = (torch.tensor(rng.normal(size=(10, 2, 3))) for _ in range(3))
steps = 5
euler = FlowMatchEulerDiscreteScheduler()
euler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
chain = [eps[0]]
for i, t in enumerate(euler.timesteps):
    chain.append(euler.step(v[i], t, chain[-1]).prev_sample)
noised = torch.cat([euler.scale_noise(x0[i:i + 1], euler.timesteps[i:i + 1], eps[i:i + 1])
                    for i in range(steps)])
golden |= {"x0": x0, "eps": eps, "v": v, "sigmas": euler.sigmas, "noised": noised, "euler": torch.stack(chain)}

heun = FlowMatchHeunDiscreteScheduler()
heun.set_timesteps(steps)
sigmas = euler.sigmas
heun.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])   # the same times
heun.timesteps = heun.sigmas[:-1] * 1000
x = eps[0]
chain = [x]
for i in range(2 * steps - 1):
    heun._step_index = i
    x = heun.step(v[i], heun.timesteps[i], x).prev_sample
    if i % 2 == 1 or i == 2 * steps - 2:
        chain.append(x)
golden["heun"] = torch.stack(chain)
golden = {name: value.numpy() if torch.is_tensor(value) else value for name, value in golden.items()}
np.savez_compressed(Path(__file__).parent / "latent.npz", **golden)
