# SPDX-License-Identifier: Apache-2.0
"""Evaluating folders: pairing, what is refused and what is only remarked on, resuming, crashes, memory, tables."""

import csv
import json
import shutil
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fakes.measuring import noted, perfect
from tests.synthetic import make_clip
from vs3r_engine.errors import MediaError, SettingsError
from vs3r_engine.evaluation import baselines, bench_measuring, bench_report
from vs3r_engine.evaluation.ablation import variant_label, variants
from vs3r_engine.evaluation.bench_page import marks, placed
from vs3r_engine.evaluation.common_area import epipolar_in_common, warping_in_common
from vs3r_engine.evaluation.evaluation import Asked, Row, evaluate, failure, measured_pair, report, write_tables
from vs3r_engine.evaluation.measure import measure
from vs3r_engine.evaluation.measurement import Choice
from vs3r_engine.evaluation.pairs import Pair, Pairing, paired
from vs3r_engine.evaluation.reading import facts
from vs3r_engine.evaluation.tables import marked, metric

QUICK = Asked(published=False, every=4)


def written(
    path: Path, frames=6, *, width=96, height=54, rate=30, codec="ffv1", zoom=1.0, border=0, grain=0.0, blur_px=0.0, restless_px=0
) -> Path:
    """A short lossless clip of noise that moves by a pixel a frame; grain is another in every frame, and so wide a left
    border goes its own ways."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    import cv2

    scene = cv2.resize(rng.integers(0, 255, (48, 80, 3), np.uint8), (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0" if codec == "ffv1" else "yuv420p"
        for i in range(frames):
            centre = np.array([width + i, height], float)
            matrix = np.array([[zoom, 0, width / 2 - zoom * centre[0]], [0, zoom, height / 2 - zoom * centre[1]]])
            picture = cv2.warpAffine(scene, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
            if border:
                picture[:, :border] = 0
            if restless_px:
                picture[:, :restless_px] = np.roll(picture[:, :restless_px], tuple(rng.integers(-20, 20, 2)), (0, 1))
            if grain:
                picture = np.clip(np.rint(picture + rng.normal(0, grain, picture.shape)), 0, 255).astype(np.uint8)
            if blur_px:
                picture = cv2.GaussianBlur(picture, (0, 0), blur_px)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format=stream.pix_fmt)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def empty_files(folder: Path, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_identical_clips_measure_as_identical(tmp_path):
    clip = written(tmp_path / "a.mkv", 3, width=640, height=200)
    values = measure(clip, {"same": clip}, Choice(every=1))["same"].values
    exact = {"cropping": 1, "cropping_published": 1, "psnr_db": 100, "ssim": 1, "sharpness": 1, "hole_percent": 0}
    for name, expected in exact.items():
        assert values[name] == pytest.approx(expected, abs=2e-3), name
    assert values["flicker_filled"] is None
    assert values["epipolar_px2"] < 0.05


def test_a_zoomed_and_a_bordered_clip_measure_as_what_they_lost(tmp_path):
    clip = written(tmp_path / "a.mkv", 3, width=640, height=240)
    zoomed = written(tmp_path / "zoomed.mkv", 3, width=640, height=240, zoom=1.25)
    bordered = written(tmp_path / "bordered.mkv", 3, width=640, height=240, border=64)
    found = measure(clip, {"zoomed": zoomed, "bordered": bordered}, Choice(published=False, every=2))
    assert found["zoomed"].values["cropping"] == pytest.approx(0.8, abs=0.005)
    assert found["bordered"].values["hole_percent"] == pytest.approx(10, abs=0.5)
    assert found["bordered"].values["cropping"] == pytest.approx(0.9**0.5, abs=0.01)
    both = warping_in_common({"zoomed": zoomed, "bordered": bordered}, found, Choice(published=False, every=2))
    assert all(value["warping_common_e3"] is not None and value["warping_common_e3"] < 3 for value in both.values())
    assert {"jitter_px", "lpips"} <= set(found["zoomed"].reasons), "too short; not asked for"


def test_a_blur_wins_in_the_warping_error_and_not_between_equally_soft_pictures(tmp_path):
    clip = written(tmp_path / "a.mkv", 6, width=320, height=160, grain=6)
    soft = written(tmp_path / "soft.mkv", 6, width=320, height=160, grain=6, blur_px=1.0)
    results = {"sharp": clip, "soft": soft}
    choice = Choice(published=False, every=2)
    found = warping_in_common(results, measure(clip, results, choice), choice)
    assert found["soft"]["warping_common_e3"] < 0.5 * found["sharp"]["warping_common_e3"]
    assert found["soft"]["warping_equal_e3"] == pytest.approx(found["soft"]["warping_common_e3"])
    assert found["sharp"]["warping_equal_e3"] == pytest.approx(found["soft"]["warping_equal_e3"], rel=0.05)


def test_the_epipolar_error_in_common_is_that_of_what_all_show(tmp_path):
    clip = written(tmp_path / "a.mkv", 5, width=320, height=160)
    zoomed = written(tmp_path / "zoomed.mkv", 5, width=320, height=160, zoom=2.0)
    strange = written(tmp_path / "strange.mkv", 5, width=320, height=160, restless_px=70)
    found = epipolar_in_common(clip, {"zoomed": zoomed, "strange": strange})
    alone = epipolar_in_common(clip, {"strange": strange})
    assert found["zoomed"] < 0.05 and found["strange"] < 0.05, "the border that moves by itself is outside of what the zoomed one shows"
    assert alone["strange"] > 2 * found["strange"] + 0.1


def test_the_quick_published_values_are_those_of_the_slow_ones(tmp_path):
    clip = written(tmp_path / "a.mkv", 16, width=320, height=160)
    zoomed = written(tmp_path / "zoomed.mkv", 16, width=320, height=160, zoom=1.25)
    slow, quick = (measure(clip, {"r": zoomed}, Choice(quick=quick, every=4))["r"].values for quick in (False, True))
    assert quick["cropping_published"] == pytest.approx(slow["cropping_published"], abs=0.003) == pytest.approx(0.8, abs=0.005)
    for name in ("stability_published", "stability_older"):
        assert quick[name] == pytest.approx(slow[name], abs=0.02), name
    assert quick["warping_published_e3"] == slow["warping_published_e3"]
    assert quick["epipolar_published"] is not None


def test_the_bench_measures_a_result_once(tmp_path, monkeypatch):
    clip = written(tmp_path / "a.mkv", 6, width=320, height=160)
    made = {name: written(tmp_path / f"{name}.mkv", 6, width=320, height=160, zoom=z) for name, z in (("vs3r", 1.0), ("vidstab", 1.2))}
    (tmp_path / "store").mkdir()
    first = bench_measuring.measured_clip(clip, made, tmp_path / "store")
    assert first["measured"]["vidstab"]["values"]["cropping"] == pytest.approx(1 / 1.2, abs=0.01)
    assert first["measured"]["input"]["values"]["psnr_db"] == 100
    assert all(first["measured"][name]["values"]["warping_common_e3"] is not None for name in ("input", *made))
    asked = []
    monkeypatch.setattr(bench_measuring, "measure", lambda clip, results, *_, **__: asked.extend(results) or {})
    assert bench_measuring.measured_clip(clip, made, tmp_path / "store") == first and not asked
    written(made["vs3r"], 6, width=320, height=160, zoom=1.1)
    with pytest.raises(FileNotFoundError):
        bench_measuring.measured_clip(clip, made, tmp_path / "store")
    assert asked == ["vs3r"], "only what changed"


def test_another_size_is_resized_and_said_and_another_rate_or_length_is_refused(tmp_path):
    original = written(tmp_path / "o" / "a.mkv", 12)
    cases = {
        "size": written(tmp_path / "size.mkv", 12, width=128, height=72),
        "rate": written(tmp_path / "rate.mkv", 12, rate=25),
        "short": written(tmp_path / "short.mkv", 6),
        "nearly": written(tmp_path / "nearly.mkv", 11),
    }
    found = measure(original, cases, Choice(published=False, every=6))
    assert found["size"].error is None and "resized from 128x72 to 96x54" in found["size"].notes
    assert "rate-mismatch" in found["rate"].error and "25.000" in found["rate"].error
    assert "length-mismatch" in found["short"].error
    assert found["nearly"].error is None
    assert any("the original has 12, the result 11" in note for note in found["nearly"].notes)


def test_files_that_are_no_video_are_errors_of_their_own_row(tmp_path):
    good = written(tmp_path / "o" / "good.mkv")
    for name, content in (("text.mp4", b"not a video"), ("empty.mp4", b""), ("cut.mkv", good.read_bytes()[:900])):
        path = tmp_path / "r" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        row = measured_pair(Pair(name, "", good, path), QUICK)
        assert row["error"] and row["values"] == {}, name
    row = measured_pair(Pair("x", "", tmp_path / "r" / "text.mp4", good), QUICK)
    assert "unreadable" in row["error"]
    with pytest.raises(MediaError, match="does not exist") as missing:
        facts(tmp_path / "nowhere.mov")
    assert missing.value.code == "media-missing"


def test_files_pair_by_relative_path_and_whatever_has_no_partner_is_listed(tmp_path):
    empty_files(tmp_path / "o", ["Crowd/0", "Crowd/1", "Zooming/0"])
    empty_files(tmp_path / "r", ["Crowd/0", "Zooming/0", "Zooming/7"])
    (tmp_path / "r" / "notes.txt").touch()
    pairing = paired(tmp_path / "o", tmp_path / "r")
    assert [(p.name, p.category) for p in pairing.pairs] == [("Crowd/0", "Crowd"), ("Zooming/0", "Zooming")]
    assert (pairing.missing, pairing.extra) == (("Crowd/1",), ("Zooming/7",))
    (tmp_path / "r" / "Crowd" / "0.mkv").touch()
    with pytest.raises(MediaError, match="two-of-a-name"):
        paired(tmp_path / "o", tmp_path / "r")
    with pytest.raises(MediaError, match="no-folder"):
        paired(tmp_path / "o", tmp_path / "nothing")
    (tmp_path / "bare").mkdir()
    with pytest.raises(MediaError, match="no-clips"):
        paired(tmp_path / "bare", tmp_path / "o")


def test_a_second_run_measures_only_what_is_new_or_changed(tmp_path):
    originals, results = tmp_path / "o", tmp_path / "r"
    for folder in (originals, results):
        empty_files(folder, ["a", "b", "c"])
    calls = originals / "calls.txt"
    run = lambda: evaluate([paired(originals, results)], tmp_path / "out", QUICK, jobs=1, measuring=noted)  # noqa: E731
    assert len(run()) == 3 and calls.read_text().split() == ["a", "b", "c"]
    log = tmp_path / "out" / "evaluation.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:2]) + '\n{"label": "r", "na')
    (results / "a.mp4").write_bytes(b"changed")
    assert [row.name for row in run()] == ["a", "b", "c"]
    assert sorted(calls.read_text().split()) == ["a", "a", "b", "c", "c"]


def test_a_file_that_kills_its_process_is_an_error_and_the_others_are_measured(tmp_path):
    for folder in ("o", "r"):
        empty_files(tmp_path / folder, ["a", "deadly", "z"])
    rows = evaluate([paired(tmp_path / "o", tmp_path / "r")], tmp_path / "out", QUICK, jobs=2, measuring=noted)
    assert {row.name: row.error for row in rows} == {
        "a": None,
        "deadly": failure("")["error"] or rows[1].error,
        "z": None,
    }
    assert "crashed" in rows[1].error


def test_a_thousand_pairs_need_no_more_memory_than_their_rows(tmp_path):
    names = [f"Crowd/{i:04d}" for i in range(1000)]
    pairs = tuple(Pair(name, "Crowd", Path(__file__), Path(__file__)) for name in names)
    tracemalloc.start()
    rows = evaluate([Pairing("x", pairs, (), ())], tmp_path, QUICK, jobs=1, measuring=perfect)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 1000 and peak < 8e6


def rows_of_two_categories():
    def row(name, crop, error=None):
        values = {} if error else {"cropping_published": crop, "stability_published": 0.9, "jitter_px": 2.0, "lpips": None}
        return Row("ours", name, name.split("/")[0], "", values, {"lpips": "no weights here"}, [], "DIS", error)

    return [
        row("Crowd/0", 1.0),
        row("Crowd/1", 0.8),
        row("QuickRotation/0", 0.5),
        row("QuickRotation/1", 0, "unreadable"),
    ]


def test_tables_are_laid_out_as_the_papers_with_its_rows_beside_when_asked(tmp_path):
    rows = rows_of_two_categories()
    pairings = [Pairing("ours", (), ("Crowd/9",), ("Odd/1",))]
    text = report(rows, pairings, paper=True)
    # The total is the mean of the categories, as in the paper: (0.9 + 0.5) / 2.
    assert "| ours | 0.700 | 0.900 | – | – | – | 3 |" in text
    assert "| ours | 0.900 | 0.900 | – | – | – | 2 |" in text
    assert "| *VS3R, paper's Table 1* | 1.000 | 0.901 | 0.170 | 61.7 | 0.991 |" in text
    assert "| *DUT, paper's Table 1* | 0.876 | 0.896 | 0.097 | 106.3 | 1.337 |" in text, "QuickRotation is the paper's Rotation"
    for word in (
        "no result for Crowd/9",
        "no original for Odd/1",
        "QuickRotation/1: unreadable",
        "no weights here",
        "Dense flow: DIS",
    ):
        assert word in text
    assert "paper's" not in report(rows, pairings, paper=False)
    write_tables(rows, pairings, tmp_path, paper=False)
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert lines[1]["cropping_published"] == "0.8" and lines[3]["error"] == "unreadable" and lines[0]["lpips"] == ""
    assert json.loads((tmp_path / "results.json").read_text())["means"]["ours"]["Crowd"]["cropping_published"] == pytest.approx(0.9)


def test_the_ablation_has_table_2s_rows(tmp_path):
    assert [variant_label(v) for v in variants([], baseline=False, all_rows=True)] == [
        "baseline",
        "without hybrid mask",
        "without completion",
        "full",
    ]
    assert variants(["completion"], baseline=False, all_rows=False) == [("completion",), ()]
    assert variants([], baseline=False, all_rows=False) == []
    with pytest.raises(SettingsError, match="unknown-part"):
        variants(["wheels"], baseline=False, all_rows=False)


def test_the_ablations_settings_exist():
    from vs3r_engine.evaluation.ablation import PARTS
    from vs3r_engine.settings import Settings

    for assignments in PARTS.values():
        Settings().with_values(dict(a.split("=") for a in assignments))


def test_the_command_measures_folders_and_prints_where_the_tables_are(tmp_path):
    import typer

    from vs3r_engine.app.evaluate import evaluate as command

    app = typer.Typer()
    app.command()(command)
    written(tmp_path / "o" / "Crowd" / "0.mkv", 4)
    written(tmp_path / "r" / "Crowd" / "0.mkv", 4)
    (tmp_path / "o" / "Crowd" / "1.mkv").write_bytes(b"x")
    folders = [str(tmp_path / "o"), str(tmp_path / "r"), "-o", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, [*folders, "--jobs", "1", "--every", "2", "--quick"])
    assert answer.exit_code == 0, answer.output
    assert "no result for Crowd/1" in answer.output
    assert "| r | 1.000 |" in (tmp_path / "out" / "results.md").read_text()
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(app, [*folders, "-o", str(tmp_path / "file")])
    assert isinstance(refused.exception, MediaError) and refused.exception.code == "output-unwritable"
    assert CliRunner().invoke(app, [*folders, "--jobs", "-3"]).exit_code == 2
    refused = CliRunner().invoke(app, [str(tmp_path / "o")])
    assert isinstance(refused.exception, SettingsError)


def test_the_cost_of_a_process_counts_its_children(tmp_path):
    child = "a = bytearray(90_000_000)\nfor _ in range(6_000_000): pass"
    burn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    tool = baselines.Stabilizer("x", "X", lambda s, o, d: [[sys.executable, "-c", burn], ["cp", str(s), str(o)]])
    source = tmp_path / "s.bin"
    source.write_bytes(b"1")
    cost = baselines.run(tool, source, tmp_path / "deep" / "o.bin", tmp_path / "scratch")
    assert cost.cpu_s > 0.08 and cost.peak_mib > 85
    failing = baselines.Stabilizer("x", "X", lambda s, o, d: [[sys.executable, "-c", "raise SystemExit('no such thing')"]])
    with pytest.raises(Exception, match="no such thing"):
        baselines.run(failing, source, tmp_path / "o2", tmp_path / "scratch")


def test_the_benchmark_page_prints_losses_as_plainly_as_wins():
    def clip(ours, theirs):
        def values(jitter):
            return {"values": {"jitter_px": jitter, "cropping": 1.0, "sharpness": 0.9}}

        return {
            "costs": {"vs3r": COST, "vidstab": COST},
            "failures": {"deshake": "it broke"},
            "measured": {"input": {"values": {"jitter_px": 9.0}}, "vs3r": values(ours), "vidstab": values(theirs)},
        }

    outcome = {
        "machine": dict.fromkeys(("vs3r", "system", "processor", "ffmpeg", "opencv", "python"), "?"),
        "command": "make bench",
        "settings": [],
        "skipped": {"vidstab (PyPI)": "not installed"},
        "stabilizers": {"vs3r": "VS3R", "vidstab": "vidstab"},
        "clips": {"good": clip(1.0, 2.0), "bad": clip(8.0, 2.0)},
        "speed": {
            "rounds": [{"clip": "a", "width": 1920, "height": 1080, "frames": 10, "costs": {"vs3r": [COST], "vidstab": [COST]}}],
        },
    }
    text = bench_report.report(outcome, None)
    assert "| Remaining jitter at most theirs | 1 of 2; not bad (8.00 against 2.00) |" in text
    assert "| Sharpness at least 0.95 of the source's | 0 of 2; not good (0.900), bad (0.900) |" in text
    assert "| Remaining jitter, px ↓ | 4.50 | 2.00 | vidstab | **worse** | 1 of 2 | 1 / 0 / 1 |" in text
    assert "| good | 9.00 | **1.00** | 2.00 | better |" in text and "| bad | 9.00 | 8.00 | **2.00** | **worse** |" in text
    assert "| CPU time against vidstab's two passes ↓ |  | **1.00** | **1.00** |" in text
    assert "Skipped: vidstab (PyPI). not installed" in text and "it broke" in text
    assert "| a at 1920x1080, 10 frames | 200 | 200 | 1.00 | 1.00 |" in text


def test_the_bench_replaces_its_own_part_of_the_page_and_nothing_else(tmp_path):
    page = tmp_path / "BENCHMARKS.md"
    page.write_text(placed("## first", page, "make bench"))
    assert page.read_text().startswith("# Benchmarks\n\n" + marks("make bench")[0])
    page.write_text("# Mine\n\nwords\n")
    page.write_text(placed("## first", page, "make bench") + "\n## By hand\n\nmore words\n")
    once = page.read_text()
    page.write_text(placed("## second", page, "make bench"))
    assert page.read_text() == once.replace("first", "second"), "as often as it runs"
    assert once.startswith("# Mine\n\nwords\n\n") and once.endswith("\n\n## By hand\n\nmore words\n")
    page.write_text(once.replace(marks("make bench")[1], ""))
    with pytest.raises(MediaError, match="page-marks"):
        placed("## third", page, "make bench")


COST = {"cpu_s": 2.0, "wall_s": 1.0, "peak_mib": 300.0}


def test_the_best_is_bold_and_a_percent_is_a_tie():
    assert marked({"a": 0.5, "b": 0.7, "c": None}, metric("ssim")) == {"a": "0.500", "b": "**0.700**", "c": "–"}
    assert metric("jitter_px").better(1.0, 1.005) == 0 == -metric("ssim").better(0.9, 0.9)
    assert metric("jitter_px").better(1.0, 2.0) == 1 == metric("ssim").better(0.9, 0.8)


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_a_thousand_pairs_that_are_really_measured_do_not_grow_memory(tmp_path):
    """Three minutes of CPU time."""
    import psutil

    clip = written(tmp_path / "clip.mkv", 2, width=64, height=36)
    for folder in ("o", "r"):
        (tmp_path / folder / "Crowd").mkdir(parents=True)
        for i in range(1000):
            (tmp_path / folder / "Crowd" / f"{i:04d}.mkv").hardlink_to(clip)
    resident_mib = []

    def told(done, total, row):
        here = psutil.Process()
        workers = [child.memory_info().rss for child in here.children(recursive=True)]
        resident_mib.append((here.memory_info().rss / 2**20, max(workers) / 2**20))

    rows = evaluate([paired(tmp_path / "o", tmp_path / "r")], tmp_path / "out", Asked(published=False, every=2), jobs=1, told=told)
    assert len(rows) == 1000 and not any(row.error for row in rows)
    parent, worker = np.array(resident_mib).reshape(10, 100, 2).max(axis=1).T
    print("MiB of every hundred pairs: parent", parent.round(1), "worker", worker.round(1))
    assert parent[-1] < parent[1] + 8 and worker[-1] < 1.05 * worker[1]


@pytest.mark.release
def test_a_synthetic_clip_that_was_stabilized_perfectly_beats_its_shaky_self(tmp_path):
    clip = make_clip("rotation", frames=90, width=640, height=360)
    calm = make_clip("rotation", frames=90, width=640, height=360, shake=0.0)
    found = measure(clip.write(tmp_path / "a.mp4"), {"calm": calm.write(tmp_path / "b.mp4")}, Choice(published=True, every=3))
    assert found["calm"].values["jitter_px"] < 0.4 * found["input"].values["jitter_px"]
    assert found["calm"].values["acceleration_px"] < 0.2 * found["input"].values["acceleration_px"]
    assert found["calm"].values["cropping"] > 0.97


def test_a_look_at_the_speed_prints_it_and_leaves_the_page_as_it_is(tmp_path, capsys, monkeypatch):
    from vs3r_engine.evaluation import bench

    make_clip("regular", frames=2, width=64, height=36).write(tmp_path / "a.mp4")
    page = tmp_path / "BENCHMARKS.md"
    page.write_text("what took hours")
    monkeypatch.setattr(bench, "speed", lambda *_: {"skipped": "no time for it"})
    assert bench.main([str(tmp_path), "--report", str(page), "--speed-only"]) == 0
    assert "no time for it" in capsys.readouterr().out and page.read_text() == "what took hours"


@pytest.mark.release
def test_one_command_writes_the_benchmark_page_and_a_second_run_reuses_the_baselines(tmp_path, capsys):
    from vs3r_engine.evaluation import bench

    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    (tmp_path / "clips").mkdir()
    make_clip("regular", frames=75, width=320, height=180).write(tmp_path / "clips" / "a.mp4")
    page = tmp_path / "BENCHMARKS.md"
    arguments = [
        str(tmp_path / "clips"),
        "--report",
        str(page),
        "--keep",
        str(tmp_path / "kept"),
        "--jobs",
        "1",
        "--repeat",
        "1",
    ]
    assert bench.main(arguments) == 0
    text = page.read_text()
    assert "Remaining jitter, px" in text and "1920x1080" in text and "| a |" in text
    assert bench.main([*arguments, "--reuse", "baselines", "--no-speed"]) == 0
    assert "a: VS3R" in capsys.readouterr().err and "of an earlier run" in page.read_text()
