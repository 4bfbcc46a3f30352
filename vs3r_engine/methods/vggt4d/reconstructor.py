# SPDX-License-Identifier: Apache-2.0
"""The paper's Reconstructor: two passes of VGGT over sliding windows, motion mined from its attention in between
(section 3.2, eq. 1). The network's conventions end here: camera-from-world is inverted, its pixels become corner-origin
pixels."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from vs3r_engine.camera import Trajectory
from vs3r_engine.errors import OutOfMemory
from vs3r_engine.frame import Frame
from vs3r_engine.methods.devices import choose_device, free_memory, memory_errors
from vs3r_engine.methods.vggt4d import checkpoint
from vs3r_engine.methods.vggt4d.cues import MotionCues
from vs3r_engine.methods.vggt4d.masking import CueMasker, Masker, WindowEvidence
from vs3r_engine.methods.vggt4d.network import PATCH_PX, Tokens, Vggt
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import Settings
from vs3r_engine.stages.join import WindowCutter, bridged, joined, steady_focal

BYTES_PER_PATCH = 300_000
"""Activations per patch token; the network's authors report 0.22 MB (11.4 GB for 50 frames of 888 patches), our cues
come on top."""
FIXED_BYTES = 1_500_000_000
"""What a window needs whatever its length: the dense heads' eight frames at once."""
LEAST_CONTRAST = 0.004
"""Standard deviation of brightness below which a frame shows nothing (black, white, lens cap)."""


class Vggt4dReconstructor:
    """Reconstructor with VGGT and VGGT4D's motion mining.

    Holds one window of frames; its network is loaded once per process. Not for several threads at once.
    """

    def __init__(self, settings: Settings, device: str, *, masker: Masker | None = None, longest_side_px: int | None = None) -> None:
        """longest_side_px: of the network's picture; None = what its weights are made for.

        Raises: DeviceError; WeightsMissing where the weights of `settings.analysis.weights` are not here.
        """
        checkpoint.checked_weights(settings.analysis.weights)
        self._settings = settings.analysis
        self._device = choose_device(device)
        self._masker = masker or CueMasker()
        self._longest_side_px = longest_side_px

    def reconstruct(self, frames: Iterable[Frame], rate: Fraction) -> Iterator[Reconstruction]:
        """See `Reconstructor.reconstruct`. depth and semantic_mask have the network's picture size.

        Raises: OutOfMemory `out-of-memory` when a window of half the size does not fit either.
        """
        windows = self._windows(frames)
        if self._settings.joining == "robust":
            windows = steady_focal(windows)
        yield from joined(windows, self._settings.joining)

    def _windows(self, frames: Iterable[Frame]) -> Iterator[Reconstruction]:
        settings = self._settings
        with memory_errors("The network", "Set analysis.device=cpu, or use analysis.method=geometric."):
            loaded = _loaded(settings.weights, self._device.name)
        cutter: WindowCutter | None = None
        findings: dict[str, float | str] = {
            "device": self._device.name,
            "weights": loaded.name,
            "weights_licence": loaded.licence,
            "weights_commercial": loaded.commercial,
        }
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            return
        size = network_size(first.width, first.height, self._longest_side_px or loaded.longest_side_px)
        fits = fitting_window(settings.window_frames, size, free_memory(self._device.name))
        if fits < settings.window_frames:
            findings["window_note"] = f"{fits} instead of {settings.window_frames} frames at once fit in memory"
        cutter = WindowCutter(_chained(first, frames), fits, settings.overlap_frames)
        was_shrunk = False
        while (window := cutter.window()) is not None:
            try:
                with memory_errors(
                    f"A window of {len(window)} frames",
                    "Set analysis.window_frames lower, or use analysis.method=geometric.",
                ):
                    found = self.window(loaded.network, window, size)
            except OutOfMemory:
                if was_shrunk or cutter.window_frames <= 2:
                    raise
                was_shrunk = True
                cutter.shrink()
                findings["window_note"] = f"out of memory with {len(window)} frames at once, {cutter.window_frames} from there on"
                _release(self._device.name)
                continue
            cutter.done()
            findings["window_frames"] = cutter.window_frames
            yield Reconstruction(found.trajectory, found.depth, found.confidence, found.semantic_mask, found.diagnostics, dict(findings))

    @torch.inference_mode()
    def window(self, network: Vggt, frames: Sequence[Frame], size: tuple[int, int]) -> Reconstruction:
        """One window by itself, in the network's own gauge and scale. size: (width, height) of the network's
        picture."""
        images = torch.stack([prepared(frame, size, self._device.name) for frame in frames])
        features, tokens, cue = first_pass(network, images)
        grid = tokens.grid
        encoding = network.cameras(tokens)
        depth, confidence = network.depth(tokens)
        del tokens
        K, world_from_camera = decoded(encoding, size)
        is_bad = (images.mean(1).flatten(1).std(1) < LEAST_CONTRAST) | ~depth.flatten(1).isfinite().all(1) | ~encoding.isfinite().all(1)
        evidence = WindowEvidence(images, depth, K, world_from_camera, features.float(), cue, grid)
        mask = self._masker.mask(evidence) & ~is_bad[:, None, None]
        if bool(mask.any()):
            _, world_from_camera = decoded(second_pass(network, features, grid, mask), size)
        width, height = frames[0].width, frames[0].height
        clip_K = K.cpu().double().numpy()
        clip_K[:, 0] *= width / size[0]
        clip_K[:, 1] *= height / size[1]
        if self._settings.focal_mm > 0:
            clip_K[:, (0, 1), (0, 1)] = self._settings.focal_mm / 36.0 * max(width, height)
        path = Trajectory(frames[0].frame_index, width, height, clip_K, world_from_camera.cpu().double().numpy())
        found = Reconstruction(path, depth.cpu().numpy(), (1 - 1 / confidence).cpu().numpy(), mask.cpu().numpy())
        return bridged(found, is_bad.cpu().numpy())


