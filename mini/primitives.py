"""The layers below the models in plain tensor operations: what nn.Conv2d, nn.LayerNorm, AdamW … do inside.

The models take these layers from torch, where they are fast. Here each is its formula, to be read, not used:
only tests/test_primitives.py imports this file, and checks every function and its gradient against torch's.
There are no classes: what torch keeps inside a module (weights, running statistics, moments) comes in as an
argument and goes out as a result. No gradient is written down either: autograd finds it.

How to read it: from top to bottom; in each function first the formula, then the lines below it, then torch's
page on the same layer. To test yourself, write one from its docstring alone, or break a line, and run

    python -m pytest tests/test_primitives.py

Order: activations, loss, dropout, convolutions, normalisation, attention, the LSTM, the optimiser.
Axes: B batch, C channels, H height, W width, T queries, S keys, V classes; … stands for any number of axes.
Read next: train_gan.py (convolutions, batch normalisation), train_gpt.py (attention), mini/lstm.py.
"""
import math

import torch
from torch import Tensor

# ---- activations and softmax

def gelu(x: Tensor) -> Tensor:
    """GELU(x) = x · Φ(x) = x · ½ · (1 + erf(x/√2)), with Φ the normal distribution function. Any shape.

    A smooth ReLU: x times the probability that a normal number is below x. Hendrycks & Gimpel 2016.
    """
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU(x) ≈ x · ½ · (1 + tanh(√(2/π) · (x + 0.044715·x³))), within 0.0005 of `gelu`. Any shape.

    Cheaper where there is no fast erf; GPT-2 was trained with it. Hendrycks & Gimpel 2016.
    """
    return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def softmax(x: Tensor) -> Tensor:
    """pᵢ = exp(xᵢ) / Σⱼ exp(xⱼ) over the last axis, (…, V) -> (…, V); an entry of −∞ has probability 0.

    A row of nothing but −∞ gives zeros, as it does in torch's attention; torch.softmax gives NaN.
    """
    peak = x.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).min)    # finite, even then
    e = torch.exp(x - peak)                             # the shift cancels, while exp(1000) would be infinite
    return e / e.sum(-1, keepdim=True).clamp(min=1)     # the peak alone adds 1: only rows of −∞ are below


# ---- the loss of a classifier, and dropout

def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0,
                  ignore_index: int = -100) -> Tensor:
    """L = −1/N · Σₙ Σₖ qₙₖ · log pₙₖ    with p = softmax(logits), q = (1 − ε)·[k = target] + ε/V

    The mean, in nats, over the targets that are not ignore_index (NaN if there are none). logits (N, V),
    targets (N,) whole numbers, ε = label_smoothing (Szegedy et al. 2016, section 7). Raises ValueError for
    other shapes or ε outside [0, 1], RuntimeError for a target outside 0 … V − 1.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"logits (N, V) and targets (N,), not {(*logits.shape,)} and {(*targets.shape,)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1]")
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]
    shifted = logits - logits.detach().amax(1, keepdim=True)        # as in softmax, whose own logarithm would
    log_p = shifted - torch.exp(shifted).sum(1, keepdim=True).log() # be −∞ wherever p rounds to 0
    log_p_target = log_p.gather(1, targets[:, None])[:, 0]          # (N, V) -> (N,)
    return -((1 - label_smoothing) * log_p_target + label_smoothing * log_p.mean(1)).mean()


