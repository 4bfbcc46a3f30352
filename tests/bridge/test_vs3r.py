# SPDX-License-Identifier: Apache-2.0
"""The program `vs3r` as a person or a script meets it, against a fake engine that already runs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from host_bridge import cli
from host_bridge.progress import LineDisplay, display
from tests.bridge.numbered_media import write_images
from tests.fakes.engine import make_media
from tests.fakes.engine_process import ROOT, EngineProcess, wait_until


@pytest.fixture(scope="module")
def engine():
    with EngineProcess() as engine:
        yield engine


@pytest.fixture
def environment(engine):
    return {**os.environ, "VS3R_RUNTIME_DIR": str(engine.directory), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def vs3r(environment, tmp_path):
    def run(*words, check=None):
        done = subprocess.run(
            [sys.executable, "-m", "host_bridge", *map(str, words)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_a_pipes_encoding_lacks_are_told_all_the_same(environment, tmp_path, encoding):
    path = make_media(tmp_path / "é日本.json")
    output = tmp_path / "é日本.out"
    for words in (["--json"], ["-f"]):
        done = subprocess.run(
            [sys.executable, "-m", "host_bridge", "stabilize", path, "-o", str(output), *words],
            env=environment | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        if "--json" in words:
            assert json.loads(done.stdout.splitlines()[-1])["output"] == str(output)
        else:
            assert done.stdout.strip() == str(output).encode(encoding, "backslashreplace")


def test_help_answers_in_under_half_a_second(vs3r):
    times_s = []
    for _ in range(3):
        begun = os.times()
        assert "stabilize" in vs3r("--help", check=0).stdout
        ended = os.times()
        times_s.append(ended.children_user + ended.children_system - begun.children_user - begun.children_system)
    assert min(times_s) < 0.5, times_s


def test_the_result_alone_is_on_standard_output(vs3r, tmp_path):
    # Slow enough that a busy machine sees it at work: two seconds were not once in some forty runs.
    make_media(tmp_path / "clip.json", step_s=0.06)
    done = vs3r("stabilize", "clip.json", check=0)
    assert done.stdout == f"{tmp_path}/clip_vs3r.mp4\n"
    assert "render" in done.stderr and "12 % moving" in done.stderr
    assert (tmp_path / "clip_vs3r.mp4").read_text().count("\n") == 100


def test_json_is_one_object_a_line_ending_in_the_result(vs3r, tmp_path):
    make_media(tmp_path / "clip.json", step_s=0.003)
    events = [
        json.loads(line)
        for line in vs3r("stabilize", "clip.json", "-o", "out.json", "--range", "10..50", "--json", check=0).stdout.splitlines()
    ]
    assert {event["type"] for event in events} == {"progress", "result"}
    assert events[-1]["type"] == "result" and events[-1]["output"] == str(tmp_path / "out.json") and events[-1]["render_range"] == [10, 50]
    fractions = [event["fraction"] for event in events[:-1]]
    assert fractions == sorted(fractions) and all(0 <= fraction <= 1 for fraction in fractions)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["stabilize"], 2, "IN"),
        (["stabilize", "clip.json", "--nonsense"], 2, "nonsense"),
        (["stabilize", "clip.json", "--set", "path.smothness=1"], 2, "[unknown-setting]"),
        (["stabilize", "clip.json", "--set", "path.smoothness"], 2, "[bad-setting]"),
        (["stabilize", "clip.json", "--preset", "wobbly"], 2, "[unknown-preset]"),
        (["stabilize", "missing.json"], 4, "[media-missing]"),
        (["stabilize", "clip.json", "--range", "90..120"], 4, "[range-past-media]"),
        (["stabilize", "clip.json", "--range", "later"], 4, "[bad-range]"),
        (["stabilize", "clip.json", "--fps", "0"], 4, "[bad-rate]"),
        (["stabilize", "clip.json", "--fps", "abc", "--engine", "/no/such/file"], 4, "[bad-rate]"),
        (["stabilize", "clip.json", "--fps", "25"], 4, "[rate-of-file]"),
        (["stabilize", "clip.json", "--fps", "25", "--dry-run"], 4, "[rate-of-file]"),
        (["analyze", "clip.json", "--fps", "1/0"], 4, "[bad-rate]"),
        (["analyze", "clip.json", "--fps", "25"], 4, "[rate-of-file]"),
        (["stabilize", "clip.json", "-o", "clip.json"], 4, "[output-is-source]"),
        (["stabilize", "clip.json", "-o", "there.json"], 4, "[output-exists]"),
        (["stabilize", "broken.json"], 1, "[engine-fault]"),
        (["jobs", "cancel", "nobody"], 4, "[unknown-job]"),
        (["engine", "status", "--engine", "/no/such/file"], 0, ""),
        (["stabilize", "clip.json", "-o", "x.json", "--engine", "/no/such/file"], 3, "[engine-absent]"),
    ],
)
def test_exit_codes_and_messages(vs3r, tmp_path, words, code, message):
    make_media(tmp_path / "clip.json")
    make_media(tmp_path / "broken.json", fail_at=5)
    (tmp_path / "there.json").write_text("precious")
    done = vs3r(*words, check=code)
    assert message in done.stderr
    assert (tmp_path / "there.json").read_text() == "precious"
    if code:
        assert "Traceback" not in done.stderr and done.stdout == ""


def test_errors_are_json_too(vs3r):
    event = json.loads(vs3r("stabilize", "missing.json", "--json", check=4).stdout.splitlines()[-1])
    assert event["type"] == "error" and event["code"] == "media-missing" and event["message"]


def test_force_replaces_the_output(vs3r, tmp_path):
    make_media(tmp_path / "clip.json", frames=3)
    (tmp_path / "out.json").write_text("old")
    vs3r("stabilize", "clip.json", "-o", "out.json", "-f", check=0)
    assert (tmp_path / "out.json").read_text().startswith("frame 0")


def test_a_folder_as_output_takes_the_result_under_its_usual_name(vs3r, tmp_path):
    make_media(tmp_path / "clip.json", frames=3)
    (tmp_path / "results").mkdir()
    assert vs3r("stabilize", "clip.json", "-o", "results/", check=0).stdout == f"{tmp_path}/results/clip_vs3r.mp4\n"
    assert "[output-exists]" in vs3r("stabilize", "clip.json", "-o", "results", check=4).stderr
    vs3r("stabilize", "clip.json", "-o", "new/folder/", "--dry-run", check=0)
    assert not (tmp_path / "new").exists()
    assert vs3r("stabilize", "clip.json", "-o", "new/folder/", check=0).stdout == f"{tmp_path}/new/folder/clip_vs3r.mp4\n"
    assert "[output-unwritable]" in vs3r("stabilize", "clip.json", "-o", "clip.json/", check=4).stderr


def test_several_clips_each_have_their_result_and_one_that_fails_stops_none(vs3r, tmp_path):
    for name, fail_at in (("a", None), ("b", 5), ("c", None)):
        make_media(tmp_path / f"{name}.json", frames=6, fail_at=fail_at)
    done = vs3r("stabilize", "a.json", "gone.json", "b.json", "c.json", check=4)  # the first failure's
    assert done.stdout == f"{tmp_path}/a_vs3r.mp4\n{tmp_path}/c_vs3r.mp4\n"
    assert "gone.json:\n" in done.stderr and "[media-missing]" in done.stderr and "[engine-fault]" in done.stderr
    assert "[output-exists]" in vs3r("stabilize", "b.json", "a.json", check=4).stderr
    (tmp_path / "results").mkdir()
    events = [json.loads(line) for line in vs3r("stabilize", "a.json", "c.json", "-o", "results", "--json", check=0).stdout.splitlines()]
    outputs = [event["output"] for event in events if event["type"] == "result"]
    assert outputs == [f"{tmp_path}/results/{name}_vs3r.mp4" for name in "ac"]


@pytest.mark.parametrize(
    ("words", "code"), [(["a.json", "-o", "one.json"], "output-is-no-folder"), (["b/c.json", "-o", "b"], "same-output")]
)
def test_several_clips_never_have_one_result(vs3r, tmp_path, words, code):
    (tmp_path / "b").mkdir()
    for name in ("a.json", "c.json", "b/c.json"):
        make_media(tmp_path / name, frames=2)
    assert f"[{code}]" in vs3r("stabilize", "c.json", *words, check=4).stderr
    assert not list(tmp_path.rglob("*_vs3r*"))


@pytest.mark.parametrize("name", ["title [id9].json", "50% done.json", "[2024] trip/x.json", "a b/c d.json", "new\nline.json", "é😀.json"])
def test_a_clip_of_any_name_has_its_result_beside_it(vs3r, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make_media(tmp_path / name, frames=1)
    assert vs3r("stabilize", name, check=0).stdout == f"{tmp_path}/{name[:-5]}_vs3r.mp4\n"


@pytest.mark.parametrize("name", ["in.%04d.json", "in.[0001-0010].json", "folder", "take.v2"])
def test_numbered_images_have_no_usual_name_of_a_result(vs3r, tmp_path, name):
    for folder in ("folder", "take.v2"):
        (tmp_path / folder).mkdir()
    assert "[no-output]" in vs3r("stabilize", name, check=4).stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_is_no_text_is_refused(environment, tmp_path):
    program = [sys.executable.encode(), b"-m", b"host_bridge", b"stabilize", b"a\xff.mov", b"-o", b"b.mov", b"--json"]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 4 and b"[bad-file-name]" in done.stderr and b"Traceback" not in done.stderr
    assert json.loads(done.stdout)["code"] == "bad-file-name"


def test_nobody_reading_is_no_fault_of_the_program(environment, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-m", "host_bridge", "stabilize", "missing.json", "--json"]
    done = subprocess.run(program, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_an_engine_of_another_version_is_announced(engine, environment, tmp_path):
    make_media(tmp_path / "clip.json", frames=1)
    folder = tmp_path / "run"
    folder.mkdir()
    connection = json.loads((engine.directory / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps(connection | {"version": "0.0.9"}))
    program = [sys.executable, "-m", "host_bridge", "stabilize", "clip.json"]
    done = subprocess.run(program, cwd=tmp_path, env={**environment, "VS3R_RUNTIME_DIR": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 0 and "The engine that runs is 0.0.9" in done.stderr, done.stderr


def test_compare_and_doctor_say_their_own_options(vs3r):
    assert "--no-metrics" in vs3r("compare", "--help", check=0).stdout and "--json" in vs3r("doctor", "--help", check=0).stdout
    said = vs3r("compare", "--no-metrics", "--", "-a.mp4", "-b.mp4", check=4).stderr
    assert "-a.mp4 does not exist" in said


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["stabilize", "clip.json"], "CONFIG"),
        (["presets", "save", "calm"], "CONFIG"),
        (["engine", "start"], "RUNTIME"),
        (["engine", "start"], "LOG"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_with_what_names_another(environment, tmp_path, words, kind):
    (tmp_path / "file").write_text("in the way")
    make_media(tmp_path / "clip.json", frames=1)
    own = {"VS3R_RUNTIME_DIR": str(tmp_path / "run")} if kind == "LOG" else {}
    unusable = {f"VS3R_{kind}_DIR": str(tmp_path / "file" / "x")}
    program = [sys.executable, "-m", "host_bridge", *words]
    done = subprocess.run(program, cwd=tmp_path, env={**environment, **own, **unusable}, capture_output=True, text=True)
    assert done.returncode == 3 and "Traceback" not in done.stderr and f"VS3R_{kind}_DIR" in done.stderr, done.stderr


def test_a_dry_run_says_what_would_happen_and_does_nothing(vs3r, tmp_path):
    make_media(tmp_path / "clip.json")
    done = vs3r("stabilize", "clip.json", "--range", "00:00:01:00..00:00:02:00", "--preset", "glide", "--dry-run", check=0)
    assert "frames 25..50 of 100" in done.stdout and "path.smoothness = 85.0" in done.stdout
    plan = json.loads(vs3r("stabilize", "clip.json", "--dry-run", "--json", check=0).stdout)
    assert plan["output"] == str(tmp_path / "clip_vs3r.mp4") and plan["frames"] == [0, 100]
    assert not (tmp_path / "clip_vs3r.mp4").exists()


def test_the_rate_of_an_image_sequence_can_be_named(vs3r, tmp_path):
    make_media(tmp_path / "images.json", sequence=True)
    words = ("stabilize", "images.json", "--fps", "29.97", "--range", "00:00:01:00..00:00:02:00", "--dry-run", "--json")
    plan = json.loads(vs3r(*words, check=0).stdout)
    assert plan["rate"] == "30000/1001" and plan["frames"] == [30, 60]
    vs3r("analyze", "images.json", "--fps", "29.97", check=0)


def test_images_become_a_movie_of_the_rate_named_and_a_movie_keeps_its_own(tmp_path):
    """With the real engine."""
    write_images(tmp_path, 5, 1)
    with EngineProcess(pipeline="vs3r_engine.pipeline") as engine:
        environment = {**os.environ, "VS3R_RUNTIME_DIR": str(engine.directory), "PYTHONPATH": str(ROOT)}

        def stabilize(*words):
            program = [sys.executable, "-m", "host_bridge", "stabilize", *words, "--set", "output.codec=h264"]
            return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

        done = stabilize("shot.%04d.png", "--fps", "25", "-o", "out.mp4")
        assert done.returncode == 0, done.stderr
        refused = stabilize("out.mp4", "--fps", "30", "-o", "again.mp4")
    with av.open(str(tmp_path / "out.mp4")) as movie:
        stream = movie.streams.video[0]
        assert [frame.pts * stream.time_base for frame in movie.decode(stream)] == [Fraction(i, 25) for i in range(5)]
    assert refused.returncode == 4 and "[rate-of-file]" in refused.stderr and not (tmp_path / "again.mp4").exists()


@pytest.fixture
def ctrl_c():
    """What a test run in the background has ignored, the programs that it starts would ignore, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_the_job_and_says_how_to_go_on(vs3r, environment, engine, tmp_path):
    make_media(tmp_path / "clip.json", step_s=0.1, frames=150)
    with subprocess.Popen(
        [sys.executable, "-m", "host_bridge", "stabilize", "clip.json", "--json"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        for line in running.stdout:
            event = json.loads(line)
            if event.get("stage") == "render" and event["done"] > 25:
                break
        begun_s = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, messages = running.communicate(timeout=30)
        assert running.returncode == 130 and "goes on from what is finished" in messages and time.monotonic() - begun_s < 10
    with engine.client() as client:
        assert next(job for job in client.jobs() if job.job_id == event["job_id"]).state == "cancelled"
    assert not (tmp_path / "clip_vs3r.mp4").exists()
    make_media(tmp_path / "clip.json", step_s=0.02, frames=150)
    first = next(
        json.loads(line)
        for line in vs3r("stabilize", "clip.json", "--json", check=0).stdout.splitlines()
        if json.loads(line).get("stage") == "render"
    )
    assert first["done"] > 20  # the finished chunk was not made again
    assert (tmp_path / "clip_vs3r.mp4").read_text().count("\n") == 150


def test_a_job_that_another_host_cancels_ends_as_one(vs3r, environment, tmp_path):
    make_media(tmp_path / "clip.json", step_s=0.1, frames=150)
    words = [sys.executable, "-m", "host_bridge", "stabilize", "clip.json", "--json"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        job_id = json.loads(running.stdout.readline())["job_id"]
        vs3r("jobs", "cancel", job_id, check=0)
        _, messages = running.communicate(timeout=30)
    assert running.returncode == 130 and f"{job_id} was cancelled" in messages and "Traceback" not in messages


def test_compare_hands_on_what_it_was_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "_engine_program", lambda *words: asked.append(words))
    cli.compare("-a.mov", "b.mov", "page.html", metrics=False, force=True)
    cli.compare("a.mov", "b.mov", None, metrics=True, force=False)
    assert asked == [("compare", "-o", "page.html", "--no-metrics", "-f", "--", "-a.mov", "b.mov"), ("compare", "--", "a.mov", "b.mov")]


def test_analyze_reports_what_it_found(vs3r, tmp_path):
    make_media(tmp_path / "clip.json")
    assert vs3r("analyze", "clip.json", check=0).stdout == "shake 2.9° rms\n"


def test_where_no_engine_runs_there_are_no_jobs(vs3r, tmp_path):
    done = vs3r("jobs", "--engine", tmp_path / "none.json", check=0)
    assert (done.stdout, done.stderr) == ("", "No engine runs.\n")


def test_jobs_are_listed_newest_first(vs3r, tmp_path):
    make_media(tmp_path / "clip.json", frames=2)
    vs3r("stabilize", "clip.json", "-o", "listed.json", check=0)
    assert vs3r("jobs", check=0).stdout.splitlines()[0].endswith("listed.json")
    assert json.loads(vs3r("jobs", "--json", check=0).stdout.splitlines()[0])["state"] == "done"


def test_the_engine_is_described(vs3r, engine):
    status = json.loads(vs3r("engine", "status", "--json", check=0).stdout)
    assert status["pid"] == engine.process.pid and status["state"] in ("idle", "busy")
    assert vs3r("engine", "start", check=0).stdout.strip() == engine.connection.request
    assert f"process {engine.process.pid}" in vs3r("engine", "status", check=0).stdout


def test_presets_are_saved_shown_and_used(vs3r, tmp_path):
    make_media(tmp_path / "clip.json", frames=1)
    assert vs3r("presets", "list", check=0).stdout.split() == ["natural", "glide", "locked", "subtle"]
    vs3r("presets", "save", "calm", "--preset", "glide", "--set", "path.strength=90", check=0)
    assert "calm (yours)" in vs3r("presets", "list", check=0).stdout
    values = json.loads(vs3r("presets", "show", "calm", "--json", check=0).stdout)
    assert values["path.smoothness"] == 85.0 and values["path.strength"] == 90.0
    assert "* path.strength" in vs3r("presets", "show", "calm", check=0).stdout
    assert "[preset-exists]" in vs3r("presets", "save", "calm", check=4).stderr
    for name in ("../x", "natural"):
        assert "[bad-name]" in vs3r("presets", "save", name, "-f", check=4).stderr
    vs3r("stabilize", "clip.json", "--preset", "calm", check=0)
    assert (tmp_path / "clip_vs3r.mp4").read_text() == "frame 0 smoothness 85.0\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("lens.json", "{here}/lens.json"), ("~/lens.json", "{home}/lens.json"), ("/a/lens.json", "/a/lens.json")],
)
def test_a_file_in_a_setting_is_the_users_wherever_the_engine_works(vs3r, tmp_path, given, meant):
    make_media(tmp_path / "clip.json")
    meant = meant.format(here=tmp_path, home=os.path.expanduser("~"))
    plan = json.loads(vs3r("stabilize", "clip.json", "--set", f"analysis.input_lens={given}", "--dry-run", "--json", check=0).stdout)
    assert plan["settings"] == {"analysis.input_lens": meant}
    plan = json.loads(vs3r("stabilize", "clip.json", "--set", "fill.lora=a; b", "--dry-run", "--json", check=0).stdout)
    assert plan["settings"] == {"fill.lora": f"{tmp_path}/a;{tmp_path}/b"}
    plan = json.loads(vs3r("stabilize", "clip.json", "--set", "fill.lora=none", "--dry-run", "--json", check=0).stdout)
    assert plan["settings"] == {"fill.lora": "none"}


@pytest.mark.parametrize("name", ["/a/\U0001f600", "/a/\x7f", '/a/"b" \\c', "/a/é"])
def test_a_preset_holds_any_file_name(vs3r, name):
    vs3r("presets", "save", "odd", "-f", "--set", f"fill.lora={name}", check=0)
    assert json.loads(vs3r("presets", "show", "odd", "--json", check=0).stdout)["fill.lora"] == name


def test_a_preset_that_somebody_spoilt_is_an_error_that_names_it(vs3r, environment):
    folder = Path(environment["XDG_CONFIG_HOME"]) / "vs3r" / "presets"
    folder.mkdir(parents=True)
    (folder / "spoilt.toml").write_text("version = 1\nsettings = 5\n")
    said = vs3r("presets", "show", "spoilt", check=2).stderr
    assert "spoilt.toml" in said and "[bad-preset]" in said and "Traceback" not in said


def test_the_cache_is_shown_and_cleared(vs3r):
    assert json.loads(vs3r("cache", "show", "--json", check=0).stdout)["entries"] == []
    assert "MiB freed" in vs3r("cache", "clear", check=0).stdout


def test_a_terminal_gets_one_bar_with_findings(environment, tmp_path):
    """Through a pseudo-terminal: the bar shows stage, frames and facts, and standard output stays clean."""
    pty = pytest.importorskip("pty")
    make_media(tmp_path / "clip.json", step_s=0.02)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "host_bridge", "stabilize", "clip.json"],
        cwd=tmp_path,
        env={**environment, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:
                break
            if not data:
                break
            shown += data
        result = running.stdout.read()
    os.close(ours)
    assert running.returncode == 0 and result == f"{tmp_path}/clip_vs3r.mp4\n"
    text = shown.decode(errors="replace")
    assert "render" in text and "/100" in text and "12 % moving" in text


def on_a_terminal(words: str, columns: int) -> str:
    """What a BarDisplay called `shown` leaves on a terminal after these words of Python."""
    pty = pytest.importorskip("pty")
    program = f"from host_bridge.client import Event\nfrom host_bridge.progress import BarDisplay\nshown = BarDisplay()\n{words}"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": str(columns)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=theirs, stdout=theirs) as running:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                text += data
    os.close(ours)
    assert running.returncode == 0, text.decode()
    return text.decode()


def test_a_terminal_shows_messages_as_they_are():
    said = "[h264 @ 0x1] in [/tmp] [bold]"
    assert said in on_a_terminal(f"shown.show(Event('log', text={said!r}))\nshown.close()", 100)


def test_a_narrow_terminal_keeps_percentage_and_time():
    report = "JobReport('j', 'stabilize', 'running', 'render', 120, 240, 0.5, 65.0, {'shake_deg': 2.9})"
    words = f"from vs3r_engine.service.protocol import JobReport\nshown.show(Event('state', {report}))\nshown.close()"
    text = on_a_terminal(words, 44)
    assert "render 120/240" in text and "50 %" in text and "1:05 left" in text and "2.9" not in text
    assert "2.9° rms" in on_a_terminal(words, 100)


def test_a_terminal_without_a_cursor_gets_lines(monkeypatch):
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True, encoding="utf-8"))
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display(as_json=False, quiet=False), LineDisplay)


def test_the_log_is_shown(vs3r):
    assert "[no-log]" in vs3r("engine", "logs", check=4).stderr


def test_stop_ends_the_engine(environment, tmp_path):
    with EngineProcess() as other:
        done = subprocess.run(
            [sys.executable, "-m", "host_bridge", "engine", "stop"],
            capture_output=True,
            text=True,
            env={**environment, "VS3R_RUNTIME_DIR": str(other.directory)},
        )
        assert done.returncode == 0, done.stderr
        wait_until(lambda: other.process.poll() is not None, 5)
