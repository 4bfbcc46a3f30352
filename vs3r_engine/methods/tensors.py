# SPDX-License-Identifier: Apache-2.0
"""Reading weights from files without running anything that the files may carry."""

from pathlib import Path
from typing import Any

from vs3r_engine.errors import WeightsMissing


def load_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file or a plain state dict, on the CPU, without running anything the file may carry.

    Raises: WeightsMissing `weights-unsafe`, `weights-damaged`.
    """
    import pickle

    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsMissing(
            "weights-unsafe",
            f"{path.name} carries more than tensors and was not loaded.",
            "Get the weights from their publisher, as safetensors where there is a choice.",
        ) from error
    except Exception as error:
        raise WeightsMissing(
            "weights-damaged", f"{path.name} cannot be read: {type(error).__name__}.", "Fetch or import it again."
        ) from error
    if not isinstance(loaded, dict):
        raise WeightsMissing("weights-damaged", f"{path.name} holds no network's weights.", "Get the file the manifest names.")
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    return loaded


def refuse_code(path: Path) -> None:
    """Raises: WeightsMissing `weights-unsafe` for a pickle that wants to do anything but rebuild tensors."""
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        load_tensors(path)
