# SPDX-License-Identifier: Apache-2.0
"""An OpenFX host for tests, in Python: loads the real plug-in, plays its part strictly, and notes everything that the
plug-in does wrong in `Host.violations`. Modes: spec (everything), resolve, mlt: see MODES."""

import ctypes as c
import itertools
import json
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

OK, FAILED, ERR_UNKNOWN, BAD_HANDLE, BAD_INDEX, ERR_VALUE, REPLY_NO, REPLY_DEFAULT = 0, 1, 3, 9, 10, 11, 13, 14
DEPTHS = {
    "OfxBitDepthByte": np.uint8,
    "OfxBitDepthShort": np.uint16,
    "OfxBitDepthHalf": np.float16,
    "OfxBitDepthFloat": np.float32,
}
DEPTH_NAMES = {np.dtype(dtype): name for name, dtype in DEPTHS.items()}
GUARD = 256
GUARD_BYTE = 0xA5


@dataclass(frozen=True)
class Mode:
    """How a kind of host behaves. names_file: it tells path and frame. temporal: it hands out other frames too."""

    name: str
    temporal: bool = True
    suites: frozenset = frozenset(
        {
            "OfxPropertySuite",
            "OfxImageEffectSuite",
            "OfxParameterSuite",
            "OfxMemorySuite",
            "OfxMultiThreadSuite",
            "OfxMessageSuite",
            "OfxProgressSuite",
            "OfxTimeLineSuite",
        }
    )
    message_versions: tuple[int, ...] = (1, 2)
    progress_versions: tuple[int, ...] = (1, 2)
    has_changes: bool = True
    skips_secret: bool = False
    skipped_types: tuple[str, ...] = ()
    names_file: bool = False
    is_background: int = 0
    has_rod_property: bool = True


MODES = {
    "spec": Mode("org.vs3r.TestHost"),
    "resolve": Mode("DaVinciResolve", names_file=True, message_versions=(1,), progress_versions=(1,)),
    "mlt": Mode(
        "MLT",
        temporal=False,
        has_changes=False,
        skips_secret=True,
        is_background=1,
        progress_versions=(),
        skipped_types=("OfxParamTypeCustom", "OfxParamTypePage", "OfxParamTypePushButton"),
    ),
}

KNOWN = frozenset(
    (
        "OfxImageClipPropConnected",
        "OfxImageClipPropFieldExtraction",
        "OfxImageEffectFrameVarying",
        "OfxImageEffectHostPropIsBackground",
        "OfxImageEffectPluginPropFieldRenderTwiceAlways",
        "OfxImageEffectPluginPropGrouping",
        "OfxImageEffectPluginPropHostFrameThreading",
        "OfxImageEffectPluginPropSingleInstance",
        "OfxImageEffectPluginRenderThreadSafety",
        "OfxImageEffectPropComponents",
        "OfxImageEffectPropContext",
        "OfxImageEffectPropFrameRange",
        "OfxImageEffectPropFrameRate",
        "OfxImageEffectPropInteractiveRenderStatus",
        "OfxImageEffectPropPixelDepth",
        "OfxImageEffectPropPreMultiplication",
        "OfxImageEffectPropRenderScale",
        "OfxImageEffectPropRenderWindow",
        "OfxImageEffectPropSupportedComponents",
        "OfxImageEffectPropSupportedContexts",
        "OfxImageEffectPropSupportedPixelDepths",
        "OfxImageEffectPropSupportsMultiResolution",
        "OfxImageEffectPropSupportsTiles",
        "OfxImageEffectPropTemporalClipAccess",
        "OfxImageEffectPropThumbnailRender",
        "OfxImagePropBounds",
        "OfxImagePropData",
        "OfxImagePropPixelAspectRatio",
        "OfxImagePropRegionOfDefinition",
        "OfxImagePropRowBytes",
        "OfxParamPropAnimates",
        "OfxParamPropCanUndo",
        "OfxParamPropChoiceOption",
        "OfxParamPropDefault",
        "OfxParamPropDigits",
        "OfxParamPropDisplayMax",
        "OfxParamPropDisplayMin",
        "OfxParamPropEvaluateOnChange",
        "OfxParamPropGroupOpen",
        "OfxParamPropHint",
        "OfxParamPropMax",
        "OfxParamPropMin",
        "OfxParamPropPageChild",
        "OfxParamPropParent",
        "OfxParamPropPersistant",
        "OfxParamPropScriptName",
        "OfxParamPropSecret",
        "OfxParamPropStringFilePathExists",
        "OfxParamPropStringMode",
        "OfxParamPropType",
        "OfxPropAPIVersion",
        "OfxPropChangeReason",
        "OfxPropInstanceData",
        "OfxPropIsInteractive",
        "OfxPropLabel",
        "OfxPropLongLabel",
        "OfxPropName",
        "OfxPropPluginDescription",
        "OfxPropShortLabel",
        "OfxPropTime",
        "OfxPropType",
        "OfxPropVersion",
    )
)
"""Every property name of the specification that may pass between this host and the plug-in."""
VENDOR = frozenset({"OfxImageEffectPropSrcFilePath", "OfxImageEffectPropSrcFrame", "kOfxImageClipPropThumbnail"})
"""Names that only some hosts know: others answer that they are unknown."""


