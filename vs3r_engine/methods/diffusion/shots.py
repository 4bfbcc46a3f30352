# SPDX-License-Identifier: Apache-2.0
"""Any video diffusion model as a Completer: shots of any length, read once, generated in windows, written at full size.

Full-size frames wait on disk; in memory are one window of reduced pictures and the shot's latents.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from vs3r_engine.frame import Frame
from vs3r_engine.methods.diffusion.sampling import Request, noise_for, sample_apart, sample_together
from vs3r_engine.methods.diffusion.spool import Spool, spool
from vs3r_engine.scene import Rendered
from vs3r_engine.stages.complete import Completer, Views
from vs3r_engine.stages.composite import (
    FIT_REACH_FRAMES,
    ColourFit,
    check_window,
    corrected,
    fill_holes,
    fit_colour,
    generated_region,
    latent_count,
    mean_fit,
    padded_indices,
    plan_windows,
    reduced,
    replace_frame,
    window_weights,
    working_size,
)

Pictures = Callable[[], Iterator[torch.Tensor]]
"""Starts an iterator over pictures [1, 3, h, w] in [-1, 1], one per frame, 4k + 1 of them."""


class ShotModel(Protocol):
    """A video diffusion model, in latents: what it is told, what it predicts, how it is decoded. Latents are on the CPU: however
    long a shot is, no more than a window of them is on the device."""

    hole_value: float
    """What stands in holes of the pictures it is told, 0 black to 1 white."""

    def condition(self, pictures: Pictures, holes: Callable[[], Iterator[np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(condition [channels, n, rows, columns], latents of what was rendered [z, n, rows, columns]) for 4k + 1
        frames.
        """
        ...

    def latents(self, pictures: Pictures) -> torch.Tensor:
        """[z, n, rows, columns] normalised latents."""
        ...

    def predict(self, is_high: bool, timestep: torch.Tensor, latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[z, n, rows, columns] float32 velocity."""
        ...

    def pictures(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """[k, 3, h, w] in [-1, 1], in order, 1 + 4 + 4 + ... frames."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How shots are completed. area_px: pixels of the reduced picture. blending: "per-step" or "cross-fade"
    (published).

    area: "holes" or "full-frame". prior: fills the start of sampling where denoise < 1.
    """

    request: Request
    area_px: int
    window_frames: int = 81
    overlap_frames: int = 20
    blending: str = "per-step"
    area: str = "holes"
    seed: int = 42
    prior: Completer | None = None

    def __post_init__(self) -> None:
        check_window(self.window_frames, self.overlap_frames)


def complete(rendered: Iterable[Rendered], views: Views, model: ShotModel, options: Options) -> Iterator[Frame]:
    """Every frame, in order, completed. A shot ends where frame numbers jump or the previous frame is not in view."""
    frames = _marked(rendered, views, options)
    item = next(frames, None)
    while item is not None:
        with spool() as kept:
            while True:
                one, prior, _ = item
                size = working_size(one.frame.width, one.frame.height, options.area_px)
                picture, hole = reduced(one.frame.to_rgb(), generated_region(one), size, model.hole_value)
                small_prior = None if prior is None else reduced(prior.to_rgb(), np.zeros_like(one.hole_mask), size, 0.0)[0]
                kept.add(one, picture, hole, small_prior)
                item = next(frames, None)
                if item is None or item[2]:
                    break
            yield from _completed_shot(kept, model, options)


def _marked(rendered: Iterable[Rendered], views: Views, options: Options) -> Iterator[tuple[Rendered, Frame | None, bool]]:
    """Every frame with the prior's (where wanted) and whether a shot starts there."""
    waiting: deque[tuple[Rendered, bool]] = deque()

    def seen() -> Iterator[Rendered]:
        previous: int | None = None
        for one in rendered:
            index = one.frame.frame_index
            starts = previous is None or index != previous + 1 or views.view(previous) is None
            waiting.append((one, starts))
            previous = index
            yield one

    if options.prior is not None and options.request.denoise < 1.0:
        for frame in options.prior.complete(seen(), views):
            one, starts = waiting.popleft()
            yield one, frame, starts
    else:
        for one in seen():
            yield one, None, waiting.popleft()[1]


def _completed_shot(kept: Spool, model: ShotModel, options: Options) -> Iterator[Frame]:
    wanted = kept.has_hole if options.area == "holes" else [True] * len(kept)
    if not any(wanted):
        yield from (kept.rendered(i).frame for i in range(len(kept)))
        return
    generate = _generated_together if options.blending == "per-step" else _generated_apart
    for i, (picture, fit) in enumerate(_with_fits(generate(kept, wanted, model, options), kept)):
        one = kept.rendered(i)
        kept.forget(i)
        if picture is None or not wanted[i]:
            yield one.frame
        elif options.area == "holes":
            yield fill_holes(one, corrected(picture, fit))
        else:
            yield replace_frame(one, corrected(picture, fit))


def _generated_together(kept: Spool, wanted: Sequence[bool], model: ShotModel, options: Options) -> Iterator[np.ndarray | None]:
    """Reduced pictures, one per frame, of one sampling of the whole shot."""
    indices = padded_indices(len(kept))
    condition, given = model.condition(*_streams(kept, indices))
    start = model.latents(_pictures(kept, indices, _start_name(options))) if options.request.denoise < 1.0 else None
    count, window = latent_count(len(indices)), latent_count(options.window_frames)
    overlap = -(-options.overlap_frames // 4)
    windows = [w for w in plan_windows(count, window, overlap) if any(wanted[i] for i in indices[max(0, 4 * w[0] - 3) : 4 * w[1] - 3])]
    noise = noise_for(count, window, overlap, (given.shape[0], *given.shape[2:]), options.seed)
    latents = sample_together(noise, condition, given, start, windows, model.predict, options.request)
    yield from _first(len(kept), (picture for group in model.pictures(latents) for picture in _arrays(group)))


def _generated_apart(kept: Spool, wanted: Sequence[bool], model: ShotModel, options: Options) -> Iterator[np.ndarray | None]:
    """Reduced pictures of windows that were encoded, sampled and decoded by themselves, cross-faded; None between
    windows.
    """
    count = len(kept)
    windows = [w for w in plan_windows(count, options.window_frames, options.overlap_frames) if any(wanted[w[0] : w[1]])]
    noises, conditions, starts = [], [], []
    for begin, end in windows:
        indices = [begin + i for i in padded_indices(end - begin)]
        condition, given = model.condition(*_streams(kept, indices))
        conditions.append(condition)
        noises.append(noise_for(given.shape[1], given.shape[1], 0, (given.shape[0], *given.shape[2:]), options.seed))
        if options.request.denoise < 1.0:
            starts.append(model.latents(_pictures(kept, indices, _start_name(options))))
    latents = sample_apart(noises, conditions, starts or None, model.predict, options.request)
    weights = window_weights(windows, count)
    decoded: dict[int, Iterator[np.ndarray]] = {}
    for i in range(count):
        total = None
        for number, (begin, end) in enumerate(windows):
            if not begin <= i < end:
                decoded.pop(number, None)
                continue
            if number not in decoded:
                decoded[number] = (picture for group in model.pictures(latents[number]) for picture in _arrays(group))
            part = weights[number][i - begin] * next(decoded[number])
            total = part if total is None else total + part
        yield total


def _with_fits(pictures: Iterator[np.ndarray | None], kept: Spool) -> Iterator[tuple[np.ndarray | None, ColourFit]]:
    """Every generated picture with its colour fit, averaged over neighbouring frames."""
    held: deque[tuple[int, np.ndarray | None, ColourFit | None]] = deque()
    nothing = ColourFit(np.ones(3), np.zeros(3), np.zeros((1, 1, 3), np.float32), 0.0)
    done = 0

    def finished(last: int) -> Iterator[tuple[np.ndarray | None, ColourFit]]:
        nonlocal done
        while done <= last:
            near = [(i - done, fit) for i, _, fit in held if abs(i - done) <= FIT_REACH_FRAMES and fit is not None]
            picture = next(picture for i, picture, _ in held if i == done)
            yield picture, mean_fit(near) if near else nothing
            done += 1
            while held and held[0][0] < done - FIT_REACH_FRAMES:
                held.popleft()

    number = -1
    for number, picture in enumerate(pictures):
        fit = None if picture is None else fit_colour(picture, kept.small(number, "picture"), kept.small(number, "holes"))
        held.append((number, picture, fit))
        yield from finished(number - FIT_REACH_FRAMES)
    yield from finished(number)


def _start_name(options: Options) -> str:
    return "picture" if options.prior is None else "prior"


def _streams(kept: Spool, indices: Sequence[int]) -> tuple[Pictures, Callable[[], Iterator[np.ndarray]]]:
    return _pictures(kept, indices, "picture"), lambda: (kept.small(i, "holes") for i in indices)


def _pictures(kept: Spool, indices: Sequence[int], name: str) -> Pictures:
    return lambda: (torch.from_numpy(kept.small(i, name)).permute(2, 0, 1)[None] * 2.0 - 1.0 for i in indices)


def _arrays(group: torch.Tensor) -> Iterator[np.ndarray]:
    """[h, w, 3] float32 in [0, 1] of each picture [k, 3, h, w] in [-1, 1]."""
    for picture in group:
        yield ((picture + 1.0) / 2.0).permute(1, 2, 0).contiguous().numpy()


def _first(count: int, items: Iterator[Any]) -> Iterator[Any]:
    """The first `count`, leaving the padding."""
    for _ in range(count):
        yield next(items)
