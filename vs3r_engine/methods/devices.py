# SPDX-License-Identifier: Apache-2.0
"""Where networks run: the device a setting means, its memory, and the one place where its errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from vs3r_engine.errors import DeviceError, OutOfMemory, SetupError

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Device:
    """A usable device. free_bytes: what a network may use now (main memory on a CPU). reason: why it was chosen, for
    people."""

    name: str
    free_bytes: int
    reason: str

    @property
    def free_gib(self) -> float:
        return self.free_bytes / _GIB


def choose_device(setting: str) -> Device:
    """The device meant by `auto`, `cuda`, `mps` or `cpu` (see AnalysisSettings.device).

    Raises: DeviceError `torch-missing`, `no-cuda`, `no-mps`. An asked device is never replaced by another.
    """
    torch = import_torch()
    has_cuda = torch.cuda.is_available()
    has_mps = torch.backends.mps.is_available()
    name = ("cuda" if has_cuda else "mps" if has_mps else "cpu") if setting == "auto" else setting
    if name == "cuda" and not has_cuda:
        built = torch.version.cuda
        raise DeviceError(
            "no-cuda",
            "No CUDA device can be used." if built else "This torch was built without CUDA.",
            "Check `nvidia-smi` and the driver, or set analysis.device=cpu."
            if built
            else "Install a CUDA build of torch, or set analysis.device=cpu.",
        )
    if name == "mps" and not has_mps:
        raise DeviceError("no-mps", "Metal (MPS) cannot be used on this machine.", "Set analysis.device=cpu.")
    reason = (
        f"asked for {name}"
        if setting != "auto"
        else {"cuda": "a CUDA device is there", "mps": "Metal is there"}.get(name, "no GPU is there")
    )
    return Device(name, free_memory(name), reason)


def free_memory(name: str) -> int:
    """Bytes a network may use now on a device."""
    torch = import_torch()
    if name == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if name == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    return psutil.virtual_memory().available


def import_torch():
    """The torch module. Raises: DeviceError `torch-missing`."""
    try:
        import torch
    except ImportError as error:
        raise DeviceError(
            "torch-missing",
            "Networks need torch, which is not installed.",
            'Install it with `pip install "vs3r[deep]"`.',
        ) from error
    return torch


@contextmanager
def memory_errors(what: str, hint: str) -> Iterator[None]:
    """Inside, running out of memory on any device raises OutOfMemory `out-of-memory`."""
    torch = import_torch()
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory("out-of-memory", f"{what} does not fit in memory.", hint) from error
    except RuntimeError as error:
        if "out of memory" in str(error) or "can't allocate memory" in str(error) or "DefaultCPUAllocator" in str(error):
            raise OutOfMemory("out-of-memory", f"{what} does not fit in memory.", hint) from error
        raise


def require_quantizer(mode: str) -> None:
    """Nothing, if what this `fill.offload` quantizes with is there. Raises: SetupError `torchao-missing`."""
    if mode in ("int8", "fp8") and find_spec("torchao") is None:
        raise SetupError(
            "torchao-missing", f"fill.offload={mode} needs the package torchao.", "pip install torchao, or use fill.offload=group."
        )
