"""Makes bert_tiny/ and bert.npz: a small BERT with random weights, and what it computes.

Made with transformers 5.24.0 and torch 2.13.0:  python tests/reference/make_bert.py

bert_tiny: model.safetensors and config.json as `save_pretrained` of BertForMaskedLM writes them. bert.npz: a batch of
tokens (B, T), filled up at different lengths, types (B, T), lengths (B,); the last vectors (B, T, C), the masked-LM
logits (B, T, V), labels (−100: not to be named), the loss, and its gradient for every parameter, in float64.
"""
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
torch.manual_seed(0)
sizes = dict(vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
             max_position_embeddings=24)
config = transformers.BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                                 attn_implementation="eager")
model = transformers.BertForMaskedLM(config)
for parameter in model.parameters():        # all of them, biases and norms too, far from their initial values
    parameter.data.add_(0.1 * torch.randn_like(parameter))
shutil.rmtree(HERE / "bert_tiny", ignore_errors=True)
model.save_pretrained(HERE / "bert_tiny")
(HERE / "bert_tiny/generation_config.json").unlink(missing_ok=True)
model = model.double()
lengths = torch.tensor([20, 7, 13, 1])
there = torch.arange(20) < lengths[:, None]
tokens = torch.randint(5, 61, (4, 20)).where(there, 0)
types = (torch.arange(20) > lengths[:, None] // 2).long().where(there, 0)
labels = tokens.where(there & (torch.rand(4, 20) < 0.4), -100)
result = model(tokens, attention_mask=there.long(), token_type_ids=types, labels=labels, output_hidden_states=True)
result.loss.backward()
golden = {"tokens": tokens, "types": types, "lengths": lengths, "labels": labels, "loss": result.loss.detach(),
          "vectors": result.hidden_states[-1].detach(), "logits": result.logits.detach()}
golden |= {f"grad/{name}": parameter.grad.float() for name, parameter in model.named_parameters()}
np.savez_compressed(HERE / "bert.npz", **{name: value.numpy() for name, value in golden.items()})
