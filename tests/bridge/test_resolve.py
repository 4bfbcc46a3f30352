# SPDX-License-Identifier: Apache-2.0
"""The Resolve scripts against a fake Resolve with the real one's quirks: only additions, every write read back."""

import ast
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from host_bridge import resolve as scripts
from host_bridge import resolve_cli
from tests.fakes.resolve import Resolve

PROGRAM = """
import json, sys
arguments = sys.argv[1:]
json.dump(arguments, open({log!r}, "a")); open({log!r}, "a").write("\\n")
if "engine" in arguments:
    print(json.dumps({{"type": "result", "state": "idle"}})); sys.exit(0)
if "broken" in arguments[1]:
    print(json.dumps({{"type": "error", "code": "media-broken", "message": "Frame 7 is broken.", "hint": "Copy it again."}})); sys.exit(4)
print("not json")
for percent in (0, 5, 50, 100):
    print(json.dumps({{"type": "progress", "stage": "render", "fraction": percent / 100}}))
output = arguments[arguments.index("-o") + 1]
open(output, "w").close()
print(json.dumps({{"type": "result", "output": output}}))
"""


def test_images_are_what_the_engine_reads_as_sequences():
    from vs3r_engine.media.edit import IMAGE_SUFFIXES
    from vs3r_engine.media.sequence import DECODERS

    assert set(scripts.IMAGES) == IMAGE_SUFFIXES == set(DECODERS)


@pytest.fixture
def host():
    return Resolve()


