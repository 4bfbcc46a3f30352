# SPDX-License-Identifier: Apache-2.0
"""Which replaceable parts a job uses. What is chosen is announced by name, with the reason; nothing falls back silently."""

from dataclasses import dataclass
from fractions import Fraction

from vs3r_engine.settings import Settings
from vs3r_engine.stages.complete import Completer
from vs3r_engine.stages.mask import FlowEstimator
from vs3r_engine.stages.reconstruct import Reconstructor
from vs3r_engine.stages.render import Renderer


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
    from vs3r_engine.methods import parts

    completer = _completer(settings, rate)
    reconstructor, flow, renderer = parts.reconstructor(settings), parts.flow(settings), parts.renderer(settings)
    reason = f"{reconstructor.name}: {reconstructor.reason}; {flow.name}: {flow.reason}; {renderer.name}: {renderer.reason}"
    return Methods(f"{reconstructor.name}-{flow.name}", reason, reconstructor.part, flow.part, renderer.part, completer,
                   parts.offsets(settings, renderer.name))


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

        vace.preflight(settings)
        return vace.VaceCompleter(settings, prior=temporal)
    from vs3r_engine.methods import dvdm

    dvdm.preflight(settings)
    return dvdm.DvdmCompleter(settings, prior=temporal)
