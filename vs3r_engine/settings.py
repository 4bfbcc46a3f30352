# SPDX-License-Identifier: Apache-2.0
"""Every user-facing setting, declared once: label, help, range, and the group that says what changing it redoes.

The groups are cache boundaries. Changing an Analysis setting analyses again; Path and Frame settings render again;
Fill settings fill again; Output settings encode again. Command lines, presets, the sidecar, the protocol and the
plug-in's header are all derived from the declarations here.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vs3r_engine.errors import SettingsError

SCHEMA = 1
"""Version of the settings' meaning. Goes up when a stored value would no longer mean the same."""

NAMING_FILES = ("analysis.input_lens", "fill.lora")
"""Settings whose value may be the path of a file or folder, or several joined by semicolons."""

WRITABLE_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".mxf", ".exr", ".png", ".tif", ".tiff", ".dpx"))
"""What results can be written as; a clip that is read as something else has its result in another container."""
GROUPS = {
    "analysis": "Analysis - changing these analyses the clip again",
    "path": "Path - shown at once, frames are rendered again",
    "frame": "Frame - frames are rendered again",
    "fill": "Fill - what the camera never saw is filled again",
    "output": "Output - frames are encoded again",
}


def _setting(
    default: Any,
    label: str,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
) -> Any:
    return field(default=default, metadata={"label": label, "help": help, "choices": choices, "low": low, "high": high, "unit": unit})


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    method: str = _setting(
        "auto",
        "Method",
        "How camera and scene are found. auto: vggt4d with weights and a GPU, else geometric.",
        choices=("auto", "geometric", "vggt4d"),
    )
    focal_mm: float = _setting(
        0.0, "Focal length", "35 mm equivalent of the lens; 0 = find it from the picture.", low=0, high=1200, unit="mm"
    )
    rolling_shutter: str = _setting(
        "auto", "Rolling shutter", "Correct skew from row-by-row exposure where the picture supports it.", choices=("auto", "off")
    )
    moving_sensitivity: float = _setting(
        50.0, "Moving objects", "How readily something is taken to move by itself.", low=0, high=100, unit="%"
    )
    mask: str = _setting(
        "hybrid",
        "Dynamic mask",
        "hybrid: the network or flow says it moves; published: the same by eq. 5 alone, unchecked; semantic: the network's mask alone.",
        choices=("hybrid", "published", "semantic"),
    )
    flow: str = _setting("auto", "Optical flow", "auto: RAFT with weights and a GPU, else DIS.", choices=("auto", "dis", "raft"))
    flow_threshold_px: float = _setting(
        0.0, "Flow threshold", "tau of eq. 5 in pixels of the analysis size; 0 = from the sensitivity.", low=0, high=50, unit="px"
    )
    window_frames: int = _setting(50, "Window", "Frames a network sees at once.", low=2, high=200, unit="frames")
    overlap_frames: int = _setting(10, "Overlap", "Frames neighbouring windows share.", low=1, high=100, unit="frames")
    joining: str = _setting("robust", "Joining", "How windows are joined: robust, or as published.", choices=("robust", "published"))
    input_lens: str = _setting("perspective", "Input lens", "Lens of the source: perspective, or the path of a lens profile (JSON).")
    device: str = _setting("auto", "Device", "Where networks run.", choices=("auto", "cuda", "mps", "cpu"))
    weights: str = _setting("installed", "Weights", "installed: verified files of this machine. random:SEED exists for tests only.")


@dataclass(frozen=True, slots=True)
class PathSettings:
    mode: str = _setting(
        "smooth", "Mode", "smooth: follow the camera's intention; locked: stand still like a tripod.", choices=("smooth", "locked")
    )
    smoothness: float = _setting(50.0, "Smoothness", "How calm the camera path becomes.", low=0, high=100, unit="%")
    strength: float = _setting(100.0, "Strength", "Mix with the original path: 0 % is the original.", low=0, high=100, unit="%")
    horizon_lock: bool = _setting(False, "Horizon lock", "Keep the horizon level, relative to the shot's own average.")


@dataclass(frozen=True, slots=True)
class FrameSettings:
    framing: str = _setting(
        "full",
        "Framing",
        "full: fill the edges; crop: zoom until nothing is missing; show-edges: leave them black.",
        choices=("full", "crop", "show-edges"),
    )
    zoom: str = _setting("static", "Zoom", "With crop: one zoom for the shot, or one that follows the need.", choices=("static", "dynamic"))
    zoom_limit: float = _setting(
        130.0, "Zoom limit", "Largest zoom with crop; what is still missing is filled.", low=100, high=300, unit="%"
    )
    overlay: str = _setting(
        "stay",
        "Overlays",
        "Logos, timecode, the bonnet before the camera: stay where they are, or move with the picture (diffusion, show-edges: always).",
        choices=("stay", "move"),
    )
    lens: str = _setting(
        "as-shot",
        "Output lens",
        "Camera model of the result.",
        choices=(
            "as-shot",
            "perspective",
            "wide",
            "ultra-wide",
            "telephoto",
            "fisheye",
            "omnidirectional",
            "double-sphere",
            "equirectangular",
        ),
    )
    renderer: str = _setting(
        "auto",
        "Renderer",
        "auto: sharp backward warp for geometric, point splatting for vggt4d.",
        choices=("auto", "warp", "splat", "pytorch3d"),
    )
    splatting: str = _setting(
        "sharp",
        "Splatting",
        "sharp: full size, pixels read once; published: soft discs at 518 pixels, for comparison.",
        choices=("sharp", "published"),
    )
    neighbours: int = _setting(
        1, "Neighbours", "n of eq. 6: static points of frames t-n to t+n fill what frame t does not cover.", low=0, high=10, unit="frames"
    )


