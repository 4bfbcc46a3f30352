# SPDX-License-Identifier: Apache-2.0
"""The bundle as a file: what it exports, what it needs, what hosts are told, that nothing ties it to a place."""

import ctypes
import plistlib
import re
import shutil
import subprocess
import sys

import pytest

from plugin.openfx import generate
from tests.plugin.ofx_host import DEPTHS, Host
from vs3r_engine import __version__
from vs3r_engine.settings import DESCRIPTORS, PRESETS

ENTRY_POINTS = {"OfxGetNumberOfPlugins", "OfxGetPlugin", "OfxSetHost"}
SYSTEM = {"linux-vdso.so.1", "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"}
NEWEST_GLIBC_HERE = (2, 36)
"""A plug-in built with this compiler runs where glibc is this new; the release's asks for less."""


def output(*command):
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is missing")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_exactly_the_three_entry_points_are_exported(shipped_library):
    assert set(re.findall(r" [A-Z] (\S+)", output("nm", "-D", "--defined-only", str(shipped_library)))) == ENTRY_POINTS


def test_nothing_but_the_systems_own_libraries_is_needed(shipped_library):
    dynamic = output("readelf", "-d", str(shipped_library))
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)) <= SYSTEM
    assert "RUNPATH" not in dynamic and "RPATH" not in dynamic


def test_the_c_library_asked_for_is_no_newer_than_stated(shipped_library):
    versions = {tuple(map(int, text.split("."))) for text in re.findall(r"GLIBC_([0-9.]+)", output("objdump", "-T", str(shipped_library)))}
    assert max(versions)[:2] <= NEWEST_GLIBC_HERE


def test_the_generated_settings_are_current():
    assert generate.HEADER.read_text() == generate.header(), "run: python plugin/openfx/generate.py"


def test_the_bundle_works_from_any_place(shipped, shipped_library, tmp_path):
    moved = tmp_path / "some where, Grüße, 日本" / "VS3R.ofx.bundle"
    shutil.copytree(shipped, moved)
    plist = plistlib.loads((moved / "Contents" / "Info.plist").read_bytes())
    assert plist["CFBundleExecutable"] == "VS3R.ofx" and plist["CFBundlePackageType"] == "BNDL" and plist["CFBundleVersion"] == __version__
    assert (moved / "Contents" / "Resources" / "org.vs3r.Stabilize.svg").exists()
    code = (
        "import sys; from pathlib import Path; from tests.plugin.ofx_host import Host, Instance\n"
        "with Host(Path(sys.argv[1])) as host: assert Instance(host).destroy() == 0\n"
        "print(host.plugin.identifier.decode())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(moved / shipped_library.relative_to(shipped))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "org.vs3r.Stabilize"


def test_only_one_plugin_is_there(library):
    loaded = ctypes.CDLL(str(library))
    loaded.OfxGetPlugin.restype = ctypes.c_void_p
    assert loaded.OfxGetNumberOfPlugins() == 1 and loaded.OfxGetPlugin(0) and not loaded.OfxGetPlugin(1) and not loaded.OfxGetPlugin(-1)


def test_what_hosts_are_told(spec_host):
    plugin, described = spec_host.plugin, spec_host.descriptor.properties.values
    assert (plugin.api, plugin.api_version, plugin.identifier) == (b"OfxImageEffectPluginAPI", 1, b"org.vs3r.Stabilize")
    assert f"{plugin.major}.{plugin.minor}" == ".".join(__version__.split(".")[:2])
    assert described["OfxPropLabel"] == ["VS3R Stabilize"] and described["OfxImageEffectPluginPropGrouping"] == ["VS3R"]
    assert set(described["OfxImageEffectPropSupportedPixelDepths"]) == set(DEPTHS)
    assert described["OfxImageEffectPluginRenderThreadSafety"] == ["OfxImageEffectRenderFullySafe"]
    assert described["OfxImageEffectPropSupportsTiles"] == [0]
    assert set(spec_host.descriptor.clips) == {"Source", "Output"}


def test_resolve_is_never_asked_for_other_frames(resolve_host):
    assert resolve_host.descriptor.properties.values["OfxImageEffectPropTemporalClipAccess"] == [0]


CONTROLS = ["status", "analyze", "preset", "smoothness", "strength", "framing", "quality", "view"]


def test_the_controls_are_the_engines_settings(spec_host):
    described = spec_host.descriptor.parameters
    seen = [one for one in described.values() if not one.properties.get("OfxParamPropSecret") and one.type != "OfxParamTypeGroup"]
    assert [one.name for one in seen if one.properties.get("OfxParamPropParent") is None] == CONTROLS
    by_key = {one.key: one for one in DESCRIPTORS}
    for name, key in {
        "smoothness": "path.smoothness",
        "strength": "path.strength",
        "framing": "frame.framing",
        "quality": "fill.quality",
    }.items():
        properties, declared = described[name].properties, by_key[key]
        assert properties.get("OfxPropLabel") == declared.label and properties.get("OfxParamPropHint") == declared.help
        if declared.choices:
            assert [text.lower().replace(" ", "-") for text in properties.values["OfxParamPropChoiceOption"]] == list(declared.choices)
            assert declared.choices[properties.get("OfxParamPropDefault")] == declared.default
        else:
            assert [properties.get(f"OfxParamProp{which}") for which in ("Default", "Min", "Max")] == [
                declared.default,
                declared.low,
                declared.high,
            ]
        assert properties.get("OfxParamPropAnimates") == 0
    assert [text.lower() for text in described["preset"].properties.values["OfxParamPropChoiceOption"]] == list(PRESETS)
    status = described["status"].properties
    assert (status.get("OfxParamPropAnimates"), status.get("OfxParamPropPersistant")) == (0, 0)


def test_unknown_actions_and_handles_are_turned_down(library):
    with Host(library) as host:
        assert host.act("OfxActionNobodyKnows", host.descriptor.handle) == 14
        assert host.act("OfxImageEffectActionRender", None) == 9
        assert host.act("OfxImageEffectActionRender", host.descriptor.handle) == 9
        assert host.act("OfxActionInstanceChanged", host.descriptor.handle) == 9
    with Host(library) as host:
        assert host.act("OfxActionLoad", None) == 0 and host.act("OfxActionUnload", None) == 0 and host.act("OfxActionLoad", None) == 0
