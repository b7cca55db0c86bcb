"""The layers below the models in plain tensor operations: what nn.Conv2d, AdamW … do inside.

The models take these layers from torch, where they are fast, but where their formulas are
hidden in compiled code. Here each layer is written as its formula, to be read. No model
imports this file. Only tests/test_primitives.py does: it compares every function, and its
gradient, with torch's.

There are no classes here: what torch keeps inside a module (weights, running statistics,
moments) comes in as an argument and goes out as a result. There are no gradients either:
autograd derives them from these lines.

The order of reading: every function uses only what stands above it, so you can read from
top to bottom. Or read, before a model, the part that it is built on:

    train_gan.py         convolutions, batch_norm
    mini/lstm.py         softmax, cross_entropy, dropout, lstm_step
    train_gpt.py         gelu_tanh, layer_norm, attention, adamw_step
    train_diffusion.py   group_norm
    mini/cyclegan.py     instance_norm

In each function, first read the formula, then the lines below it, then torch's page on the
same layer. To test yourself, write a function from its docstring alone, or change one of
its lines, and run

    python -m pytest tests/test_primitives.py

Letters for the axes: B batch, C channels (or features), O output channels, H height, W
width, KH and KW those of a kernel, T queries, S keys, hs size of a head, V classes, I
inputs and N units of an LSTM; … stands for any number of axes, or none.
"""
import math

import torch
from torch import Tensor

# ---- activations

def gelu(x: Tensor) -> Tensor:
    """GELU of each number: a smooth ReLU. Any shape.

        GELU(x) = x · Φ(x),    Φ(x) = ½ · (1 + erf(x/√2))

    Φ(x) is the probability that a standard normal number is below x. Where ReLU multiplies
    x by 0 or 1, GELU multiplies it by this probability. Hendrycks & Gimpel 2016, section 2.
    """
    probability = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return x * probability


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU of each number by an approximation, which is within 0.0005 of `gelu`. Any shape.

        GELU(x) ≈ x · Φ(x),    Φ(x) ≈ ½ · (1 + tanh(√(2/π) · (x + 0.044715·x³)))

    It was made because erf is slow on some devices. GPT-2 was trained with it, so its
    weights need it.
    Hendrycks & Gimpel 2016, section 2.
    """
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)
    probability = 0.5 * (1 + torch.tanh(inner))
    return x * probability


# ---- softmax

def softmax(x: Tensor) -> Tensor:
    """The probabilities that belong to the scores x: (…, V) -> (…, V), each row adds up to 1.

        pᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)

    exp(1000) would be infinite, so the largest score of the row is subtracted first. This
    changes nothing: it multiplies numerator and denominator by the same number. A score of
    −∞ gives probability 0. A row in which all scores are −∞ gives zeros, as in torch's
    attention, while torch.softmax gives NaN.
    """
    # What is subtracted does not change the result, so no gradient has to pass through it.
    largest = x.detach().amax(-1, keepdim=True)             # (…, V) -> (…, 1)
    # In a row of −∞ the largest score is −∞ too, and −∞ − (−∞) is NaN. There the most
    # negative finite number is subtracted instead.
    largest = largest.clamp(min=torch.finfo(x.dtype).min)
    e = torch.exp(x - largest)
    total = e.sum(-1, keepdim=True)                         # (…, V) -> (…, 1)
    # The largest score contributes exp(0) = 1, so the total is at least 1. But in a row of
    # −∞ it is 0, and 0/0 is NaN. There 0 is divided by 1 instead.
    total = total.clamp(min=1)
    return e / total


def log_softmax(x: Tensor) -> Tensor:
    """The logarithms of the probabilities that belong to the scores x: (…, V) -> (…, V).

        log pᵢ = xᵢ − log Σⱼ exp(xⱼ)

    The largest score is subtracted as in `softmax`. The logarithm of `softmax` itself would
    be −∞ wherever a small probability has been rounded to 0.
    """
    largest = x.detach().amax(-1, keepdim=True)
    shifted = x - largest
    total = torch.exp(shifted).sum(-1, keepdim=True)
    return shifted - total.log()


# ---- the loss of a classifier

def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """The mean cross-entropy, in nats, between predictions and true classes: a single number.

        L = −1/N · Σₙ Σₖ qₙₖ · log pₙₖ
        p = softmax(logits)
        qₙₖ = (1 − ε) · [k = targetₙ] + ε/V    where [ ] is 1 if that is true, else 0

    logits (N, V), targets (N,) whole numbers from 0 to V − 1, ε = label_smoothing. Without
    smoothing (ε = 0) only the true class counts, and L is the mean of −log p(target). With
    it a share ε of the probability asked for is spread evenly over all classes (Szegedy et
    al. 2016, section 7).

    Targets equal to ignore_index (padding) are left out, and N counts only the others; if
    there are none, L is NaN. Raises ValueError for other shapes or for ε outside [0, 1],
    RuntimeError for a target outside 0 … V − 1.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError("cross_entropy needs logits (N, V) and targets (N,), "
                         f"not {tuple(logits.shape)} and {tuple(targets.shape)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1]")
    counted = targets != ignore_index
    logits = logits[counted]
    targets = targets[counted]

    log_p = log_softmax(logits)                             # (N, V)
    log_p_target = log_p.gather(1, targets[:, None])        # -> (N, 1): one entry of each row
    log_p_target = log_p_target[:, 0]                       # -> (N,)
    log_p_mean = log_p.mean(1)                              # (N, V) -> (N,): 1/V · Σₖ log pₙₖ
    # Σₖ qₙₖ · log pₙₖ, with q written out
    log_likelihood = (1 - label_smoothing) * log_p_target + label_smoothing * log_p_mean
    return -log_likelihood.mean()