@dataclass(frozen=True, slots=True)
class FillSettings:
    completer: str = _setting(
        "auto",
        "Completer",
        "auto: temporal. vace and dvdm are video diffusion and need weights.",
        choices=("auto", "temporal", "vace", "dvdm", "none"),
    )
    quality: str = _setting(
        "final", "Quality", "draft: half-size analysis of the fill, no diffusion; final: everything.", choices=("draft", "final")
    )
    area: str = _setting(
        "holes",
        "Area",
        "holes: original pixels stay; full-frame: the model's picture everywhere (the paper).",
        choices=("holes", "full-frame"),
    )
    radius_s: float = _setting(1.0, "Reach", "How far in time missing picture is looked for.", low=0, high=5, unit="s")
    seed: int = _setting(42, "Seed", "Same seed, same generated picture.", low=0, high=2**31 - 1)
    sampler: str = _setting("vs3r", "Sampler", "Diffusion sampling preset.", choices=("vs3r", "vs3r-official", "fast"))
    denoise: float = _setting(1.0, "Denoise", "1: generate from noise; below: start from the render.", low=0.05, high=1.0)
    blending: str = _setting(
        "per-step",
        "Windows",
        "How overlapping diffusion windows agree: averaged per step, or cross-faded as published.",
        choices=("per-step", "cross-fade"),
    )
    text_mode: str = _setting(
        "vs3r", "Prompt encoding", "As the authors encode the fixed prompt, or as diffusers does.", choices=("vs3r", "diffusers")
    )
    lora: str = _setting("", "LoRA", "Path of the trained DVDM adapters; empty = the installed ones.")
    offload: str = _setting(
        "auto",
        "Offload",
        "Where the diffusion model's weights live while it runs.",
        choices=("auto", "none", "group", "model", "int8", "fp8"),
    )
    detail: str = _setting(
        "model",
        "Detail",
        "Size at which a diffusion model paints: its own (dvdm and vace 14b: 720p, vace 1.3b: 480p), or another.",
        choices=("model", "480p", "720p"),
    )
    vace_model: str = _setting(
        "1.3b", "VACE model", "1.3b runs on most GPUs; 14b is finer and needs 24 GB or more.", choices=("1.3b", "14b")
    )
    window_frames: int = _setting(
        81, "Window", "Frames a diffusion model sees at once, one more than a multiple of four.", low=5, high=161, unit="frames"
    )
    overlap_frames: int = _setting(20, "Overlap", "Frames neighbouring diffusion windows share.", low=0, high=80, unit="frames")
    attention: str = _setting(
        "auto",
        "Attention",
        "Attention back end; auto is PyTorch's own. What cannot be used is announced.",
        choices=("auto", "_native_cudnn", "_native_flash", "flash", "_flash_3_hub", "sage", "flex", "xformers"),
    )
    compiled: bool = _setting(False, "Compile", "Compile the diffusion model's blocks: minutes once, then faster.")
    weights: str = _setting("installed", "Weights", "installed: verified files of this machine. random:SEED exists for tests only.")