def dropout(x: Tensor, p: float = 0.5, mask: Tensor | None = None,
            generator: torch.Generator | None = None) -> Tensor:
    """y = x · mask / (1 − p), where each entry of the mask is 0 with probability p, else 1. Any shape.

    Srivastava et al. 2014, in the "inverted" form: dividing keeps the mean of y at x, so that at test time
    dropout is simply left out. The mask (True: keep) is drawn with the generator unless it is given. Raises
    ValueError for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} is not a probability")
    if mask is None:
        mask = torch.rand(x.shape, generator=generator, device=x.device) >= p
    return x * mask * (1 / (1 - p) if p < 1 else 0.0)


# ---- convolutions

def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1,
           padding: int = 0) -> Tensor:
    """y[b,o,i,j] = bias[o] + Σ_c Σ_u Σ_v weight[o,c,u,v] · x[b,c, s·i + u − p, s·j + v − p],  x = 0 outside

    x (B, C, H, W), weight (O, C, KH, KW), bias (O,) -> (B, O, H', W'), H' = ⌊(H + 2p − KH) / s⌋ + 1; stride s
    and padding p in pixels. With every patch unfolded into a row it is one matrix product (Chellapilla et al.
    2006). Raises ValueError if the channels differ or the kernel is larger than the padded image.
    """
    (B, C, H, W), (KH, KW), p = x.shape, weight.shape[2:], padding
    if weight.size(1) != C or min(H + 2 * p - KH, W + 2 * p - KW) < 0 or stride < 1 or p < 0:
        raise ValueError(f"no convolution of {(*x.shape,)} with {(*weight.shape,)}, {stride=}, {padding=}")
    padded = x.new_zeros(B, C, H + 2 * p, W + 2 * p)
    padded[:, :, p:p + H, p:p + W] = x
    patches = padded.unfold(2, KH, stride).unfold(3, KW, stride)    # (B, C, H', W', KH, KW), a view
    rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)             # -> (B, H', W', C·KH·KW)
    y = rows @ weight.flatten(1).T                                  # @ (C·KH·KW, O) -> (B, H', W', O)
    y = y.permute(0, 3, 1, 2)                                       # -> (B, O, H', W')
    return y if bias is None else y + bias[:, None, None]


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0,
                     output_padding: int = 0) -> Tensor:
    """y[b,o, s·i + u − p, s·j + v − p] += weight[c,o,u,v] · x[b,c,i,j]  for all c,i,j,u,v;  then + bias[o]

    Every pixel stamps its multiple of the kernel on the output, s pixels apart. As a matrix it is `conv2d`
    transposed, not inverted: ⟨conv2d(a, w), b⟩ = ⟨a, conv_transpose2d(b, w)⟩. The same by other means: s − 1
    zeros between the pixels, then conv2d with the flipped kernel (Dumoulin & Visin 2016, chapter 4).

    x (B, C, H, W), weight (C, O, KH, KW), bias (O,) -> (B, O, H', W'), H' = (H − 1)·s − 2p + KH + r. A conv2d
    of stride s makes s different sizes into the same H: r = output_padding < s, rows below and columns on the
    right, says which. Raises ValueError if r is not below s, the channels differ or no pixel is left.
    """
    (B, C, H, W), (_, O, KH, KW), s, p = x.shape, weight.shape, stride, padding
    full_h, full_w = (H - 1) * s + KH + output_padding, (W - 1) * s + KW + output_padding
    if weight.size(0) != C or min(full_h, full_w) <= 2 * p or p < 0 or not 0 <= output_padding < s:
        raise ValueError(f"no transposed convolution of {(*x.shape,)} with {(*weight.shape,)}, {stride=}, "
                         f"{padding=}, {output_padding=}")
    full = x.new_zeros(B, O, full_h, full_w)
    for u in range(KH):
        for v in range(KW):                             # entry (u, v) of all stamps at once: they lie s apart
            entry = torch.einsum("bchw,co->bohw", x, weight[:, :, u, v])
            full[:, :, u:u + (H - 1) * s + 1:s, v:v + (W - 1) * s + 1:s] += entry
    y = full[:, :, p:full_h - p, p:full_w - p]          # what conv2d adds as padding is cut off here
    return y if bias is None else y + bias[:, None, None]


# ---- normalisation: y = weight · (x − mean) / √(var + eps) + bias
#      The four differ only in which entries share a mean and a variance: eqs. 1–7 of Wu & He 2018.

def moments(x: Tensor, dim) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (divided by n, not n − 1) over the axes dim, which stay, with length 1."""
    mean = x.mean(dim, keepdim=True)
    return mean, ((x - mean) ** 2).mean(dim, keepdim=True)


def standardise(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """(x − mean) / √(var + eps): with eps, entries that are all equal give 0 and not 0/0."""
    return (x - mean) / torch.sqrt(var + eps)


def scale_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int) -> Tensor:
    """weight · x + bias, one of each per index of the axis: the model may choose scale and mean."""
    shape = [1] * x.ndim
    shape[axis] = x.size(axis)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:
    """Each position by itself, over its features: x (…, C), weight and bias (C,). Ba et al. 2016.

    It looks at no other position and no other example: the same in training and at test time.
    """
    return scale_shift(standardise(x, *moments(x, -1), eps), weight, bias, -1)