# ---- dropout

def dropout(
    x: Tensor,
    p: float = 0.5,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x with each number set to 0 with probability p, the others divided by 1 − p. Any shape.

        y = x · mask / (1 − p),    mask = 1 with probability 1 − p, else 0

    It is used in training only. The division keeps the mean of y at x, so that at test time
    dropout is simply left out. Srivastava et al. 2014; there p is the probability of
    *keeping* a number, and instead the weights are multiplied by it at test time.

    The mask (True: keep) is drawn with the generator, unless it is given. Raises ValueError
    for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} is not a probability")
    if mask is None:
        mask = torch.rand(x.shape, generator=generator, device=x.device) >= p
    scale = 1 / (1 - p) if p < 1 else 0.0           # with p = 1 nothing is kept
    return x * mask * scale


# ---- convolutions

def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
) -> Tensor:
    """The convolution of images x with a kernel: (B, C, H, W) -> (B, O, H', W').

        y[b,o,i,j] = bias[o] + Σ_c Σ_u Σ_v weight[o,c,u,v] · x[b,c, s·i + u − p, s·j + v − p]
        H' = ⌊(H + 2p − KH) / s⌋ + 1,    W' = ⌊(W + 2p − KW) / s⌋ + 1

    weight (O, C, KH, KW), bias (O,), s = stride, p = padding, both in pixels; x is 0
    outside the image. In words: the kernel lies on a patch of the image, patch and kernel
    are multiplied number by number, the products are summed, and the kernel moves on by s
    pixels. (Mathematics calls this a cross-correlation; its convolution flips the kernel
    first.)

    With the patches as the rows of one matrix and the kernels as the columns of another,
    all sums are one matrix product (Chellapilla et al. 2006). The sizes are relationship 6
    of Dumoulin & Visin 2016. Raises ValueError for shapes that do not fit together.
    """
    B, C, H, W = x.shape
    O, C_weight, KH, KW = weight.shape
    padded_h = H + 2 * padding
    padded_w = W + 2 * padding
    if C_weight != C:
        raise ValueError(f"the images have {C} channels, but the kernel has {C_weight}")
    if stride < 1 or padding < 0:
        raise ValueError(f"{stride=} must be at least 1, {padding=} at least 0")
    if KH > padded_h or KW > padded_w:
        raise ValueError(f"a {KH} × {KW} kernel does not fit into {padded_h} × {padded_w} pixels")

    padded = x.new_zeros(B, C, padded_h, padded_w)
    padded[:, :, padding:padding + H, padding:padding + W] = x
    patches = padded.unfold(2, KH, stride)                  # -> (B, C, H', W + 2p, KH)
    patches = patches.unfold(3, KW, stride)                 # -> (B, C, H', W', KH, KW)
    rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)     # -> (B, H', W', C·KH·KW)
    kernels = weight.flatten(1)                             # (O, C, KH, KW) -> (O, C·KH·KW)
    y = rows @ kernels.T                                    # -> (B, H', W', O)
    y = y.permute(0, 3, 1, 2)                               # -> (B, O, H', W')
    if bias is not None:
        y = y + bias[:, None, None]
    return y


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    """The transposed convolution of images x with a kernel: (B, C, H, W) -> (B, O, H', W').

        y[b,o,i,j] = bias[o]
        y[b,o, s·i + u − p, s·j + v − p] += weight[c,o,u,v] · x[b,c,i,j]  for all c, i, j, u, v
        H' = (H − 1)·s − 2p + KH + r,    W' = (W − 1)·s − 2p + KW + r

    weight (C, O, KH, KW), bias (O,), s = stride, p = padding, r = output_padding, all in
    pixels. In words: every pixel stamps the kernel, times its own value, on the output. The
    stamps are s pixels apart; where they overlap they are added, and what lies outside y is
    dropped. With s = 2, p = 1 and a kernel of 4 × 4 an image becomes exactly twice as
    large.

    Why "transposed": with an image written as one long vector, conv2d multiplies it by a
    matrix, and this function multiplies by the transpose of that matrix (not by its
    inverse). So

        ⟨conv2d(a, w), b⟩ = ⟨a, conv_transpose2d(b, w)⟩,

    and this function is also what autograd computes for x in the backward pass of conv2d.
    Why r: conv2d with stride s makes images of s different heights H equally high; on the
    way back, r says which of these heights is meant. Sizes: relationship 14 of Dumoulin &
    Visin 2016 (r is their a).

    Raises ValueError for shapes that do not fit together.
    """
    B, C, H, W = x.shape
    C_weight, O, KH, KW = weight.shape
    full_h = (H - 1) * stride + KH + output_padding         # before the padding is cut off
    full_w = (W - 1) * stride + KW + output_padding
    if C_weight != C:
        raise ValueError(f"the images have {C} channels, but the kernel has {C_weight}")
    if padding < 0:
        raise ValueError(f"{padding=} must be at least 0")
    if not 0 <= output_padding < stride:
        raise ValueError(f"{output_padding=} must be at least 0 and below {stride=}")
    if full_h <= 2 * padding or full_w <= 2 * padding:
        raise ValueError(f"{padding=} leaves nothing of an output of {full_h} × {full_w}")

    full = x.new_zeros(B, O, full_h, full_w)
    for u in range(KH):
        for v in range(KW):
            # Entry (u, v) of all stamps at once: they lie s pixels apart, from (u, v) on.
            part = torch.einsum("bchw,co->bohw", x, weight[:, :, u, v])     # -> (B, O, H, W)
            rows = slice(u, u + (H - 1) * stride + 1, stride)
            columns = slice(v, v + (W - 1) * stride + 1, stride)
            full[:, :, rows, columns] += part
    # conv2d adds a margin of p pixels when it begins; its transpose cuts it off when it ends.
    y = full[:, :, padding:full_h - padding, padding:full_w - padding]  # -> (B, O, H', W')
    if bias is not None:
        y = y + bias[:, None, None]
    return y