@pytest.fixture
def program(tmp_path):
    """A `vs3r` that renders empty files and logs how it was run."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(log=str(tmp_path / "log")))
    return [sys.executable, str(script)]


def runs(tmp_path) -> list[list[str]]:
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] if (tmp_path / "log").exists() else []


def stabilized(host, program):
    said = []
    return scripts.stabilize_selected(host, program, (), said.append), said


def test_every_selected_clip_gets_its_result_as_the_selected_take(host, program, tmp_path):
    first, second = host.add(str(tmp_path / "a ü.mov"), 100, 50), host.add(str(tmp_path / "b.mov"), 0, 990)
    (done, failed), said = stabilized(host, program)
    assert (done, failed) == (2, 0), said
    assert [arguments[arguments.index("--range") + 1] for arguments in runs(tmp_path)] == ["76..174", "0..1000"], (
        "handles, within the media"
    )
    take = first.takes[1]
    assert (take["startFrame"], take["endFrame"]) == (24, 73), "the same frames as the original shows"
    assert os.path.basename(take["mediaPoolItem"].properties["File Path"]) == "a_ü_VS3R_76-174.mov"
    assert first.selected == second.selected == 2 and first.takes[0]["mediaPoolItem"] is first.media
    assert take["mediaPoolItem"].third_party["VS3R range"] == "100..150"
    assert host.opened is host.dailies, "the editor's bin stays open"
    assert [folder.name for folder in host.root.folders] == ["Dailies", "VS3R"]
    assert {write[0] for write in host.writes} <= {"AddSubFolder", "ImportMedia", "AddTake", "SelectTakeByIndex"}, "only additions"
    assert host.writes.count(("AddSubFolder", "VS3R")) == 1


def test_an_image_sequence_is_stabilized_at_the_rate_that_resolve_gives_it(program, tmp_path):
    host = Resolve(rate="29.97 DF")
    host.add(str(tmp_path / "a.[0001-1000].EXR"), 100, 50, fps="29.97")
    host.add(str(tmp_path / "b.mov"), 0, 990, fps="29.97")
    stabilized(host, program)
    images, movie = runs(tmp_path)
    assert images[images.index("--fps") + 1] == "30000/1001"
    assert "--fps" not in movie


def test_running_twice_adds_another_version_and_overwrites_nothing(host, program, tmp_path):
    item = host.add(str(tmp_path / "a.mov"), 100, 50)
    stabilized(host, program)
    stabilized(host, program)
    assert [os.path.basename(take["mediaPoolItem"].properties["File Path"]) for take in item.takes] == [
        "a.mov",
        "a_VS3R_76-174.mov",
        "a_VS3R_76-174_2.mov",
    ]
    assert [arguments[1] for arguments in runs(tmp_path)] == [str(tmp_path / "a.mov")] * 2, "never the stabilized take"
    assert item.selected == 3


def test_what_cannot_be_stabilized_again_shows_what_it_showed(host, program, tmp_path):
    item = host.add(str(tmp_path / "a.mov"), 100, 50)
    stabilized(host, program)
    host.damage.add("refuses takes")
    assert stabilized(host, program)[0] == (0, 1) and item.selected == 2
    host.damage.clear()
    item.media, item.left, item.takes, item.selected = item.GetMediaPoolItem(), 24, [], 0  # its take was finalized
    (done, failed), said = stabilized(host, program)
    assert (done, failed) == (0, 1) and "media that VS3R made" in said[-1]


def test_names_that_macos_spells_its_way_are_the_same(host, program, tmp_path):
    item = host.add(str(tmp_path / "Überflug.mov"), 100, 50)
    host.damage.add("spells as macOS")
    (done, failed), said = stabilized(host, program)
    assert (done, failed, item.selected) == (1, 0, 2), said


def test_source_frames_of_another_rate_are_counted_exactly(program, tmp_path):
    host = Resolve(rate="25")
    item = host.add(str(tmp_path / "a.mov"), 10, 20, fps="50", source=(20, 60))
    assert scripts.use_of(host, item)[1:3] == (20, 60)
    host = Resolve(rate="29.97 DF")
    item = host.add(str(tmp_path / "a.mov"), 10, 20, fps="59.94", source=(20, 60))
    assert scripts.use_of(host, item)[1:3] == (20, 60)
    item = Resolve(rate="25").add(str(tmp_path / "a.mov"), 25, 26, fps="24", source=(24, 49))
    assert scripts.use_of(item.host, item)[1:3] == (24, 49), "a frame that is shown in part is shown"
    assert [scripts.rate_of(text) for text in ("23.976", "29.97 DF", "24", "59.94", 25.0, "23,976")] == [
        Fraction(24000, 1001),
        Fraction(30000, 1001),
        Fraction(24),
        Fraction(60000, 1001),
        Fraction(25),
        Fraction(24000, 1001),
    ]


@pytest.mark.parametrize(
    ("what", "change", "code"),
    [
        ("twice as fast", {"source": (100, 200)}, "retimed"),
        ("slightly slower", {"source": (100, 145)}, "retimed"),
        ("reversed", {"source": (150, 100)}, "retimed"),
        ("unknown speed", {"source": (0, 0)}, "frames-unclear"),
        ("another in point", {"source": (107, 157)}, "frames-unclear"),
        ("past its media", {"frames": 120}, "frames-unclear"),
        ("no rate", {"fps": ""}, "frames-unclear"),
        ("no in point", {"left": None}, "frames-unclear"),
    ],
)
def test_a_clip_whose_frames_are_not_certain_is_refused(host, tmp_path, what, change, code):
    item = host.add(str(tmp_path / "a.mov"), **{"left": 100, "duration": 50, **change})
    with pytest.raises(scripts.ResolveError) as caught:
        scripts.use_of(host, item)
    assert caught.value.code == code, what


def test_a_clip_may_end_with_its_media(host, tmp_path):
    assert scripts.use_of(host, host.add(str(tmp_path / "a.mov"), 950, 50))[1:4] == (950, 1000, 1000)


def test_selected_sound_is_passed_over(host, tmp_path):
    picture, sound = host.add(str(tmp_path / "a.mov"), 0, 50), host.add(str(tmp_path / "a.mov"), 0, 50)
    sound.GetTrackTypeAndIndex = lambda: ["audio", 1]
    assert scripts.selected_items(host)[2] == [picture]


def test_newer_resolves_say_the_speed_themselves(host, tmp_path):
    item = host.add(str(tmp_path / "a.mov"), 100, 50, source=(0, 0))
    item.source = (100, 150)
    item.GetSpeed = lambda: {"Percentage": 50.0}
    with pytest.raises(scripts.ResolveError, match="speed change"):
        scripts.use_of(host, item)
    item.GetSpeed = lambda: {"Percentage": 100.0}
    assert scripts.use_of(host, item)[1:3] == (100, 150)


def test_titles_are_refused_and_a_broken_clip_does_not_stop_the_others(host, program, tmp_path):
    host.add("", 0, 50, name="title")
    host.add(str(tmp_path / "broken.mov"), 100, 50, name="bad")
    good = host.add(str(tmp_path / "a.mov"), 100, 50, name="good")
    (done, failed), said = stabilized(host, program)
    assert (done, failed) == (1, 2) and good.selected == 2
    assert any("title has no media file" in line for line in said) and any(
        "bad: Frame 7 is broken. Copy it again." in line for line in said
    )


@pytest.mark.parametrize(
    "damage", ["refuses takes", "drops takes", "shifts takes", "keeps its take", "take changes the length", "imports nothing"]
)
def test_what_resolve_did_not_do_is_noticed_and_the_original_stays_shown(host, program, tmp_path, damage):
    item = host.add(str(tmp_path / "a.mov"), 100, 50)
    host.damage.add(damage)
    (done, failed), said = stabilized(host, program)
    assert (done, failed) == (0, 1), said
    assert item.selected in (0, 1) and (not item.takes or item.takes[0]["mediaPoolItem"] is item.media)


def test_without_a_selection_the_clip_under_the_playhead_is_meant(host, tmp_path):
    item = host.add(str(tmp_path / "a.mov"), 100, 50)
    host.selection = []
    assert scripts.selected_items(host)[2] == [item]
    host.GetSelectedClips = None  # Resolve before 21
    assert scripts.selected_items(host)[2] == [item]
    with pytest.raises(scripts.ResolveError, match="No timeline"):
        scripts.selected_items(Resolve())


def test_compare_switches_to_the_original_and_back(host, program, tmp_path):
    item, other = host.add(str(tmp_path / "a.mov"), 100, 50), host.add(str(tmp_path / "b.mov"), 0, 20, name="plain")
    host.selection = [item]
    stabilized(host, program)
    host.selection = [item, other]
    said = []
    assert scripts.compare(host, said.append) == 1 and item.selected == 1
    assert scripts.compare(host, said.append) == 1 and item.selected == 2
    assert "plain has no stabilized take." in said
    host.selection = [item]
    stabilized(host, program)
    assert [scripts.compare(host, said.append) and item.selected for _ in range(2)] == [1, 3], "of several, the newest"
    item.takes.pop()
    host.selection = [item, other]
    del item.takes[0]  # as the editor can, in the take selector
    item.selected = 1
    assert scripts.compare(host, said.append) == 0 and "shot has no original take any more." in said


def test_what_a_program_says_in_another_encoding_does_not_hide_its_result():
    says = 'import sys; sys.stdout.buffer.write(b\'caf\\xe9\\n{"type": "result"}\\n\')'
    assert scripts.run([sys.executable, "-c", says]) == {"type": "result"}


def test_resolves_own_python_settings_do_not_reach_the_program(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/opt/resolve")
    monkeypatch.setenv("VS3R_CACHE_DIR", "/kept")
    says = 'import json, os; print(json.dumps({"type": "result", "has": [n in os.environ for n in ("PYTHONPATH", "VS3R_CACHE_DIR")]}))'
    assert scripts.run([sys.executable, "-c", says])["has"] == [False, True]


def test_resolve_is_what_it_hands_its_scripts_else_what_its_module_reaches(host, tmp_path, monkeypatch):
    assert scripts.connect({"resolve": host}) is host
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("RESOLVE_SCRIPT_API", str(tmp_path))
    (tmp_path / "Modules").mkdir()
    module = tmp_path / "Modules" / "DaVinciResolveScript.py"
    module.write_text("def scriptapp(name):\n    return answer if name == 'Resolve' else None\nanswer = None\n")
    try:
        with pytest.raises(scripts.ResolveError, match="does not answer"):
            scripts.connect()
        sys.modules["DaVinciResolveScript"].answer = host
        assert scripts.connect({"resolve": None}) is host
    finally:
        sys.modules.pop("DaVinciResolveScript", None)


def test_a_missing_program_and_a_silent_end_are_told_apart(tmp_path):
    with pytest.raises(scripts.ResolveError) as caught:
        scripts.run([str(tmp_path / "nothing")])
    assert caught.value.code == "vs3r-missing"
    with pytest.raises(scripts.ResolveError) as caught:
        scripts.run([sys.executable, "-c", "import sys; sys.exit(3)"])
    assert caught.value.code == "vs3r-failed"


@pytest.mark.parametrize("path", [Path(scripts.__file__), *resolve_cli.menu_scripts()], ids=lambda path: path.name)
def test_what_runs_inside_resolve_is_standard_library_and_old_python(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} | {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) <= {"DaVinciResolveScript"}


def command(*arguments: str):
    app = typer.Typer()
    app.add_typer(resolve_cli.resolve_app, name="resolve")
    return CliRunner().invoke(app, ["resolve", *arguments])


def test_installed_menu_scripts_run_in_a_bare_python_and_can_be_removed(tmp_path):
    folder = tmp_path / "Scripts"
    assert command("install", "--folder", str(folder)).exit_code == 0
    installed = sorted((folder / "Utility" / "VS3R").iterdir())
    assert [path.name for path in installed] == ["VS3R Compare.py", "VS3R Stabilize Selected.py", "VS3R Status.py"]
    assert "current" in command("status", "--folder", str(folder)).stdout
    for path in installed:  # outside Resolve, without its module: the script says so instead of failing
        ended = subprocess.run([sys.executable, "-I", "-S", str(path)], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0 and "scripting module was not found" in ended.stdout, ended.stderr
    installed[0].write_text("old")
    assert json.loads(command("status", "--json", "--folder", str(folder)).stdout)["scripts"] == "outdated"
    assert command("install", "--remove", "--folder", str(folder)).exit_code == 0
    assert not (folder / "Utility" / "VS3R").exists()


def test_stabilizing_from_outside_needs_a_resolve_that_answers(monkeypatch, host, program, tmp_path):
    monkeypatch.setattr(resolve_cli, "program", lambda: program)
    assert command("stabilize").exception.code == "resolve-unreachable"
    host.add(str(tmp_path / "a.mov"), 100, 50)
    monkeypatch.setattr(scripts, "connect", lambda: host)
    result = command("stabilize", "--preset", "glide", "--set", "path.strength=80", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == {"type": "result", "stabilized": 1, "failed": 0}
    assert runs(tmp_path)[0][-4:] == ["--preset", "glide", "--set", "path.strength=80"]
