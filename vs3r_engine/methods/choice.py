# SPDX-License-Identifier: Apache-2.0
"""Which replaceable parts a job's settings mean, each with the reason. What is asked for by name is never replaced; what is
left to "auto" is announced."""

from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from vs3r_engine.lens import PARAMETERS
from vs3r_engine.methods import weights
from vs3r_engine.settings import Settings
from vs3r_engine.stages.complete import Completer
from vs3r_engine.stages.mask import FlowEstimator
from vs3r_engine.stages.reconstruct import Reconstructor
from vs3r_engine.stages.render import Renderer

T = TypeVar("T")

WIDE_REACH_FRAMES = 10
"""Wide lenses look past the picture's edge: they take static points from this far before and after (published value)."""


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """A chosen part. name: for cache keys and the sidecar. reason: for people."""

    part: T
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Methods:
    """The parts of one job, behind the stages' Protocols.

    name: of what analyses; part of cache keys. reason: why these, for people. neighbours: the frames around t, as offsets and nearest
    first, whose static points are rendered (N(t) of eq. 6).
    """

    name: str
    reason: str
    reconstructor: Reconstructor
    flow: FlowEstimator
    renderer: Renderer
    completer: Completer | None
    neighbours: tuple[int, ...]


def choose_methods(settings: Settings, rate: Fraction) -> Methods:
    """The parts for these settings, ready to run; weights and devices are checked before any work.

    Raises: WeightsMissing, DeviceError, SettingsError.
    """
    completer = _completer(settings, rate)
    chosen = choose_reconstructor(settings), choose_flow(settings), choose_renderer(settings)
    reason = "; ".join(f"{part.name}: {part.reason}" for part in chosen)
    reconstructor, flow, renderer = chosen
    return Methods(
        f"{reconstructor.name}-{flow.name}",
        reason,
        reconstructor.part,
        flow.part,
        renderer.part,
        completer,
        offsets(settings, renderer.name),
    )


def _completer(settings: Settings, rate: Fraction) -> Completer | None:
    """The completer of `fill.completer`; drafts are filled without diffusion. Raises: WeightsMissing before any work."""
    from vs3r_engine.methods.temporal import TemporalCompleter

    name = settings.fill.completer
    if name == "none" or settings.frame.framing == "show-edges":
        return None
    temporal = TemporalCompleter(settings.fill, rate)
    if name in ("auto", "temporal") or settings.fill.quality == "draft":
        return temporal
    if name == "vace":
        from vs3r_engine.methods import vace

        return vace.VaceCompleter(settings, prior=temporal)
    from vs3r_engine.methods import dvdm

    return dvdm.DvdmCompleter(settings, prior=temporal)


def choose_reconstructor(settings: Settings) -> Part[Reconstructor]:
    """The reconstructor of `analysis.method`, behind the clip's lens profile where it has one.

    Raises: WeightsMissing, DeviceError, InputError `bad-lens-profile`.
    """
    name, reason = method_name(settings)

    def make(given: Settings) -> Reconstructor:
        if name == "vggt4d":
            from vs3r_engine.methods.vggt4d.reconstructor import Vggt4dReconstructor

            return Vggt4dReconstructor(given, given.analysis.device)
        from vs3r_engine.methods.geometric.reconstructor import GeometricReconstructor

        return GeometricReconstructor(given.analysis)

    if settings.analysis.input_lens == "perspective":
        return Part(make(settings), name, reason)
    from vs3r_engine.methods.rectified import RectifiedReconstructor

    return Part(RectifiedReconstructor(settings, make), name, f"{reason}; lens profile {settings.analysis.input_lens}")


def method_name(settings: Settings) -> tuple[str, str]:
    """("geometric" or "vggt4d", why)."""
    if settings.analysis.method != "auto":
        return settings.analysis.method, "asked for"
    from vs3r_engine.methods.vggt4d import NAMES

    return ("vggt4d", "its weights and a GPU are there") if (why := _missing(settings, NAMES)) is None else ("geometric", why)


def choose_flow(settings: Settings) -> Part[FlowEstimator]:
    """The flow of `analysis.flow`. Raises: WeightsMissing, DeviceError, SetupError."""
    name, reason = settings.analysis.flow, "asked for"
    if name == "auto":
        why = _missing(settings, ("raft-large",)) or (None if find_spec("torchvision") else "torchvision is not installed")
        name, reason = ("raft", "its weights and a GPU are there") if why is None else ("dis", why)
    if name == "raft":
        from vs3r_engine.methods.raft import RaftFlow

        return Part(RaftFlow(settings, settings.analysis.device), name, reason)
    from vs3r_engine.methods.dis import DisFlow

    return Part(DisFlow(), name, reason)


def choose_renderer(settings: Settings) -> Part[Renderer]:
    """The renderer of `frame.renderer`. auto: the warp for the smooth depth of geometric, points for a network's dense
    depth.

    Raises: SetupError `pytorch3d-missing`; DeviceError.
    """
    name, reason = settings.frame.renderer, "asked for"
    if name == "auto":
        if method_name(settings)[0] == "vggt4d":
            name, reason = "splat", "the depth is dense"
        else:
            name, reason = "warp", "the depth is smooth"
    if name == "warp":
        from vs3r_engine.methods.warp import WarpRenderer

        return Part(WarpRenderer(), name, reason)
    from vs3r_engine.methods.splat import SplatRenderer

    if name == "pytorch3d":
        from vs3r_engine.methods.pytorch3d import Pytorch3dRenderer

        return Part(Pytorch3dRenderer(settings, settings.analysis.device), name, reason)
    return Part(SplatRenderer(settings, settings.analysis.device), name, reason)


def offsets(settings: Settings, renderer_name: str) -> tuple[int, ...]:
    """The frames around t whose static points are rendered (N(t) of eq. 6), nearest first: t-n..t+n, for lenses that see far past the
    picture t-10 and t+10 besides. None for the warp through a straight lens: the completer's reach covers them, with colours fitted."""
    count, is_wide = settings.frame.neighbours, settings.frame.lens in PARAMETERS
    if count == 0 or (renderer_name == "warp" and not is_wide):
        return ()
    reaches = [*range(1, count + 1), *([WIDE_REACH_FRAMES] if is_wide and count < WIDE_REACH_FRAMES else [])]
    return tuple(sign * reach for reach in reaches for sign in (-1, 1))


def _missing(settings: Settings, names: tuple[str, ...]) -> str | None:
    """Why a network is not chosen by itself; None where nothing is missing. Loads torch only where weights are
    there."""
    if settings.analysis.device == "cpu":
        return "on a CPU networks are slow"
    if all(weights.record(name) is None for name in names):
        return "no weights are installed"
    if _gpu() is None:
        return "no GPU is there"
    return None


def _gpu() -> Any:
    from vs3r_engine.errors import DeviceError
    from vs3r_engine.methods.devices import choose_device

    try:
        device = choose_device("auto")
    except DeviceError:
        return None
    return device if device.name != "cpu" else None
