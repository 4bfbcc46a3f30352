# SPDX-License-Identifier: Apache-2.0
"""What completers by video diffusion have in common, whichever model they are told to run. Imports nothing heavy."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vs3r_engine.frame import Frame
from vs3r_engine.scene import Rendered
from vs3r_engine.settings import Settings
from vs3r_engine.stages.complete import Completer, Views

if TYPE_CHECKING:
    import torch

    from vs3r_engine.methods.diffusion.sampling import Request
    from vs3r_engine.methods.diffusion.wan import Wan

Installed = Callable[[str], tuple[Any, Path]]
"""(manifest entry, directory) of installed weights by name; raises WeightsMissing."""


class DiffusionCompleter(ABC):
    """Completer. Loads at the first frame that needs it and stays warm.

    prior: what fills the start of sampling where fill.denoise < 1. on_step: told (done, total) of every sampling
    step of a shot; may raise to stop. Raises: WeightsMissing, DeviceError, OutOfMemory, InputError, SettingsError.
    """

    whole_shots = True
    """A frame's picture depends on its whole shot:

    `complete` must be given shots from their first frame to their last.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        prior: Completer | None = None,
        on_step: Callable[[int, int], None] | None = None,
        installed: Installed | None = None,
    ) -> None:
        self.preflight(settings, installed)
        self._settings, self._installed = settings, installed
        self._prior, self._on_step = prior, on_step
        self.reach_frames = max(1, prior.reach_frames if prior else 0)

    @staticmethod
    @abstractmethod
    def preflight(settings: Settings, installed: Installed | None) -> None:
        """Nothing, if everything is there that this completer needs."""

    @abstractmethod
    def _request(self) -> "tuple[Request, int]":
        """(how a shot is sampled, pixels of the reduced picture)."""

    @abstractmethod
    def _model(self, area_px: int) -> Any:
        """The ShotModel for pictures so large, warm or new."""

    def keeps(self, frame_index: int) -> bool:
        """What the prior keeps; the model itself looks at rendered frames only."""
        return self._prior is not None and self._prior.keeps(frame_index)

    def complete(self, rendered: Iterable[Rendered], views: Views) -> Iterator[Frame]:
        """The same frames, in order, one for one, completed."""
        from vs3r_engine.methods.diffusion.shots import Options, complete

        fill = self._settings.fill
        request, area_px = self._request()
        options = Options(request, area_px, fill.window_frames, fill.overlap_frames, fill.blending, fill.area, fill.seed, self._prior)
        yield from complete(rendered, views, self._model(area_px), options)


class WanModel:
    """What ShotModels on Wan have in common: its autoencoder."""

    def __init__(self, wan: "Wan") -> None:
        self._wan = wan

    def latents(self, pictures: Any) -> "torch.Tensor":
        """[16, n, rows, columns]"""
        return self._wan.encode(pictures)[0]

    def pictures(self, latents: "torch.Tensor") -> "Iterator[torch.Tensor]":
        return self._wan.decode(latents)