@dataclass(frozen=True, slots=True)
class OutputSettings:
    codec: str = _setting(
        "auto",
        "Codec",
        "auto: the source's own where it can be written, else by the file name.",
        choices=("auto", "h264", "h265", "prores", "prores-hq", "prores-4444", "dnxhr", "ffv1", "exr", "png", "tiff", "dpx"),
    )
    crf: float = _setting(18.0, "Quality", "Constant rate factor of h264 and h265; lower is better and larger.", low=0, high=51)
    speed: str = _setting(
        "veryfast",
        "Encoder speed",
        "x264 and x265 speed preset.",
        choices=("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
    )
    audio: bool = _setting(True, "Audio", "Copy every audio and data stream.")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a job. Immutable; `with_values` makes a changed copy."""

    analysis: AnalysisSettings = AnalysisSettings()
    path: PathSettings = PathSettings()
    frame: FrameSettings = FrameSettings()
    fill: FillSettings = FillSettings()
    output: OutputSettings = OutputSettings()

    def with_values(self, values: Mapping[str, Any]) -> "Settings":
        """A copy with `{"path.smoothness": 70, ...}` applied; text is converted to the setting's type.

        Raises: SettingsError `unknown-setting` (with the nearest spelling), `bad-setting`.
        """
        groups = {name: getattr(self, name) for name in GROUPS}
        for key, value in values.items():
            descriptor = _BY_KEY.get(key)
            if descriptor is None:
                near = difflib.get_close_matches(key, _BY_KEY, 1) or difflib.get_close_matches(
                    key.split(".")[-1], [k.split(".")[1] for k in _BY_KEY], 1
                )
                raise SettingsError(
                    "unknown-setting",
                    f"There is no setting {key!r}.",
                    f"Did you mean {near[0]!r}?" if near else "`vs3r presets show natural` lists them all.",
                )
            groups[descriptor.group] = dataclasses.replace(groups[descriptor.group], **{descriptor.name: descriptor.parse(value)})
        return Settings(**groups)

    def values(self) -> dict[str, Any]:
        """Every setting by key, in declaration order."""
        return {d.key: getattr(getattr(self, d.group), d.name) for d in DESCRIPTORS}

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        defaults = Settings().values()
        return {key: value for key, value in self.values().items() if value != defaults[key]}

    def digest(self, *groups: str) -> str:
        """A key of the values of these groups, and of the files they name: equal digests, equal results."""
        chosen = {k: v for k, v in self.values().items() if k.split(".")[0] in groups}
        values: list[Any] = [SCHEMA, chosen]
        if files := {k: stamp for k in NAMING_FILES if k in chosen and (stamp := stamp_of(chosen[k]))}:
            values.append(files)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def stamp_of(value: str) -> str:
    """Changes when the files that a setting's value names do; "" where it names none that can be looked at."""
    stamps = []
    for part in filter(None, (part.strip() for part in value.split(";"))):
        place = Path(part).expanduser()
        try:
            files = [place, *sorted(place.rglob("*"))] if place.is_dir() else [place]
            facts = [(file.name, file.stat()) for file in files if file.is_file()]
        except OSError:
            continue  # whoever reads it says what is wrong
        stamps += [f"{name} {fact.st_size} {fact.st_mtime_ns}" for name, fact in facts]
    return "\n".join(stamps)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What hosts need to show one setting."""

    key: str
    group: str
    name: str
    type: type
    default: Any
    label: str
    help: str
    choices: tuple[str, ...]
    low: float | None
    high: float | None
    unit: str

    def parse(self, value: Any) -> Any:
        """`value` as this setting's type. Raises: SettingsError `bad-setting`."""
        if isinstance(value, str) and self.type is not str:
            text = value.strip().lower()
            try:
                value = (
                    {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}[text]
                    if self.type is bool
                    else self.type(text)
                )
            except (KeyError, ValueError):
                self._refuse(value)
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if self.type is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not self.type:
            self._refuse(value)
        if self.type is float and not math.isfinite(value):
            self._refuse(value)
        if (
            (self.choices and value not in self.choices)
            or (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
        ):
            self._refuse(value)
        return value

    def _refuse(self, value: Any) -> None:
        if self.choices:
            wanted = "one of " + ", ".join(self.choices)
        elif self.low is not None:
            wanted = f"a number from {self.low:g} to {self.high:g} {self.unit}".rstrip()
        else:
            wanted = {bool: "true or false", str: "text"}.get(self.type, "a number")
        raise SettingsError("bad-setting", f"{self.key} cannot be {value!r}.", f"Give {wanted}.")


def _describe() -> Iterator[Descriptor]:
    for group in GROUPS:
        for f in dataclasses.fields(getattr(Settings(), group)):
            yield Descriptor(f"{group}.{f.name}", group, f.name, type(f.default), f.default, **f.metadata)


DESCRIPTORS: tuple[Descriptor, ...] = tuple(_describe())
_BY_KEY = {descriptor.key: descriptor for descriptor in DESCRIPTORS}

PRESETS: dict[str, dict[str, Any]] = {
    "natural": {},
    "glide": {"path.smoothness": 85.0},
    "locked": {"path.mode": "locked"},
    "subtle": {"path.smoothness": 30.0, "path.strength": 80.0},
}


def preset(name: str) -> Settings:
    """The settings of a built-in preset. Raises: SettingsError `unknown-preset`."""
    if name not in PRESETS:
        raise SettingsError("unknown-preset", f"There is no preset {name!r}.", f"Choose one of {', '.join(PRESETS)}.")
    return Settings().with_values(PRESETS[name])


def sigma_s(smoothness: float) -> float:
    """Standard deviation of the path filter in seconds: 0.8 s at 50 %, 2 s at 100 %.

    The paper's sigma = 10 frames is 0.33 s at 30 frames per second, which is 26 %.
    """
    return 2.0 * (smoothness / 100.0) ** 1.322