def first_pass(network: Vggt, images: Tensor) -> tuple[Tensor, Tokens, Tensor]:
    """(patch features, the tokens that the heads read, motion cue) of images [frames, 3, h, w] in [0, 1]."""
    grid = (images.shape[-2] // PATCH_PX, images.shape[-1] // PATCH_PX)
    cues = MotionCues(network.shape, len(images))
    with _precision(images):
        features = network.aggregator.encode(images)
        tokens = network.aggregator(features, grid, (*network.shape.dpt_layers, network.shape.depth - 1), observe=cues)
    return features, tokens, cues.fused()


def second_pass(network: Vggt, features: Tensor, grid: tuple[int, int], mask: Tensor) -> Tensor:
    """[frames, 9] pose encodings when early layers do not see what moves by mask [frames, h, w]."""
    patches = F.max_pool2d(mask.float()[:, None], PATCH_PX)[:, 0].flatten(1) > 0.5
    with _precision(features):
        return network.cameras(network.aggregator(features, grid, (network.shape.depth - 1,), dynamic_patches=patches))


def network_size(width: int, height: int, longest_side_px: int = checkpoint.LONGEST_SIDE_PX) -> tuple[int, int]:
    """(width, height) of the network's picture: the longest side is `longest_side_px`, the other in proportion, both
    multiples of a patch. The whole picture is used, also upright ones, of which the published preparation keeps a
    square."""
    scale = longest_side_px / max(width, height)
    columns, rows = (max(1, round(side * scale / PATCH_PX)) for side in (width, height))
    return columns * PATCH_PX, rows * PATCH_PX


def fitting_window(wanted: int, size: tuple[int, int], free_bytes: int) -> int:
    """How many frames at once fit in memory, at most `wanted`.

    Raises: OutOfMemory where not even two do.
    """
    patches = size[0] * size[1] // PATCH_PX**2
    fits = int((free_bytes - FIXED_BYTES) // (patches * BYTES_PER_PATCH))
    if fits < 2:
        needed = FIXED_BYTES + 2 * patches * BYTES_PER_PATCH
        raise OutOfMemory(
            "out-of-memory",
            f"{free_bytes / 1e9:.1f} GB are free; the network needs {needed / 1e9:.1f} GB.",
            "Close other programs, or use analysis.method=geometric.",
        )
    return min(wanted, fits)


def prepared(frame: Frame, size: tuple[int, int], device: str) -> Tensor:
    """[3, h, w] float32 in [0, 1]: the frame's whole picture at the network's size, bicubic with antialiasing."""
    width, height = size
    if frame.width > 4 * width:
        frame = frame.resized(2 * width, 2 * height)
    # Metal does not resample with antialiasing.
    rgb = torch.from_numpy(frame.to_rgb()).to("cpu" if device == "mps" else device).permute(2, 0, 1)[None]
    small = F.interpolate(rgb, size=(height, width), mode="bicubic", antialias=True, align_corners=False)[0]
    return small.clamp(0, 1).to(device)


def decoded(encoding: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """K [frames, 3, 3] for the network's picture and world_from_camera [frames, 4, 4] of pose encodings [frames, 9].

    The principal point is the picture's centre, in corner-origin pixels exactly (width / 2, height / 2). Fields of view
    are kept within 3 to 150 degrees.
    """
    frames = len(encoding)
    encoding = torch.nan_to_num(encoding.float())
    x, y, z, w = F.normalize(encoding[:, 3:7] + encoding.new_tensor((0, 0, 0, 1e-12)), dim=1).unbind(1)
    camera_from_world = torch.stack(
        (
            1 - 2 * (y * y + z * z),
            2 * (x * y - z * w),
            2 * (x * z + y * w),
            2 * (x * y + z * w),
            1 - 2 * (x * x + z * z),
            2 * (y * z - x * w),
            2 * (x * z - y * w),
            2 * (y * z + x * w),
            1 - 2 * (x * x + y * y),
        ),
        1,
    ).view(frames, 3, 3)
    world_from_camera = torch.eye(4, device=encoding.device).repeat(frames, 1, 1)
    world_from_camera[:, :3, :3] = camera_from_world.transpose(1, 2)
    world_from_camera[:, :3, 3] = -(camera_from_world.transpose(1, 2) @ encoding[:, :3, None])[..., 0]
    tangent = torch.tan(encoding[:, 7:9].clamp(0.05, 2.6) / 2)
    K = torch.zeros(frames, 3, 3, device=encoding.device)
    K[:, 0, 0], K[:, 1, 1] = size[0] / 2 / tangent[:, 1], size[1] / 2 / tangent[:, 0]
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = size[0] / 2, size[1] / 2, 1
    return K, world_from_camera


@functools.lru_cache(maxsize=1)
def _loaded(source: str, device: str) -> checkpoint.Loaded:
    return checkpoint.load(source, device)


def _precision(like: Tensor):
    return torch.autocast("cuda", torch.bfloat16) if like.device.type == "cuda" else nullcontext()


def _release(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def _chained(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest
