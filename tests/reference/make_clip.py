"""Makes clip.npz: a small CLIP with random weights, by our names, and what it computes.

Made with transformers 5.24.0 and torch 2.13.0:  python tests/reference/make_clip.py

images (B, 3, S, S), tokens (B, T), u and v (B, D), logits (B, B), loss, weight/NAME and grad/NAME, the gradient of
the loss for every parameter; computed in float64 with weights that float32 holds exactly.
"""
import re
from pathlib import Path

import numpy as np
import torch
import transformers

V, T, EOS = 12, 9, 2
SIZES = dict(hidden_size=12, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu",
             attn_implementation="eager")
NAMES = [(r"vision_model\.", "image_encoder."), (r"text_model\.", "text_encoder."),
         (r"encoder\.layers", "blocks"), (r"embeddings\.patch_embedding", "patch_embed"),
         (r"embeddings\.class_embedding", "class_token"),
         (r"embeddings\.position_embedding\.weight", "positions"),
         (r"embeddings\.token_embedding", "token_embedding"), (r"pre_layrnorm", "ln_pre"),
         (r"post_layernorm", "ln_post"), (r"final_layer_norm", "ln_final"),
         (r"layer_norm(\d)", r"ln_\1"), (r"self_attn\.out_proj", "attn.out"),
         (r"self_attn\.[qkv]_proj", "attn.qkv"), (r"mlp\.fc(\d)", r"mlp.fc_\1"),
         (r"visual_projection", "image_encoder.projection"),
         (r"text_projection", "text_encoder.projection")]


def by_our_names(theirs: dict) -> dict:
    """Their q, k and v, which come as k, v, q, are one matrix here; EOS is the largest number there, 2 here."""
    ours, parts = {}, {}
    for name, value in theirs.items():
        which, value = re.search(r"([qkv])_proj", name), value.detach().numpy().astype(np.float32)
        for pattern, ours_has in NAMES:
            name = re.sub(pattern, ours_has, name)
        if which:
            parts.setdefault(name, {})[which[1]] = value
        else:
            rolled = name == "text_encoder.token_embedding.weight"
            ours[name] = np.roll(value, EOS + 1, axis=0) if rolled else value
    return ours | {name: np.concatenate([part[key] for key in "qkv"]) for name, part in parts.items()}


torch.manual_seed(0)
config = transformers.CLIPConfig(
    text_config=dict(**SIZES, vocab_size=V, max_position_embeddings=T, eos_token_id=V - 1, bos_token_id=V - 2,
                     projection_dim=8),
    vision_config=dict(**SIZES, image_size=12, patch_size=4, projection_dim=8), projection_dim=8,
    attn_implementation="eager")
model = transformers.CLIPModel(config)
for parameter in model.parameters():        # all of them, biases and norms too, far from their initial values
    parameter.data.add_(0.1 * torch.randn_like(parameter))
model = model.double().eval()
images = torch.randn(4, 3, 12, 12).float().double()
tokens = torch.tensor([[1, 5, 3, 8, EOS, 0, 0, 0, 0], [1, 3, 4, 5, 6, 7, 8, 9, EOS], [1, 11, EOS, 0, 0, 0, 0, 0, 0],
                       [1, 4, 10, 3, 9, 3, EOS, 0, 0]])
result = model(input_ids=(tokens - EOS - 1) % V, pixel_values=images, return_loss=True)
result.loss.backward()
golden = {"images": images.numpy().astype(np.float32), "tokens": tokens.numpy().astype(np.int16),
          "u": result.image_embeds, "v": result.text_embeds, "logits": result.logits_per_image, "loss": result.loss}
golden = {name: value.detach().numpy() if torch.is_tensor(value) else value for name, value in golden.items()}
for kind, values in (("weight", dict(model.named_parameters())),
                     ("grad", {name: p.grad for name, p in model.named_parameters()})):
    golden |= {f"{kind}/{name}": value for name, value in by_our_names(values).items()}
np.savez_compressed(Path(__file__).parent / "clip.npz", **golden)