# ---- normalisation
#
# All four norms do the same:
#
#     x̂ = (x − mean) / √(var + eps)
#     y = weight · x̂ + bias
#
# They differ only in which numbers share a mean and a variance (Wu & He 2018, eqs. 1 to 7):
#
#     layer_norm      the features at one position of one example
#     batch_norm      one channel, at all positions of all examples
#     group_norm      a group of channels, at all positions of one example
#     instance_norm   one channel, at all positions of one example
#
# The first three functions are the steps that they share.

def mean_and_variance(x: Tensor, dim: int | list[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance of x over the axes `dim`, which stay with length 1.

        mean = 1/n · Σ x,    var = 1/n · Σ (x − mean)²

    The variance is the biased one: divided by n, not by n − 1.
    """
    mean = x.mean(dim, keepdim=True)
    var = ((x - mean) ** 2).mean(dim, keepdim=True)
    return mean, var


def normalize(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """x̂ = (x − mean) / √(var + eps): x with mean 0 and variance 1.

    eps is there for numbers that are all equal: with it they become 0, without it NaN, as
    0/0 does.
    """
    return (x - mean) / torch.sqrt(var + eps)


def scale_and_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    axis: int,
) -> Tensor:
    """y = weight · x + bias, with one weight and one bias for each index of the axis.

    They are learnt: if mean 0 and variance 1 do not suit the model, it can choose others.
    """
    shape = [1] * x.ndim
    shape[axis] = x.size(axis)      # for axis 1 of images (B, C, H, W): (1, C, 1, 1)
    if weight is not None:
        x = x * weight.view(shape)
    if bias is not None:
        x = x + bias.view(shape)
    return x


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x (…, C) with each position normalised by itself, over its C features.

    weight and bias (C,). It looks at no other position and at no other example, so it is
    the same in training and at test time. Ba et al. 2016, equation 3.
    """
    mean, var = mean_and_variance(x, dim=-1)                # (…, C) -> (…, 1)
    normalized = normalize(x, mean, var, eps)
    return scale_and_shift(normalized, weight, bias, axis=-1)


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, which is x (B, C, …) with each channel normalised, and the two running averages.

        running_mean ← (1 − momentum) · running_mean + momentum · mean of this batch
        running_var  ← (1 − momentum) · running_var  + momentum · variance of this batch

    In training the mean and variance are those of the batch, and the running averages
    follow them. At test time they are the running averages, so that the output for one
    example does not depend on the others in its batch. All tensors but x are (C,). No
    argument is changed: y and the new running_mean and running_var are returned. Ioffe &
    Szegedy 2015, algorithms 1 (training) and 2 (test time).

    Raises ValueError in training if a channel is a single number: its variance is unknown.
    """
    if training:
        n = x.numel() // x.size(1)                          # numbers in a channel
        if n == 1:
            raise ValueError(f"one number per channel in {tuple(x.shape)}: no variance")
        all_but_channels = [axis for axis in range(x.ndim) if axis != 1]
        mean, var = mean_and_variance(x, all_but_channels)  # (B, C, …) -> (1, C, 1, …)
        # The batch is a sample of all data. Dividing by n − 1 gives the unbiased estimate of
        # their variance.
        unbiased_var = var * n / (n - 1)
        batch_mean = mean.detach().flatten()                # -> (C,), without a gradient
        batch_var = unbiased_var.detach().flatten()         # -> (C,)
        running_mean = (1 - momentum) * running_mean + momentum * batch_mean
        running_var = (1 - momentum) * running_var + momentum * batch_var
    else:
        shape = [1, -1] + [1] * (x.ndim - 2)                # (C,) -> (1, C, 1, …)
        mean = running_mean.view(shape)
        var = running_var.view(shape)
    normalized = normalize(x, mean, var, eps)
    y = scale_and_shift(normalized, weight, bias, axis=1)
    return y, running_mean, running_var


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x (B, C, …) with each group of channels of each example normalised by itself.

    A group is C/groups neighbouring channels. weight and bias (C,): one for each channel,
    not one for each group. Like layer_norm it looks at no other example, so it works for
    batches that are too small for batch_norm. Wu & He 2018, equation 7. Raises ValueError
    unless groups divides C.
    """
    B = x.size(0)
    C = x.size(1)
    if groups < 1 or C % groups != 0:
        raise ValueError(f"{C} channels cannot be divided into {groups} groups")
    grouped = x.reshape(B, groups, -1)                  # -> (B, groups, C/groups · positions)
    mean, var = mean_and_variance(grouped, dim=-1)      # -> (B, groups, 1)
    normalized = normalize(grouped, mean, var, eps)
    normalized = normalized.view(x.shape)               # -> (B, C, …)
    return scale_and_shift(normalized, weight, bias, axis=1)


def instance_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x (B, C, …) with each channel of each example normalised by itself.

    It is group_norm with a single channel in each group; weight and bias (C,). It takes
    brightness and contrast out of every channel, which is why networks that change the
    style of an image use it. Ulyanov et al. 2016. Raises ValueError if there is only one
    position, because x − mean would be 0.
    """
    positions = x.shape[2:].numel()
    if positions == 1:
        raise ValueError(f"one position in {tuple(x.shape)}: only the bias would be left")
    C = x.size(1)
    return group_norm(x, C, weight, bias, eps)


# ---- attention

def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """For each query the mean of the values, weighted by how well their keys fit: (…, T, d).

        attention(q, k, v) = softmax(q kᵀ / √hs + mask) v

    queries q (…, T, hs), keys k (…, S, hs), values v (…, S, d) of any size d. Vaswani et
    al. 2017, equation 1.

    The mask says which keys a query may look at. It broadcasts to (…, T, S) and is boolean
    (True: may look) or holds numbers that are added to the scores (−∞: may not).
    causal=True: query i looks at the keys 0 … i. With both, both hold. A query that may
    look at no key gives zeros.
    """
    hs = q.size(-1)
    # A score is a sum of hs products, so scores grow with hs, by √hs. Without the division,
    # large scores would make softmax give nearly all the weight to one key, and there its
    # gradient is nearly 0 (section 3.2.1).
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)    # (…, T, hs) @ (…, hs, S) -> (…, T, S)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        else:
            scores = scores + mask
    if causal:
        T, S = scores.shape[-2:]
        is_future = torch.ones(T, S, dtype=torch.bool, device=q.device)
        is_future = is_future.triu(diagonal=1)          # True where j > i: key j, query i
        scores = scores.masked_fill(is_future, -math.inf)
    weights = softmax(scores)                           # (…, T, S)
    return weights @ v                                  # (…, T, S) @ (…, S, d) -> (…, T, d)


# ---- recurrence

def lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The next hidden state h' and the next cell c' of an LSTM after reading the input x.

        i = σ(W_i x + U_i h + b_i)        input gate: how much of the candidate is written
        f = σ(W_f x + U_f h + b_f)        forget gate: how much of the old cell is kept
        g = tanh(W_g x + U_g h + b_g)     candidate: what could be written
        o = σ(W_o x + U_o h + b_o)        output gate: how much of the cell is shown
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ tanh(c')

    σ is the sigmoid, ⊙ multiplies number by number. x (B, I), h and c (B, N). weight_ih
    (4N, I) holds W_i, W_f, W_g, W_o one below the other, weight_hh (4N, N) the four U, and
    the biases (4N,) add up to the four b: one would be enough, but torch has two because
    cuDNN has two. The old cell is only scaled and added to; it passes through no matrix.
    That is why gradients survive many steps. Hochreiter & Schmidhuber 1997; the forget
    gate: Gers et al. 2000.
    """
    gates = x @ weight_ih.T + h @ weight_hh.T               # (B, I) and (B, N) -> (B, 4N)
    if bias_ih is not None:
        gates = gates + bias_ih
    if bias_hh is not None:
        gates = gates + bias_hh
    i, f, g, o = gates.chunk(4, dim=1)                      # (B, 4N) -> 4 × (B, N)
    input_gate = torch.sigmoid(i)
    forget_gate = torch.sigmoid(f)
    candidate = torch.tanh(g)
    output_gate = torch.sigmoid(o)
    c_next = forget_gate * c + input_gate * candidate
    h_next = output_gate * torch.tanh(c_next)
    return h_next, c_next


# ---- the optimiser

def adamw_step(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor]:
    """A parameter θ after step t of AdamW, and its two moments m and v. Any shape.

        m ← β₁·m + (1 − β₁)·grad           running mean of the gradient
        v ← β₂·v + (1 − β₂)·grad²          running mean of its square
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        θ ← (1 − lr·weight_decay)·θ − lr·m̂ / (√v̂ + eps)

    m and v begin as zeros, and t counts from 1. After t steps the weights of the gradients
    in m add up to 1 − β₁ᵗ, not to 1, so m is too small at first, and v likewise; the hats
    correct this (Kingma & Ba 2015, section 3).

    The weight decay pulls θ towards 0 directly. In Adam with L2 regularisation it is a part
    of grad instead, and so divided by √v̂ like the rest. Loshchilov & Hutter 2019,
    algorithm 2; torch's choice is to multiply the decay by lr. No argument is changed: the
    new θ, m and v are returned. Raises ValueError for t < 1.
    """
    if t < 1:
        raise ValueError(f"step {t}: steps are counted from 1")
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad ** 2
    m_hat = m / (1 - beta1 ** t)
    v_hat = v / (1 - beta2 ** t)
    decayed = (1 - lr * weight_decay) * param
    param = decayed - lr * m_hat / (torch.sqrt(v_hat) + eps)
    return param, m, v