def batch_norm(x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None = None,
               bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
               eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """Each channel over batch and positions: x (B, C, …), all else (C,). Ioffe & Szegedy 2015, alg. 1 and 2.

    Training: by the statistics of the batch; the running ones follow, r ← (1 − momentum)·r + momentum·new. At
    test time: by the running ones, so that an answer does not depend on the rest of the batch. Returns (y,
    running_mean, running_var). Raises ValueError if training meets a single entry per channel.
    """
    if training:
        n = x.numel() // x.size(1)                          # entries per channel
        if n == 1:
            raise ValueError(f"one entry per channel in {(*x.shape,)}: its variance is unknown")
        mean, var = moments(x, [axis for axis in range(x.ndim) if axis != 1])
        unbiased = var * n / (n - 1)                        # running_var estimates that of all the data
        running_mean = (1 - momentum) * running_mean + momentum * mean.detach().flatten()
        running_var = (1 - momentum) * running_var + momentum * unbiased.detach().flatten()
    else:
        column = (-1,) + (1,) * (x.ndim - 2)                # (C,) -> (C, 1, …), to stand beside x
        mean, var = running_mean.view(column), running_var.view(column)
    return scale_shift(standardise(x, mean, var, eps), weight, bias, 1), running_mean, running_var


def group_norm(x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:
    """Each image by itself, each group of C/groups neighbouring channels over all positions. Wu & He 2018.

    x (B, C, …), weight and bias (C,). Raises ValueError unless groups divides C.
    """
    if groups < 1 or x.size(1) % groups:
        raise ValueError(f"{x.size(1)} channels do not make {groups} groups")
    g = x.reshape(x.size(0), groups, -1)                    # (B, C, …) -> (B, groups, C/groups · positions)
    return scale_shift(standardise(g, *moments(g, -1), eps).view(x.shape), weight, bias, 1)


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
                  eps: float = 1e-5) -> Tensor:
    """Each channel of each image by itself: group_norm with a group per channel. Ulyanov et al. 2016.

    x (B, C, …), weight and bias (C,). It removes tint and contrast: good for style. Raises ValueError if
    there is only one position.
    """
    if x.shape[2:].numel() == 1:
        raise ValueError(f"one position in {(*x.shape,)}: only the bias would be left of it")
    return group_norm(x, x.size(1), weight, bias, eps)


# ---- attention

def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q kᵀ/√hs + mask) v: each query reads a mean of the values, weighted by how well their keys fit.

    q (…, T, hs), k (…, S, hs), v (…, S, d) -> (…, T, d). Vaswani et al. 2017, eq. 1. The mask broadcasts to
    (…, T, S): boolean (True: may look) or numbers to add (−∞: may not). causal: query i sees the keys 0 … i;
    with a mask too, both hold. A query that may look nowhere reads zeros.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))    # (…, T, S); a sum of hs terms grows as √hs
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)   # key j > query i
        scores = scores.masked_fill(future, -math.inf)
    return softmax(scores) @ v                                  # (…, T, S) @ (…, S, d) -> (…, T, d)


# ---- recurrence

def lstm_step(x: Tensor, h: Tensor, c: Tensor, weight_ih: Tensor, weight_hh: Tensor,
              bias_ih: Tensor | None = None, bias_hh: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """c' = f ⊙ c + i ⊙ g,  h' = o ⊙ tanh(c')    with i, f, o = σ(…), g = tanh(…) of linear maps of x and h

    x (B, I), h and c (B, N), weight_ih (4N, I), weight_hh (4N, N), biases (4N,) -> (h', c'). Rows in torch's
    order: input gate i, forget gate f, candidate g, output gate o. The cell c changes by addition, which lets
    gradients live through many steps. Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000.
    """
    gates = x @ weight_ih.T + h @ weight_hh.T               # (B, 4N)
    for bias in (bias_ih, bias_hh):                         # one would do; torch has two because cuDNN has
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.chunk(4, dim=1)                      # (B, 4N) -> 4 × (B, N)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * c + i * g
    return o * torch.tanh(c), c


# ---- the optimiser

def adamw_step(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, t: int, lr: float = 1e-3, beta1: float = 0.9,
               beta2: float = 0.999, eps: float = 1e-8,
               weight_decay: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """m ← β₁·m + (1 − β₁)·grad    v ← β₂·v + (1 − β₂)·grad²    m̂ = m/(1 − β₁ᵗ)    v̂ = v/(1 − β₂ᵗ)

        p ← (1 − lr·weight_decay)·p − lr · m̂ / (√v̂ + eps)

    Step t = 1, 2, … of a parameter of any shape. m and v begin as zeros, and the hats undo the bias of that.
    The decay is decoupled: not part of grad, so not divided by √v̂ (Loshchilov & Hutter 2019, algorithm 2;
    the lr in it is torch's choice). Returns (p, m, v), changes no argument. Raises ValueError for t < 1.
    """
    if t < 1:
        raise ValueError(f"step {t}: steps are counted from 1")
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad ** 2
    m_hat, v_hat = m / (1 - beta1 ** t), v / (1 - beta2 ** t)
    return (1 - lr * weight_decay) * p - lr * m_hat / (torch.sqrt(v_hat) + eps), m, v
