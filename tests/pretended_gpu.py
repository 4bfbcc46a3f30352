# SPDX-License-Identifier: Apache-2.0
"""A GPU that is only pretended: tensors compute on the CPU, say they are on another device, and refuse to meet tensors that
are not, or to become numpy, as on a real one. It has no speed, no memory limit and no precision of its own."""

from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "lazy"
"""A device type that every build of torch knows the name of and none computes on."""
_CPU, _PRETENDED = torch.device("cpu"), torch.device(NAME)
_aten = torch.ops.aten
_MAY_CROSS = (_aten._to_copy.default, _aten.copy_.default)


class Far(torch.Tensor):
    """A tensor on the pretended device; `near` holds its numbers."""

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> "Far":
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=_PRETENDED
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    # What torch builds outside of dispatching, and so on a device that does not exist.
    def new_tensor(self, data, dtype=None):
        return Far(torch.tensor(data, dtype=dtype or self.dtype))

    def tolist(self):
        return self.near.tolist()

    def __getitem__(self, index):
        return super().__getitem__(_of_tensors(index))

    def __setitem__(self, index, value):
        super().__setitem__(_of_tensors(index), value)


def _of_tensors(index):
    return tuple(torch.tensor(i) if isinstance(i, (tuple, list)) else i for i in index) if isinstance(index, tuple) else index


def _run(func, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    is_far = any(isinstance(t, Far) for t in tensors)
    if is_far and func not in _MAY_CROSS and not (func.name().startswith("aten::index") and isinstance(args[0], Far)):
        strangers = [tuple(t.shape) for t in tensors if not isinstance(t, Far) and t.dim()]
        if strangers:
            raise RuntimeError(f"{func.name()} is given tensors of two devices: {strangers} are on the CPU")
    device = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    goes_far = is_far if device is None else device.type == NAME
    near_args, near_kwargs = tree_map_only(Far, lambda t: t.near, (args, kwargs))
    near_args, near_kwargs = tree_map_only(torch.device, lambda d: _CPU if d.type == NAME else d, (near_args, near_kwargs))
    with _disable_current_modes():
        out = func(*near_args, **near_kwargs)
    if func is _aten.copy_.default:
        return args[0]
    same = {id(t.near if isinstance(t, Far) else t): t for t in tensors if isinstance(t, Far) == goes_far}
    return tree_map_only(torch.Tensor, lambda t: same.get(id(t)) if id(t) in same else Far(t) if goes_far else t, out)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def pretended_gpu():
    """Inside, NAME is a device. Inference mode is no_grad there: views of wrapped tensors do not know it."""
    precision = torch.autocast.__init__

    def autocast(self, device_type, *args, **kwargs):
        precision(self, "cpu" if device_type == NAME else device_type, *args, **kwargs)

    with mock.patch.object(torch.autocast, "__init__", autocast), mock.patch.object(torch, "inference_mode", torch.no_grad), _Mode():
        yield
