# SPDX-License-Identifier: Apache-2.0
"""The compare page in a real browser: it loads without errors, offline; the slider moves; a click on a plot seeks."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.synthetic import make_clip
from vs3r_engine.app.cli import app
from vs3r_engine.errors import MediaError
from vs3r_engine.evaluation.compare import compare, html, stacked_video

FRAMES = 24


class Browser:
    """Headless Chromium through chromedriver's W3C protocol."""

    def __init__(self, driver: str) -> None:
        # Port 0: chromedriver takes a free one and says which.
        self._driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = next(found[1] for line in self._driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        self._root = f"http://127.0.0.1:{port}/session"
        self._session = ""

    def start(self, browser, profile):
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ]
        options = {
            "goog:chromeOptions": {"args": arguments, "binary": browser},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._session = self._call("", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def _call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def post(self, path, **body):
        return self._call(f"/{self._session}/{path}", body)

    def size(self, width, height):
        parameters = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.post("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=parameters)

    def open(self, path):
        self.post("url", url=path.as_uri())
        self.until("document.body.dataset.ready === 'yes'")

    def js(self, script):
        return self.post("execute/sync", script=f"return {script}", args=[])

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.05)

    def press(self, x, y, to=None):
        steps = [{"type": "pointerMove", "x": int(x), "y": int(y)}, {"type": "pointerDown", "button": 0}]
        if to:
            steps.append({"type": "pointerMove", "x": int(to[0]), "y": int(to[1]), "duration": 50})
        pointer = {"type": "pointer", "id": "mouse", "actions": [*steps, {"type": "pointerUp", "button": 0}]}
        self.post("actions", actions=[pointer])

    def key(self, key):
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.post("actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def errors(self):
        """What the console complained of since the last call, but for this test's own way of reading pixels."""
        entries = [e for e in self.post("se/log", type="browser") if e["level"] in ("SEVERE", "WARNING")]
        return [entry["message"] for entry in entries if "getImageData" not in entry["message"]]

    def picture(self):
        return base64.b64decode(self._call(f"/{self._session}/screenshot"))

    def close(self):
        if self._session:
            self._call(f"/{self._session}", method="DELETE")
        self._driver.terminate()
        self._driver.wait()
        self._driver.stdout.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("no browser: install chromium and chromium-driver")
    with contextlib.closing(Browser(driver)) as running:
        running.start(chromium, tmp_path_factory.mktemp("profile"))
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of a white result beside a synthetic original, with a sidecar."""
    folder = tmp_path_factory.mktemp("page")
    clip = make_clip("regular", frames=FRAMES, width=320, height=180)
    original = clip.write(folder / "a <b> & c.mp4")
    result = make_clip("regular", frames=FRAMES, width=320, height=180, shake=0.0).write(folder / "result.mp4")
    camera = clip.trajectory.world_from_camera[:, :3].tolist()
    smoothed = clip.stable.world_from_camera[:, :3].tolist()
    sidecar = {
        "measured": {"world_from_camera": camera},
        "smoothed": {"world_from_camera": smoothed},
        "settings": {"path.smoothness": 50.0},
        "hole_percent": [2.0] * FRAMES,
        "moving_percent": list(range(FRAMES)),
        "timings_s": {"analyze": 1.5},
        "findings": {"shake_deg": 0.5},
    }
    (folder / "result.mp4.vs3r.json").write_text(json.dumps(sidecar))
    target = folder / "compare.html"
    compare(original, result, target)
    return target


def box(browser, selector):
    place = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
    return browser.js(f"(b => [b.left, b.top, b.width, b.height])({place})")


def test_the_page_loads_offline_without_errors_and_shows_everything(browser, page):
    browser.size(1400, 900)
    browser.open(page)
    assert browser.errors() == []
    assert browser.js("performance.getEntriesByType('resource').filter(e => !/^(blob|data):/.test(e.name)).length") == 0
    assert browser.js("document.querySelectorAll('.uplot').length") == 3
    assert browser.js("document.querySelector('h1').textContent") == "a <b> & c.mp4 → result.mp4"
    words = browser.js("document.body.textContent")
    for word in ("Remaining jitter", "Cropping ratio", "path.smoothness", "shake_deg", "analyze", "Versions"):
        assert word in words
    assert browser.js("document.documentElement.scrollWidth") <= 1400
    assert browser.js(f"document.querySelector('#seek').max === '{FRAMES - 1}'")


def test_the_divider_follows_the_pointer_and_both_sides_show_their_own_video(browser, page):
    browser.size(1400, 900)
    browser.open(page)
    left, top, width, height = box(browser, "#picture")
    browser.press(left + width / 2, top + height / 2, to=(left + width * 0.8, top + height / 2))
    assert browser.js("Number(document.querySelector('#stage').getAttribute('aria-valuenow'))") == pytest.approx(80, abs=1)
    assert abs(box(browser, "#divider")[0] - (left + 0.8 * width)) < 4
    halves = {}
    for key in "ab":
        browser.key(key)
        pixels = "Array.from(document.querySelector('#picture').getContext('2d').getImageData(0, 0, 320, 180).data)"
        halves[key] = np.array(browser.js(pixels)).reshape(180, 320, 4)[..., :3]
    assert np.abs(halves["a"] - halves["b"]).mean() > 3, "shaky and calm frame 0 differ"
    truth = 255 * make_clip("regular", frames=1, width=320, height=180).frame(0).to_rgb().clip(0, 1)
    assert np.abs(halves["a"] - truth).mean() < np.abs(halves["b"] - truth).mean() / 2, "A is the original"
    browser.key("w")
    before = browser.js("document.querySelector('#stage').getAttribute('aria-valuenow')")
    browser.until(f"document.querySelector('#stage').getAttribute('aria-valuenow') !== '{before}'")


def test_a_click_on_a_plot_and_the_arrow_keys_go_to_the_frame(browser, page):
    browser.size(1400, 900)
    browser.open(page)
    left, top, width, height = box(browser, ".u-over")
    browser.press(left + width * 0.5, top + height / 2)
    middle = round((FRAMES - 1) / 2)
    at = "Math.floor(document.querySelector('#video').currentTime * 30)"
    assert browser.js(at) == pytest.approx(middle, abs=1)
    shown = browser.js(at)
    assert browser.js("document.querySelector('#frame').textContent") == f"{shown} / {FRAMES - 1}"
    browser.key("\ue014")  # arrow right
    assert browser.js(at) == shown + 1
    browser.key(" ")
    browser.until("!document.querySelector('#video').paused")
    browser.key(" ")
    assert browser.errors() == []


def test_a_phone_shows_one_column_without_sideways_scrolling(browser, page):
    browser.size(390, 844)
    browser.open(page)
    assert browser.js("document.documentElement.scrollWidth") <= 390
    _, top, width, _ = box(browser, "#picture")
    assert width > 350 and box(browser, ".plot")[1] > top
    assert browser.picture().startswith(b"\x89PNG")


def test_the_same_data_lies_beside_as_json_and_the_page_needs_no_network(page):
    data = json.loads(page.with_suffix(".json").read_text())
    assert data["frame_count"] == FRAMES and len(data["paths"]["smoothed"]["yaw"]) == FRAMES
    assert data["paths"]["measured"]["yaw"][0] == 0 == data["paths"]["measured"]["x"][0]
    assert data["metrics"]["values"]["cropping"] > 0.9
    text = page.read_text()
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert embedded == data
    # The namespace of the plotting library's comment is the only address.
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:)[^"]', text)


def test_a_result_of_another_program_has_no_paths_and_still_a_page(tmp_path):
    clip = make_clip("regular", frames=3, width=96, height=54)
    original, result = clip.write(tmp_path / "a.mp4"), clip.write(tmp_path / "b.mp4")
    compare(original, result, tmp_path / "page.html", with_metrics=False)
    data = json.loads((tmp_path / "page.json").read_text())
    assert data["paths"] is None and data["metrics"]["values"] == {}
    (tmp_path / "b.mp4.vs3r.json").write_text("{")
    with pytest.raises(MediaError, match="bad-sidecar"):
        compare(original, result, tmp_path / "page.html", with_metrics=False)


def test_a_range_is_compared_with_its_own_frames_of_the_original(tmp_path):
    clip = make_clip("rotation", frames=12, width=96, height=54)
    original = clip.write(tmp_path / "a.mp4")
    video = stacked_video(original, original, 8)
    assert video.frame_count == 4
    assert "{{" not in html({"original": "{{VIDEO}}", "result": "x"}, b"").split("<script>")[0].replace("{{VIDEO}}", "")


def small(path, frames=3, **more):
    return make_clip("regular", frames=frames, width=96, height=54).write(path, **more)


@pytest.mark.parametrize(
    ("page", "force", "code"),
    [
        ("b.mp4", True, "output-is-source"),
        ("b.mp4.vs3r.html", True, "output-is-source"),  # its data would take the sidecar's place
        ("notes.html", False, "output-exists"),  # there is a notes.json
        ("notes.json", True, "output-suffix"),
        ("file/page.html", False, "output-unwritable"),
    ],
)
def test_a_page_takes_nothings_place(tmp_path, monkeypatch, page, force, code):
    monkeypatch.chdir(tmp_path)
    small(tmp_path / "a.mp4"), small(tmp_path / "b.mp4")
    for name in ("b.mp4.vs3r.json", "notes.json", "file"):
        (tmp_path / name).write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = CliRunner().invoke(app, ["compare", "a.mp4", "b.mp4", "--no-metrics", "-o", page, *(["-f"] if force else [])])
    assert isinstance(done.exception, MediaError) and done.exception.code == code
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_as_output_takes_the_page_under_its_usual_name(tmp_path):
    original, result = small(tmp_path / "12:30.mp4"), small(tmp_path / "b.mp4")
    (tmp_path / "pages").mkdir()
    done = CliRunner().invoke(app, ["compare", str(original), str(result), "--no-metrics", "-o", str(tmp_path / "pages")])
    assert done.exit_code == 0 and (tmp_path / "pages" / "b.mp4.compare.html").exists(), done.exception


def test_clips_of_any_name_and_of_one_frame_have_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small(tmp_path / "12:30.mp4", 1), small(tmp_path / "b.mp4", 1)
    compare(Path("12:30.mp4"), Path("b.mp4"), Path("page.html"), with_metrics=False)
    assert json.loads((tmp_path / "page.json").read_text())["frame_count"] == 1
    assert "a? → b" in html({"original": "a\udcff", "result": "b"}, b"")


def test_squeezed_pictures_are_shown_in_their_shape(tmp_path):
    squeezed = tmp_path / "squeezed.mp4"
    with av.open(str(small(tmp_path / "a.mp4"))) as source, av.open(str(squeezed), "w") as written:
        stream = written.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 96, 54, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for frame in source.decode(video=0):
            written.mux(stream.encode(frame))
        written.mux(stream.encode())
    video = stacked_video(squeezed, squeezed, 0)
    assert (video.width, video.height) == (192, 54)