class Properties:
    """A property set; its address is a number that the plug-in hands back."""

    def __init__(self, host: "Host", **values: Any) -> None:
        self.values: dict[str, list] = {}
        self.host, self.handle = host, host.register(self)
        self._texts: dict[tuple[str, int], c.c_char_p] = {}
        for name, value in values.items():
            self.set(name, value)

    def set(self, name: str, value: Any) -> "Properties":
        self.values[name] = list(value) if isinstance(value, (list, tuple)) else [value]
        return self

    def get(self, name: str, otherwise: Any = None) -> Any:
        return self.values[name][0] if self.values.get(name) else otherwise

    def text_pointer(self, name: str, index: int) -> int:
        kept = self._texts[name, index] = c.c_char_p(str(self.values[name][index]).encode())
        return c.cast(kept, c.c_void_p).value


@dataclass
class Parameter:
    type: str
    name: str
    properties: Properties
    value: Any = None
    text: Any = None
    handle: int = 0


@dataclass
class Layout:
    """How the host lays its images out. origin: of the pixel at the lower left; padding: bytes after each row."""

    dtype: Any = np.float32
    channels: int = 4
    padding: int = 0
    is_negative: bool = False
    origin: tuple[int, int] = (0, 0)
    premultiplied: bool = False
    pixel_aspect: float = 1.0


class HostImage:
    """A picture between guard bytes, in the host's layout. `pixels` is top-down [h, w, channels]."""

    def __init__(self, host: "Host", height: int, width: int, layout: Layout, pixels: np.ndarray | None = None) -> None:
        self.host, self.layout, self.shape = host, layout, (height, width, layout.channels)
        self._packed = width * layout.channels * np.dtype(layout.dtype).itemsize
        self._row = self._packed + layout.padding
        self.memory = np.full(self._row * height + 2 * GUARD, GUARD_BYTE, np.uint8)
        if pixels is not None:
            self._rows()[:] = np.ascontiguousarray(pixels.astype(layout.dtype, copy=False)).view(np.uint8).reshape(height, self._packed)
        self.before = self.memory.copy() if pixels is not None else None
        x, y = layout.origin
        first = GUARD + (self._row * (height - 1) if layout.is_negative and height else 0)
        self.properties = Properties(host)
        for name, value in {
            "OfxPropType": "OfxTypeImage",
            "OfxImagePropData": self.memory.ctypes.data + first,
            "OfxImagePropBounds": [x, y, x + width, y + height],
            "OfxImagePropRegionOfDefinition": [x, y, x + width, y + height],
            "OfxImagePropRowBytes": -self._row if layout.is_negative else self._row,
            "OfxImageEffectPropPixelDepth": DEPTH_NAMES[np.dtype(layout.dtype)],
            "OfxImageEffectPropComponents": "OfxImageComponentRGBA" if layout.channels == 4 else "OfxImageComponentRGB",
            "OfxImageEffectPropPreMultiplication": "OfxImageAlphaPremultiplied" if layout.premultiplied else "OfxImageAlphaUnPremultiplied",
            "OfxImagePropPixelAspectRatio": layout.pixel_aspect,
            "OfxImageEffectPropRenderScale": [1.0, 1.0],
        }.items():
            self.properties.set(name, value)

    def _rows(self) -> np.ndarray:
        """A top-down view of the rows' bytes."""
        height = self.shape[0]
        rows = self.memory[GUARD : len(self.memory) - GUARD].reshape(height, self._row)[:, : self._packed]
        return rows if self.layout.is_negative else rows[::-1]

    @property
    def pixels(self) -> np.ndarray:
        return np.ascontiguousarray(self._rows()).view(self.layout.dtype).reshape(self.shape)

    def check(self) -> None:
        if self.before is not None and not np.array_equal(self.before, self.memory):
            self.host.violations.append("a source image was written to")
        rows = self.memory[GUARD : len(self.memory) - GUARD].reshape(self.shape[0], self._row)
        if (
            (self.memory[:GUARD] != GUARD_BYTE).any()
            or (self.memory[len(self.memory) - GUARD :] != GUARD_BYTE).any()
            or (rows[:, self._packed :] != GUARD_BYTE).any()
        ):
            self.host.violations.append("bytes outside an image were written to")


