# SPDX-License-Identifier: Apache-2.0
"""Pairs for training from a folder of stable videos: reconstruct, shake, reproject, judge, encode.

Resumable, seeded.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from vs3r_engine.errors import InputError, MediaError
from vs3r_engine.frame import Frame
from vs3r_engine.scene import Reconstruction, View
from vs3r_engine.settings import AnalysisSettings
from vs3r_engine.stages.composite import check_window, reduced, working_size
from vs3r_engine.stages.mask import FlowEstimator, moving_of
from vs3r_engine.stages.reconstruct import Reconstructor
from vs3r_engine.stages.render import Renderer
from vs3r_engine.stages.shots import shots
from vs3r_engine.training.degrade import augmentation, augmented, hand_held, reprojected
from vs3r_engine.training.samples import DatasetWriter, Sample

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mxf", ".m4v")
MASK_WIDTH_PX = 256


@dataclass(frozen=True, slots=True)
class CurateSettings:
    """How pairs are made. A reconstruction is named so that data of two kinds never mix in one folder."""

    window_frames: int = 81
    area_px: int = 832 * 480
    seed: int = 0
    windows_per_clip: int = 24
    reconstruction: str = "geometric"
    hole_share_low: float = 0.003
    hole_share_high: float = 0.6
    error_high: float = 0.12
    shake_high_deg: float = 0.1
    sharpness_low: float = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What curation works with: the methods for a clip's rate, and the encoder of pictures.

    encode: pictures [1, 3, h, w] in [-1, 1], 4k + 1 of them, to normalised latents [16, n, rows, columns].
    """

    reconstructor: Callable[[Fraction], Reconstructor]
    flow: FlowEstimator
    renderer: Renderer
    analysis: AnalysisSettings
    open_clip: Callable[[Path], AbstractContextManager[tuple[Iterable[Frame], Fraction]]]
    encode: Callable[[Callable[[], Iterator[torch.Tensor]]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Curated:
    """What became of one clip. rejected: windows by reason."""

    clip: str
    source: str
    samples: int
    rejected: dict[str, int]


def curate(videos: Path, output: Path, parts: Parts, settings: CurateSettings) -> Iterator[Curated]:
    """Turn every video under a folder into samples under `output`, one report per video; finished ones are skipped.

    A sample depends on its clip, its place in it and the settings alone. Raises: InputError `no-videos`,
    `data-settings-changed`, SettingsError `bad-window`.
    """
    check_window(settings.window_frames, 0)
    files = sorted(path for path in videos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError("no-videos", f"There are no videos in {videos}.", f"Give a folder with {', '.join(SUFFIXES)} files.")
    writer = DatasetWriter(output, asdict(settings))
    for path in files:
        clip = _key(path, videos)
        if writer.has(clip):
            continue
        rejected: Counter[str] = Counter()
        samples: list[tuple[Sample, dict[str, Any]]] = []
        try:
            for sample in _samples(path, clip, parts, settings, rejected):
                samples.append(sample)
                if len(samples) >= settings.windows_per_clip:
                    break
        except MediaError as error:
            rejected[error.code] += 1
        writer.add(clip, path.relative_to(videos).as_posix(), samples, dict(rejected))
        yield Curated(clip, str(path), len(samples), dict(rejected))


def _samples(
    path: Path, clip: str, parts: Parts, settings: CurateSettings, rejected: Counter[str]
) -> Iterator[tuple[Sample, dict[str, Any]]]:
    with parts.open_clip(path) as (frames, rate):
        for shot in shots(frames):
            for views, bridged in _windows(shot, rate, parts, settings.window_frames):
                start = views[0].frame.frame_index
                rng = np.random.default_rng([settings.seed, int(clip[:12], 16), start])
                reason = unsuitable(views, bridged, float(rate), settings)
                made = None if reason else _pair(views, float(rate), parts, settings, rng)
                if isinstance(made, tuple):
                    yield made[0], {"start": start, **made[1]}
                else:
                    rejected[reason or str(made)] += 1


def _windows(shot: Iterator[Frame], rate: Fraction, parts: Parts, length: int) -> Iterator[tuple[list[View], float]]:
    """Consecutive runs of `length` views of a shot, with the share of bridged frames; a shorter rest is left."""
    held: dict[int, Frame] = {}
    views: list[View] = []
    bridged: list[bool] = []

    def remembered() -> Iterator[Frame]:
        for frame in shot:
            held[frame.frame_index] = frame
            yield frame

    for piece in parts.reconstructor(rate).reconstruct(remembered(), rate):
        views += _views(piece, held, parts)
        bridged += [bool(b) for b in piece.diagnostics.get("is_bridged", np.zeros(len(piece.trajectory), bool))]
        while len(views) >= length:
            yield views[:length], float(np.mean(bridged[:length]))
            del views[:length], bridged[:length]


def _views(piece: Reconstruction, held: dict[int, Frame], parts: Parts) -> list[View]:
    path = piece.trajectory
    frames = [held.pop(path.first_frame + i) for i in range(len(path))]
    width = min(frames[0].width, MASK_WIDTH_PX)
    small = [frame.resized(width, max(1, round(frame.height * width / frame.width))) for frame in frames]
    masks = moving_of(piece, small, parts.flow, parts.analysis).mask
    return [
        View(frame, path.camera(frame.frame_index), path.residual(frame.frame_index), piece.depth[i], masks[i])
        for i, frame in enumerate(frames)
    ]


def unsuitable(views: Sequence[View], bridged_share: float, rate: float, settings: CurateSettings) -> str | None:
    """Why a window must not be learned from, or None: it shakes itself, is dark, flat or blurred, stands still as a
    photograph does, or its camera was not found."""
    if bridged_share > 0.1:
        return "camera-lost"
    if shake_deg(views, rate) > settings.shake_high_deg:
        return "not-stable"
    middle = [
        views[i].frame.resized(320, max(1, round(320 * views[i].frame.height / views[i].frame.width))).to_rgb().mean(axis=2)
        for i in (0, len(views) // 2, len(views) - 1)
    ]
    if min(float(p.mean()) for p in middle) < 0.04 or min(float(p.std()) for p in middle) < 0.02:
        return "dark-or-flat"
    if min(float(cv2.Laplacian(p.astype(np.float32), cv2.CV_32F).var()) for p in middle) < settings.sharpness_low:
        return "blurred"
    if len(views) > 2 and max(float(np.abs(p - middle[0]).mean()) for p in middle[1:]) < 2e-4:
        return "photograph"
    return None


def shake_deg(views: Sequence[View], rate: float) -> float:
    """Rms rotation (degrees) that no smooth movement explains: what is left of a parabola in each second."""
    if len(views) < 5:
        return 0.0
    rotation = Rotation.from_matrix(np.stack([view.camera.world_from_camera[:3, :3] for view in views]))
    rotvec = (rotation[0].inv() * rotation).as_rotvec()
    left = []
    for part in np.array_split(rotvec, max(1, round(len(views) / rate))):
        basis = np.vander(np.linspace(-1, 1, len(part)), 3)
        left.append(part - basis @ np.linalg.lstsq(basis, part, rcond=None)[0])
    return float(np.rad2deg(np.sqrt((np.concatenate(left) ** 2).sum(axis=1).mean())))


def _pair(
    views: Sequence[View], rate: float, parts: Parts, settings: CurateSettings, rng: np.random.Generator
) -> tuple[Sample, dict[str, Any]] | str:
    """The sample and facts about it, or why there is none."""
    size = working_size(views[0].frame.width, views[0].frame.height, settings.area_px)
    shake, faults = hand_held(len(views), rate, rng), augmentation(rng)
    clean, degraded, shares, errors = [], [], [], []
    for i, (view, rendered) in enumerate(zip(views, reprojected(views, shake, parts.renderer, rng), strict=True)):
        truth, _ = reduced(view.frame.to_rgb(), np.zeros((view.frame.height, view.frame.width), bool), size, 0.0)
        picture, hole = reduced(rendered.frame.to_rgb(), rendered.hole_mask, size, 0.0)
        if not hole.all():
            errors.append(float(np.abs(picture - truth)[~hole].mean()))
        picture, hole = augmented(picture, hole, faults, i)
        shares.append(float(hole.mean()))
        clean.append(truth)
        degraded.append(np.where(hole[..., None], np.float32(0), picture))
    share, error = float(np.mean(shares)), float(np.mean(errors)) if errors else 1.0
    if not settings.hole_share_low <= share <= settings.hole_share_high:
        return "holes"
    if error > settings.error_high:
        return "reprojection"
    facts = {
        "hole_share": round(share, 4),
        "error": round(error, 4),
        "zoom": round(shake.zoom, 3),
        "shake_deg": round(float(np.rad2deg(np.sqrt((shake.rotvec_rad**2).sum(axis=1).mean()))), 3),
    }
    return Sample(parts.encode(lambda: _signed(clean)), parts.encode(lambda: _signed(degraded))), facts


def _signed(pictures: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
    for picture in pictures:
        yield torch.from_numpy(picture).permute(2, 0, 1)[None] * 2.0 - 1.0


def _key(path: Path, root: Path) -> str:
    """Name of a clip: its place under the root and its size."""
    return hashlib.sha256(f"{path.relative_to(root).as_posix()} {path.stat().st_size}".encode()).hexdigest()[:16]
