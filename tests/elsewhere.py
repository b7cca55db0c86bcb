"""A device that every machine has, for tests: its tensors hold ordinary ones, but cannot meet those of the CPU.

`with elsewhere():` inside it, the device "meta" computes. As on CUDA, an operation with a tensor from there and one
from the CPU is an error, and so is numpy() of a tensor from there. What is allowed on CUDA is allowed here: a CPU
tensor of no dimension (a number), CPU tensors as indices, and copies from one device to the other.
"""
import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class Elsewhere(torch.Tensor):
    """A tensor of the device DEVICE; `inner` is the CPU tensor that it holds."""

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        self = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=requires_grad)
        self.inner = inner
        return self

    def __init__(self, *args, **kwargs):
        pass

    def __repr__(self):
        return f"Elsewhere({self.inner})"

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor of another device to numpy; use .cpu() first")

    __array__ = numpy

    def tolist(self):
        return self.inner.tolist()

    def new_tensor(self, data, **kwargs):
        return Elsewhere(self.inner.new_tensor(data, **kwargs))

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def compute(operation, args, kwargs):
    """The result of an operation some of whose tensors, or whose result, are elsewhere."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, Elsewhere)]
    here = [x for x in tensors if not isinstance(x, Elsewhere)]
    device = kwargs.get("device")
    target = torch.device(device).type if device is not None else None
    inner_kwargs = {**kwargs, **({"device": "cpu"} if target == DEVICE.type else {})}

    if operation in COPIES:
        lands_there = target == DEVICE.type if target else isinstance(args[0], Elsewhere)
    else:
        lands_there = bool(there) or target == DEVICE.type
        generator = kwargs.get("generator")
        if generator is not None and lands_there:
            raise RuntimeError(f"{operation}: the generator is of the CPU, the result elsewhere")
        if there and operation in INDEXING and isinstance(args[0], Elsewhere):
            here = [x for x in here if all(x is not index for index in args[1] or ())]
        mixed = [x for x in here if x.dim() > 0]
        if there and mixed:
            raise RuntimeError(f"{operation}: tensors of two devices, {[tuple(x.shape) for x in there]} elsewhere and "
                               f"{[tuple(x.shape) for x in mixed]} on the CPU")

    def unwrap(x):
        return x.inner if isinstance(x, Elsewhere) else x

    out = operation(*tree_map(unwrap, args), **tree_map(unwrap, inner_kwargs))
    if not lands_there:
        return args[0] if operation is aten.copy_.default else out
    out = tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(operation, args, kwargs, out)


class _Factories(TorchDispatchMode):
    """Sends there what is made there: torch.zeros(3, device=DEVICE), x.to(DEVICE)."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if Elsewhere in types or device is not None and torch.device(device).type == DEVICE.type:
            return compute(operation, args, kwargs)
        return operation(*args, **kwargs)


@contextlib.contextmanager
def elsewhere():
    """Inside it the device DEVICE computes, and torch.save writes its tensors as ordinary ones."""
    plain_save, plain_tensor = torch.save, torch.tensor

    def save(value, file):
        plain_save(tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, value), file)

    def tensor(data, *, device=None, **kwargs):         # torch's own would make a meta tensor without content
        made = plain_tensor(data, **kwargs)
        return made if device is None else made.to(device)

    def enter(mode):                                    # inference tensors cannot be wrapped: only without gradient
        mode.no_grad = torch.no_grad()
        mode.no_grad.__enter__()

    def leave(mode, *error):
        mode.no_grad.__exit__(*error)

    mode = torch.inference_mode
    plain_enter, plain_leave = mode.__enter__, mode.__exit__
    torch.save, torch.tensor = save, tensor
    mode.__enter__, mode.__exit__ = enter, leave
    try:
        with _Factories():
            yield DEVICE
    finally:
        torch.save, torch.tensor = plain_save, plain_tensor
        mode.__enter__, mode.__exit__ = plain_enter, plain_leave