@dataclass
class HostClip:
    name: str
    properties: Properties
    picture: Callable[[float], np.ndarray | None] = lambda time: None
    """The source's pixels at a time, top-down; None where there is no image."""
    handle: int = 0


@dataclass
class Arguments:
    """What one render is asked for."""

    time: float = 0.0
    interactive: bool = False
    window: tuple[int, int, int, int] | None = None
    source_frame: int | None = None
    thumbnail: bool = False
    abort_after_s: float | None = None
    size: tuple[int, int] | None = None
    """(height, width) of the output; None = the source's."""


class Instance:
    """One effect on one clip."""

    def __init__(self, host: "Host", state: dict[str, Any] | None = None, layout: Layout | None = None) -> None:
        self.host, self.layout = host, layout or Layout()
        self.properties = Properties(host).set("OfxPropType", "OfxTypeImageEffectInstance").set("OfxPropInstanceData", 0)
        self.properties.set("OfxImageEffectPropContext", "OfxImageEffectContextFilter")
        self.handle = host.register(self)
        self.parameters = {name: self._parameter(one) for name, one in host.descriptor.parameters.items()}
        self.clips = {name: HostClip(name, Properties(host)) for name in host.descriptor.clips}
        for clip in self.clips.values():
            clip.handle = host.register((self, clip))
            clip.properties.set("OfxImageClipPropConnected", 0).set("OfxImageEffectPropFrameRange", [0.0, 0.0]).set(
                "OfxImageEffectPropFrameRate", 25.0
            )
        for name, value in (state or {}).items():
            if name in self.parameters:
                self.parameters[name].value = value
        self.aborted = threading.Event()
        self.messages: list[str] = []
        self.progress: list[float] = []
        self.cancel_progress_after: int | None = None
        self.outputs: dict[int, HostImage] = {}
        self.reading_others = False
        host.instances.append(self)
        self.created = host.act("OfxActionCreateInstance", self.handle)

    def _parameter(self, described: Parameter) -> Parameter:
        one = Parameter(described.type, described.name, Properties(self.host))
        one.properties.values = {name: list(values) for name, values in described.properties.values.items()}
        initial = {"OfxParamTypeString": "", "OfxParamTypeDouble": 0.0}.get(described.type, 0)
        one.value = described.properties.get("OfxParamPropDefault", initial)
        one.handle = self.host.register((self, one))
        return one

    def connect(self, picture: Callable[[float], np.ndarray | None], frames: tuple[int, int], rate: float = 25.0, path: str = "") -> None:
        """Put a clip under the effect; `frames` are the first and last time."""
        clip = self.clips["Source"]
        clip.picture = picture
        clip.properties.set("OfxImageClipPropConnected", 1).set("OfxImageEffectPropFrameRange", [float(x) for x in frames])
        clip.properties.set("OfxImageEffectPropFrameRate", rate)
        if path and self.host.mode.names_file:
            self.properties.set("OfxImageEffectPropSrcFilePath", path)

    def value(self, name: str) -> Any:
        return self.parameters[name].value

    def edit(self, name: str, value: Any = None) -> int:
        """The user changes a control, or presses a button."""
        if value is not None:
            self.parameters[name].value = value
        if not self.host.mode.has_changes:
            return REPLY_DEFAULT
        self.host.act(
            "OfxActionBeginInstanceChanged",
            self.handle,
            Properties(self.host, OfxPropChangeReason="OfxChangeUserEdited"),
        )
        arguments = Properties(
            self.host,
            OfxPropType="OfxTypeParameter",
            OfxPropName=name,
            OfxPropChangeReason="OfxChangeUserEdited",
            OfxPropTime=0.0,
        )
        arguments.set("OfxImageEffectPropRenderScale", [1.0, 1.0])
        self.reading_others = True
        status = self.host.act("OfxActionInstanceChanged", self.handle, arguments)
        self.reading_others = False
        self.host.act("OfxActionEndInstanceChanged", self.handle, Properties(self.host, OfxPropChangeReason="OfxChangeUserEdited"))
        return status

    def sync(self) -> None:
        self.host.act("OfxActionSyncPrivateData", self.handle)

    def saved(self) -> dict[str, Any]:
        """What a project file would hold."""
        self.sync()
        return json.loads(
            json.dumps(
                {
                    name: one.value
                    for name, one in self.parameters.items()
                    if one.properties.get("OfxParamPropPersistant", 1) and one.type != "OfxParamTypePushButton"
                }
            )
        )

    def identity(self, time: float = 0.0) -> str | None:
        out = Properties(self.host, OfxPropName="", OfxPropTime=time)
        arguments = Properties(self.host, OfxPropTime=time).set("OfxImageEffectPropRenderWindow", [0, 0, 1, 1])
        status = self.host.act("OfxImageEffectActionIsIdentity", self.handle, arguments, out)
        return out.get("OfxPropName") if status == OK else None

    def render(self, asked: Arguments) -> tuple[int, np.ndarray]:
        """(status, the output's pixels top-down)."""
        source = self.clips["Source"].picture(asked.time)
        height, width = asked.size or (source.shape[:2] if source is not None else (4, 4))
        image = HostImage(self.host, height, width, self.layout)
        x, y = self.layout.origin
        arguments = Properties(self.host, OfxPropTime=float(asked.time), OfxImageEffectPropInteractiveRenderStatus=int(asked.interactive))
        arguments.set("OfxImageEffectPropRenderWindow", asked.window or [x, y, x + width, y + height])
        arguments.set("OfxImageEffectPropRenderScale", [1.0, 1.0])
        if asked.thumbnail:
            arguments.set("OfxImageEffectPropThumbnailRender", "true")
        if self.host.mode.names_file and asked.source_frame is not None:
            arguments.set("OfxImageEffectPropSrcFrame", asked.source_frame)
        timer = threading.Timer(asked.abort_after_s, self.aborted.set) if asked.abort_after_s is not None else None
        if timer:
            timer.start()
        self.outputs[threading.get_ident()] = image
        try:
            status = self.host.act("OfxImageEffectActionRender", self.handle, arguments)
        finally:
            if timer:
                timer.cancel()
                self.aborted.clear()
        image.check()
        return status, image.pixels

    def destroy(self) -> int:
        self.host.instances.remove(self)
        return self.host.act("OfxActionDestroyInstance", self.handle)


