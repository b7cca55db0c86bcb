"""Muon, the optimiser of the weight matrices in train_gpt.py, train_diffusion.py, mini/bert.py,
mini/music.py, mini/assistant.py, mini/clip.py, mini/vae.py, mini/text_to_image.py and
mini/latent_diffusion.py.

torch.optim.Muon (torch ≥ 2.9) was tried in its place: after 200 steps of a small GPT the loss was
the same (0.468). But it computes in bfloat16 on every processor. On a CPU that has instructions for
bfloat16 it was 6 % faster. On a CPU without them, as in students' laptops, a whole training step
took four times as long (1,962 against 496 ms, on the same machine with ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2).
"""
import math

import torch

from mini.utils.device import autocast


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
    networks").

    The momentum of a weight matrix has a singular value decomposition U S Vᵀ. Gradient descent
    moves the matrix along it, so a few strong directions dominate. Muon moves it along U Vᵀ, in
    which all directions are equally strong, so rare ones are learnt as fast as frequent ones.

    Parameters are matrices (rows, columns). Where several matrices are stored as one, as q, k and v
    are, their group says so: {"params": […], "n_matrices": 3}. Each of them is then orthogonalised
    by itself. The kernels of a convolution (rows, …) are a matrix, too: all axes but the first are
    taken as one.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, n_matrices=1)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            of_shape = {}                               # shape: [parameters]
            for p in group["params"]:
                if p.grad is not None:                  # frozen, or not used in this step
                    of_shape.setdefault(p.shape, []).append(p)
            for parameters in of_shape.values():        # together: on a GPU that is faster
                states = [self.state[p] for p in parameters]
                update(parameters, states, group["lr"], group["momentum"], group["weight_decay"],
                       group["n_matrices"])


def update(parameters: list, states: list, lr: float, momentum: float, weight_decay: float,
           n_matrices: int):
    """One step of Muon for parameters of one shape; each state keeps the momentum of its own."""
    directions = []
    for p, state in zip(parameters, states):
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        m = state["momentum"]
        m.lerp_(p.grad, 1 - momentum)               # m ← momentum · m + (1 − momentum) · grad
        directions.append(p.grad.lerp(m, momentum))         # Nesterov: one step further ahead

    shape = parameters[0].shape
    rows = shape[0]
    columns = shape[1:].numel()
    matrices = torch.stack(directions).reshape(-1, rows // n_matrices, columns)
    orthogonal = newton_schulz(matrices).reshape(-1, *shape)

    # a tall matrix maps few inputs to many outputs; scaled like this it changes each output as
    # much as a square one
    scale = math.sqrt(max(1, rows / n_matrices / columns))
    for p, change in zip(parameters, orthogonal):
        p.mul_(1 - lr * weight_decay)
        p.sub_(change, alpha=lr * scale)


def layers_with_weights(network) -> list:
    """The layers of a network that have parameters of their own, in the order in which they are
    made."""
    return [layer for layer in network.modules() if list(layer.parameters(recurse=False))]


def muon_and_adam(encoder, decoder, muon_lr: float, lr: float) -> list:
    """[Muon for the kernels of convolutions, Adam for all other parameters], for two networks. If
    there are no kernels, Adam trains everything.

    As Muon's authors advise for the first and the last layer, Adam trains those next to pixels: the
    first layer of the encoder and the last of the decoder, in the order in which they are made.
    """
    first_layer = layers_with_weights(encoder)[0]
    last_layer = layers_with_weights(decoder)[-1]
    next_to_pixels = {id(p) for layer in (first_layer, last_layer) for p in layer.parameters()}
    kernels = []
    others = []
    for network in (encoder, decoder):
        for p in network.parameters():
            is_kernel = p.ndim == 4 and id(p) not in next_to_pixels
            (kernels if is_kernel else others).append(p)
    adam = torch.optim.Adam(others, lr)
    return [Muon(kernels, muon_lr, momentum=0.9), adam] if kernels else [adam]


class Together(list):
    """A list of optimisers that is used as if it were one."""

    def __init__(self, optimizers: list, device: torch.device, matmul: str):
        super().__init__(optimizers)
        self.device = device
        self.matmul = matmul

    def scale_lr(self, factor: float):
        """Make every learning rate this fraction of what it was at first."""
        for optimizer in self:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor

    def zero_grad(self):
        for optimizer in self:
            optimizer.zero_grad()

    def step(self):
        with autocast(self.device, self.matmul):            # for Muon's products of matrices
            for optimizer in self:
                optimizer.step()


def newton_schulz(G, steps: int = 5):
    """Nearly U Vᵀ, for matrices G = U S Vᵀ (N, rows, columns), by products of matrices only.

    The iteration X ← a X + b X Xᵀ X + c X (Xᵀ X)² applies the polynomial s ← a s + b s³ + c s⁵ to
    every singular value s of X at once, and leaves U and V as they are. With Jordan's coefficients
    it is steep at 0: after five steps all singular values that were not tiny lie within 1 ± 0.3,
    which is near enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = G.size(1) <= G.size(2)
    X = G if wide else G.mT                             # X Xᵀ is the smaller of the two squares
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)   # now every singular value is at most 1
    for _ in range(steps):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)     # b A + c A A, in one call
        X = torch.baddbmm(X, B, X, beta=a)              # a X + B X
    return X if wide else X.mT
