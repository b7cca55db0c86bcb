"""Where a model runs: the device, the precision of its products, and several processes started by
torchrun."""
import contextlib
import os

import torch

from mini.utils.config import UserError


def pick_device(name: str) -> torch.device:
    """The device named by --device; for 'auto' the first available one of CUDA, Apple's MPS and the
    CPU. Raises UserError if torch sees no such device."""
    available = {"cuda": torch.cuda.is_available(),
                 "mps": torch.backends.mps.is_available(),
                 "cpu": True}
    if name == "auto":
        name = next(kind for kind in available if available[kind])
    if not available.get(name.split(":")[0]):
        raise UserError(f"--device={name}: torch sees no such device; use --device=cpu")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"    # torchrun: a GPU for each process
    return torch.device(name)


def autocast(device: torch.device, matmul: str):
    """A context in which matrix products and convolutions are computed in bfloat16: always on CUDA;
    with --matmul=medium also on a CPU that has instructions for it (1.6 times as fast there;
    without the instructions it would be slower)."""
    if device.type == "cpu":
        has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        enabled = matmul == "medium" and has_instructions
    else:
        enabled = device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled)


def mixed_precision(function, device: torch.device, matmul: str):
    """The function as it is called in training: under `autocast`, on this device."""
    def call(*inputs):
        with autocast(device, matmul):
            return function(*inputs)
    return call


def conv_layout(compiled: bool):
    """The order in memory of images and of the weights of convolutions: channels last, which is
    faster; compiled networks choose their own."""
    return torch.contiguous_format if compiled else torch.channels_last


def compile_convolutions(net):
    """torch.compile of a network with transposed convolutions.

    The compiler's own choice of layouts is off: on CUDA the gradient of a transposed convolution
    of 1 × 1 pixels then had another layout than the compiler expected: an error (torch 2.11).
    """
    import torch._inductor.config           # here, since it takes a while
    torch._inductor.config.layout_optimization = False
    return torch.compile(net)


def start_processes(device: torch.device):
    """(rank, number of processes): (0, 1) without torchrun. With torchrun the process also joins
    the group of processes, which communicate by NCCL on CUDA and by gloo on a CPU."""
    rank = int(os.environ.get("RANK") or 0)
    world = int(os.environ.get("WORLD_SIZE") or 1)
    if world > 1 and not torch.distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, world


def data_parallel(model):
    """The model; if there are several processes, in DistributedDataParallel, whose backward pass
    averages the gradient over all processes."""
    if not torch.distributed.is_initialized():
        return model
    return torch.nn.parallel.DistributedDataParallel(model)


def my_share(*batch):
    """The part of each tensor of the batch that this process computes: every n-th item, for n
    processes."""
    if not torch.distributed.is_initialized():
        return batch
    rank = torch.distributed.get_rank()
    world = torch.distributed.get_world_size()
    return tuple(tensor[rank::world] for tensor in batch)


@contextlib.contextmanager
def matmul_precision(device: torch.device, name: str):
    """A context for products of float32 outside `autocast`: on CUDA they are as exact as --matmul
    says, on a CPU always exact. So what is measured on a CPU is measured in float32.

    With 'medium' torch would convert to bfloat16 on a CPU with AMX, too. A classifier then read
    images otherwise in its run than when it was loaded. And torch keeps memory for every size of
    matrix that it has converted. A text that grows token by token has hundreds of sizes: writing
    256 stories took 12 GB in place of 1.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name if device.type == "cuda" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
