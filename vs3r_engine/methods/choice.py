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

    name: of what analyses; part of cache keys. reason: why these, for people. neighbours: n of eq. 6.
    """

    name: str
    reason: str
    reconstructor: Reconstructor
    flow: FlowEstimator
    renderer: Renderer
    completer: Completer
    neighbours: int


def choose_methods(settings: Settings, rate: Fraction) -> Methods:
    """The parts for these settings, ready to run; weights and devices are checked before any work.

    Raises: WeightsMissing, DeviceError, SettingsError.
    """
    from vs3r_engine.methods.dis import DisFlow
    from vs3r_engine.methods.geometric.reconstructor import GeometricReconstructor
    from vs3r_engine.methods.temporal import TemporalCompleter
    from vs3r_engine.methods.warp import WarpRenderer

    return Methods("geometric-dis", "no weights are needed", GeometricReconstructor(settings.analysis), DisFlow(), WarpRenderer(),
                   TemporalCompleter(settings.fill, rate), 0)