@dataclass
class Descriptor:
    properties: Properties
    parameters: dict[str, Parameter] = field(default_factory=dict)
    clips: dict[str, Properties] = field(default_factory=dict)
    handle: int = 0


class _OfxPlugin(c.Structure):
    _fields_ = (
        ("api", c.c_char_p),
        ("api_version", c.c_int),
        ("identifier", c.c_char_p),
        ("major", c.c_uint),
        ("minor", c.c_uint),
        ("set_host", c.CFUNCTYPE(None, c.c_void_p)),
        ("main", c.CFUNCTYPE(c.c_int, c.c_char_p, c.c_void_p, c.c_void_p, c.c_void_p)),
    )


class _OfxHost(c.Structure):
    _fields_ = (("host", c.c_void_p), ("fetch", c.c_void_p))


class Host:
    """One host program with the plug-in loaded and described. Use it in a `with`, which ends with a check."""

    def __init__(self, library: Path, mode: str = "spec") -> None:
        self.mode = MODES[mode]
        self.violations: list[str] = []
        self.actions: list[tuple[str, int]] = []
        self.open_images: dict[int, HostImage] = {}
        self.instances: list[Instance] = []
        """Those that live."""
        self._objects: dict[int, Any] = {}
        self._ids = itertools.count(0x10000, 16)
        self._lock = threading.Lock()
        self._suites: dict[tuple[str, int], Any] = {}
        self._kept: list[Any] = []
        self.properties = Properties(self, OfxPropName=self.mode.name, OfxPropType="OfxTypeImageEffectHost")
        self.properties.set("OfxImageEffectPropTemporalClipAccess", int(self.mode.temporal))
        self.properties.set("OfxImageEffectHostPropIsBackground", self.mode.is_background)
        self._build_suites()
        self._library = c.CDLL(str(library))
        self._library.OfxGetPlugin.restype = c.POINTER(_OfxPlugin)
        self._fetch = c.CFUNCTYPE(c.c_void_p, c.c_void_p, c.c_char_p, c.c_int)(self._fetch_suite)
        self._host = _OfxHost(self.properties.handle, c.cast(self._fetch, c.c_void_p).value)
        self._library.OfxSetHost(c.byref(self._host))
        assert self._library.OfxGetNumberOfPlugins() == 1
        self.plugin = self._library.OfxGetPlugin(0).contents
        self.plugin.set_host(c.addressof(self._host))
        assert self.act("OfxActionLoad", None) == OK
        self.descriptor = Descriptor(Properties(self))
        self.descriptor.handle = self.register(self.descriptor)
        assert self.act("OfxActionDescribe", self.descriptor.handle) == OK
        arguments = Properties(self, OfxImageEffectPropContext="OfxImageEffectContextFilter")
        assert self.act("OfxImageEffectActionDescribeInContext", self.descriptor.handle, arguments) == OK

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        while self.instances:
            assert self.instances[-1].destroy() == OK
        self.act("OfxActionUnload", None)
        if kind is None:
            assert not self.open_images, f"{len(self.open_images)} images were never released"
            assert not self.violations, self.violations

    def register(self, thing: Any) -> int:
        with self._lock:
            handle = next(self._ids)
            self._objects[handle] = thing
        return handle

    def act(self, action: str, handle: int | None, inputs: Properties | None = None, outputs: Properties | None = None) -> int:
        status = self.plugin.main(action.encode(), handle, inputs.handle if inputs else None, outputs.handle if outputs else None)
        self.actions.append((action, status))
        return status

    # --- suites ---

    def _fetch_suite(self, _host: int, name: bytes, version: int) -> int | None:
        suite = self._suites.get((name.decode(), version))
        return c.addressof(suite) if suite is not None else None

    def _suite(self, name: str, version: int, functions: list[Any]) -> None:
        self._kept += functions
        self._suites[name, version] = (c.c_void_p * len(functions))(*[c.cast(one, c.c_void_p).value for one in functions])

    def _build_suites(self) -> None:
        p, i, s, d = c.c_void_p, c.c_int, c.c_char_p, c.c_double

        def function(result: Any, *arguments: Any) -> Callable[[Callable], Any]:
            return lambda body: c.CFUNCTYPE(result, *arguments)(body)

        def setter(kind: Any) -> Any:
            return function(i, p, s, i, kind)(lambda handle, name, index, value: self._set(handle, name.decode(), index, value))

        def setter_n(kind: Any) -> Any:
            return function(i, p, s, i, c.POINTER(kind))(
                lambda handle, name, count, values: max((self._set(handle, name.decode(), k, values[k]) for k in range(count)), default=OK)
            )

        def getter(kind: Any) -> Any:
            return function(i, p, s, i, c.POINTER(kind))(lambda handle, name, index, out: self._get(handle, name.decode(), index, out, 0))

        def getter_n(kind: Any) -> Any:
            return function(i, p, s, i, c.POINTER(kind))(
                lambda handle, name, count, out: max((self._get(handle, name.decode(), k, out, k) for k in range(count)), default=OK)
            )

        kinds = (p, s, d, i)
        self._suite(
            "OfxPropertySuite",
            1,
            [
                *map(setter, kinds),
                *map(setter_n, kinds),
                *map(getter, (p, p, d, i)),
                *map(getter_n, (p, p, d, i)),
                function(i, p, s)(lambda handle, name: self._violation(f"reset {name}")),
                function(i, p, s, c.POINTER(i))(self._dimension),
            ],
        )
        self._suite(
            "OfxImageEffectSuite",
            1,
            [
                function(i, p, c.POINTER(p))(self._effect_properties),
                function(i, p, c.POINTER(p))(self._parameter_set),
                function(i, p, s, c.POINTER(p))(self._clip_define),
                function(i, p, s, c.POINTER(p), c.POINTER(p))(self._clip_handle),
                function(i, p, c.POINTER(p))(lambda clip, out: self._give(out, self._objects[clip][1].properties.handle)),
                function(i, p, d, p, c.POINTER(p))(self._clip_image),
                function(i, p)(self._release_image),
                function(i, p, d, p)(lambda *_: self._violation("clipGetRegionOfDefinition")),
                function(i, p)(lambda effect: int(self._objects[effect].aborted.is_set())),
                *[function(i, p)(lambda *_: FAILED) for _ in range(4)],
            ],
        )
        self._suite(
            "OfxParameterSuite",
            1,
            [
                function(i, p, s, s, c.POINTER(p))(self._param_define),
                function(i, p, s, c.POINTER(p), c.POINTER(p))(self._param_handle),
                function(i, p, c.POINTER(p))(lambda *_: FAILED),
                function(i, p, c.POINTER(p))(lambda *_: FAILED),
                # Variadic: pointers, integers and doubles arrive where these say; on Windows doubles among the integers.
                function(i, p, p)(self._param_get),
                *[function(i, p)(lambda *_: FAILED) for _ in range(3)],
                function(i, p, c.c_int64, d)(self._param_set),
                *[function(i, p)(lambda *_: FAILED) for _ in range(9)],
            ],
        )
        for version in self.mode.message_versions:
            self._suite(
                "OfxMessageSuite",
                version,
                [
                    function(i, p, s, s, s, s)(self._message),
                    function(i, p, s, s, s, s)(self._message),
                    function(i, p)(lambda effect: self._message(effect, b"", b"", b"", b"")),
                ],
            )
        for version in self.mode.progress_versions:
            start = function(i, p, s, s)(self._progress_start) if version == 2 else function(i, p, s)(self._progress_start)
            self._suite(
                "OfxProgressSuite",
                version,
                [start, function(i, p, d)(self._progress_update), function(i, p)(lambda *_: OK)],
            )

    def _violation(self, text: str) -> int:
        self.violations.append(text)
        return FAILED

    def _give(self, out: Any, handle: int) -> int:
        if out:
            out[0] = handle
        return OK

    def _properties(self, handle: int) -> Properties | None:
        found = self._objects.get(handle)
        if not isinstance(found, Properties):
            self._violation(f"{handle} is no property set")
            return None
        return found

    def _set(self, handle: int, name: str, index: int, value: Any) -> int:
        found = self._properties(handle)
        if found is None:
            return BAD_HANDLE
        if name not in KNOWN:
            self._violation(f"unknown property {name} is set")
            return ERR_UNKNOWN
        values = found.values.setdefault(name, [])
        if index > len(values):
            self._violation(f"{name}[{index}] is set, which leaves a gap")
            return BAD_INDEX
        value = value.decode() if isinstance(value, bytes) else value
        values[index : index + 1] = [value]
        return OK

    def _get(self, handle: int, name: str, index: int, out: Any, at: int) -> int:
        found = self._properties(handle)
        if found is None:
            return BAD_HANDLE
        if name not in found.values:
            if name not in KNOWN | VENDOR:
                self._violation(f"unknown property {name} is read")
            return ERR_UNKNOWN
        if index >= len(found.values[name]):
            return BAD_INDEX
        value = found.values[name][index]
        if value is not None:
            out[at] = found.text_pointer(name, index) if isinstance(value, str) else value
        return OK

    def _dimension(self, handle: int, name: bytes, out: Any) -> int:
        found = self._properties(handle)
        if found is None or name.decode() not in found.values:
            return ERR_UNKNOWN
        out[0] = len(found.values[name.decode()])
        return OK

    def _effect_properties(self, effect: int, out: Any) -> int:
        return self._give(out, self._objects[effect].properties.handle) if effect in self._objects else BAD_HANDLE

    def _parameter_set(self, effect: int, out: Any) -> int:
        return self._give(out, effect)

    def _clip_define(self, effect: int, name: bytes, out: Any) -> int:
        clip = self._objects[effect].clips[name.decode()] = Properties(self, OfxPropName=name.decode())
        return self._give(out, clip.handle)

    def _clip_handle(self, effect: int, name: bytes, out: Any, properties: Any) -> int:
        clip = self._objects[effect].clips.get(name.decode())
        if clip is None:
            return self._violation(f"there is no clip {name!r}")
        self._give(properties, clip.properties.handle)
        return self._give(out, clip.handle)

    def _clip_image(self, handle: int, time: float, _region: int | None, out: Any) -> int:
        instance, clip = self._objects[handle]
        if clip.name == "Output":
            image = instance.outputs[threading.get_ident()]
        else:
            pixels = clip.picture(time)
            if pixels is None:
                return FAILED
            image = HostImage(self, *pixels.shape[:2], instance.layout, pixels[..., : instance.layout.channels])
        with self._lock:
            self.open_images[image.properties.handle] = image
        return self._give(out, image.properties.handle)

    def _release_image(self, handle: int) -> int:
        with self._lock:
            image = self.open_images.pop(handle, None)
        if image is None:
            return self._violation("an image was released that was not open")
        image.check()
        return OK

    def _param_define(self, effect: int, kind: bytes, name: bytes, out: Any) -> int:
        one = Parameter(kind.decode(), name.decode(), Properties(self))
        one.properties.set("OfxParamPropType", one.type)
        if one.name in self._objects[effect].parameters:
            return self._violation(f"parameter {one.name} is defined twice")
        if one.type in self.mode.skipped_types:
            return ERR_UNKNOWN
        self._objects[effect].parameters[one.name] = one
        return self._give(out, one.properties.handle)

    def _param_handle(self, effect: int, name: bytes, out: Any, properties: Any) -> int:
        one = self._objects[effect].parameters.get(name.decode())
        if one is None or (self.mode.skips_secret and one.properties.get("OfxParamPropSecret")):
            return ERR_UNKNOWN
        self._give(properties, one.properties.handle)
        return self._give(out, one.handle)

    def _param_get(self, handle: int, out: int) -> int:
        _, one = self._objects[handle]
        if one.type == "OfxParamTypeDouble":
            c.cast(out, c.POINTER(c.c_double))[0] = one.value
        elif one.type == "OfxParamTypeString":
            one.text = c.c_char_p(one.value.encode())
            c.cast(out, c.POINTER(c.c_void_p))[0] = c.cast(one.text, c.c_void_p).value
        else:
            c.cast(out, c.POINTER(c.c_int))[0] = one.value
        return OK

    def _param_set(self, handle: int, whole: int, real: float) -> int:
        _, one = self._objects[handle]
        if threading.current_thread() is not threading.main_thread():
            self._violation(f"{one.name} was set outside the main thread")
        if one.type == "OfxParamTypeDouble":
            one.value = struct.unpack("d", struct.pack("q", whole))[0] if sys.platform == "win32" else real
        elif one.type == "OfxParamTypeString":
            one.value = c.string_at(whole).decode()
        else:
            one.value = c.c_int(whole).value
        return OK

    def _message(self, effect: int, _kind: bytes, _id: bytes, form: bytes, text: bytes) -> int:
        assert form in (b"%s", b"")
        self._objects[effect].messages.append(text.decode())
        return OK

    def _progress_start(self, effect: int, *_: Any) -> int:
        self._objects[effect].progress.clear()
        return OK

    def _progress_update(self, effect: int, fraction: float) -> int:
        instance = self._objects[effect]
        instance.progress.append(fraction)
        after = instance.cancel_progress_after
        return REPLY_NO if after is not None and len(instance.progress) > after else OK
