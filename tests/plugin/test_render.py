# SPDX-License-Identifier: Apache-2.0
"""Frames through the plug-in: the right one, in every layout of a host's images, and what is shown until it comes."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.fakes.engine import make_media
from tests.plugin.ofx_host import FAILED, OK, Arguments, Host, HostImage, Instance, Layout

SIZE = (16, 32)
"""(height, width) of the fake engine's clips."""


def gray(value=0.5, size=SIZE):
    return lambda at: np.full((*size, 4), value, np.float32)


def effect(host, path, layout=None, picture=None, frames=(0, 99)):
    """An effect on a fake clip, bound the way this kind of host binds it."""
    instance = Instance(host, layout=layout)
    instance.connect(picture or gray(), frames, path=path)
    if not host.mode.names_file:
        instance.parameters["file"].value = path
    return instance


def index_of(pixels):
    """The frame that the fake engine drew."""
    return round(float(pixels[0, 0, 0]) * 1000)


def test_every_kind_of_host_gets_the_frame_it_means(host, engine, tmp_path):
    instance = effect(host, make_media(tmp_path / "a.json"))
    status, pixels = instance.render(Arguments(42, source_frame=42))
    assert status == OK and index_of(pixels) == 42
    np.testing.assert_allclose(pixels, np.broadcast_to(np.float32([0.042, -0.25, 1.5, 1]), (*SIZE, 4)), atol=1e-6)
    assert instance.destroy() == OK


def test_what_the_host_names_counts_more_than_its_time(resolve_host, engine, tmp_path):
    instance = effect(resolve_host, make_media(tmp_path / "a.json"))
    assert index_of(instance.render(Arguments(5, source_frame=71))[1]) == 71


def test_time_counts_from_the_first_frame_of_the_clip(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json"), frames=(1001, 1100))
    assert index_of(instance.render(Arguments(1043))[1]) == 42


def test_a_pasted_effect_belongs_to_the_clip_it_lies_on(resolve_host, engine, tmp_path):
    first = effect(resolve_host, make_media(tmp_path / "a.json"))
    first.edit("smoothness", 70.0)
    assert first.render(Arguments(3, source_frame=3))[1].shape == (*SIZE, 4)
    pasted = Instance(resolve_host, state=first.saved())
    pasted.connect(gray(size=(8, 8)), (0, 9), path=make_media(tmp_path / "b.json", width=8, height=8))
    status, pixels = pasted.render(Arguments(4, source_frame=4))
    assert status == OK and index_of(pixels) == 4 and pixels.shape == (8, 8, 4) and pasted.value("smoothness") == 70.0


LAYOUTS = [
    Layout(dtype, channels, padding, negative, origin)
    for dtype, channels, padding, negative, origin in [
        (np.uint8, 4, 0, False, (0, 0)),
        (np.uint8, 3, 5, True, (-7, 3)),
        (np.uint16, 4, 32, True, (0, 0)),
        (np.uint16, 3, 0, False, (11, -5)),
        (np.float16, 4, 8, False, (4, 4)),
        (np.float16, 3, 2, True, (0, 0)),
        (np.float32, 4, 16, True, (100, 50)),
        (np.float32, 3, 4, False, (-1, -1)),
    ]
]
WHITE = {np.uint8: 255, np.uint16: 65535}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: f"{np.dtype(one.dtype).name}x{one.channels}")
def test_every_layout_of_a_hosts_images(spec_host, engine, tmp_path, layout):
    source = (np.random.default_rng(1).random((*SIZE, 4)) * WHITE.get(layout.dtype, 1)).astype(layout.dtype)
    instance = effect(spec_host, make_media(tmp_path / "a.json", frames=600), layout, lambda at: source, (0, 599))
    status, pixels = instance.render(Arguments(500))
    white = WHITE.get(layout.dtype)
    expected = [0.5, -0.25, 1.5, 1] if white is None else [round(0.5 * white), 0, white, white]
    assert status == OK
    np.testing.assert_allclose(
        pixels.astype(float),
        np.broadcast_to(np.array(expected, float)[: layout.channels], pixels.shape),
        rtol=1e-3,
        atol=1,
    )
    instance.edit("view", 1)
    status, pixels = instance.render(Arguments(500))
    assert status == OK and np.array_equal(pixels, source[..., : layout.channels])


def test_rows_and_columns_are_where_the_engine_put_them(spec_host, engine, tmp_path):
    """Uploaded pixels come back from the fake engine as they are, so that position, order and alpha can be seen."""
    rng = np.random.default_rng(2)
    frames = rng.random((4, 18, 22, 4)).astype(np.float32)
    frames[..., 3] = rng.uniform(0.3, 1, frames.shape[:3])
    for layout in (Layout(np.float32, 4, 12, True, (-3, 5), premultiplied=True), Layout(np.float32, 4)):
        host_frames = frames * np.where([True, True, True, False], frames[..., 3:], 1) if layout.premultiplied else frames
        instance = Instance(spec_host, layout=layout)
        instance.connect(lambda at, shown=host_frames: shown[int(at) - 10], (10, 13))
        instance.edit("analyze")
        for at in (12, 10, 13):
            status, pixels = instance.render(Arguments(at))
            assert status == OK, instance.messages
            np.testing.assert_allclose(pixels, host_frames[at - 10], atol=2e-6)


def test_only_the_render_window_is_written(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json"))
    whole = HostImage(spec_host, *SIZE, Layout()).pixels
    status, pixels = instance.render(Arguments(42, window=(4, 2, 20, 9)))
    inside = np.zeros(SIZE, bool)
    inside[16 - 9 : 16 - 2, 4:20] = True
    assert status == OK and np.array_equal(pixels[~inside], whole[~inside])
    assert (np.round(pixels[inside][:, 0] * 1000) == 42).all()
    for window in ((5, 5, 5, 9), (0, 0, 0, 0)):
        assert instance.render(Arguments(42, window=window))[0] == OK


@pytest.mark.parametrize("size", [(8, 16), (4, 8), (5, 11), (32, 64)])
def test_pictures_of_another_size_are_scaled(spec_host, engine, tmp_path, size):
    instance = effect(spec_host, make_media(tmp_path / "a.json"))
    status, pixels = instance.render(Arguments(42, size=size))
    assert status == OK
    np.testing.assert_allclose(pixels, np.broadcast_to(np.float32([0.042, -0.25, 1.5, 1]), pixels.shape), atol=1e-5)


def test_a_picture_of_another_shape_is_not_stretched(resolve_host, engine, tmp_path):
    instance = effect(resolve_host, make_media(tmp_path / "a.json", width=16, height=32))
    status, pixels = instance.render(Arguments(42, source_frame=42, size=(32, 64)))
    assert status == OK and not pixels[:, :24].any() and not pixels[:, 40:].any()
    assert (np.round(pixels[:, 24:40, 0] * 1000) == 42).all()


def test_split_shows_the_original_on_the_left(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json"))
    instance.edit("view", 2)
    _, pixels = instance.render(Arguments(42))
    assert (pixels[:, :16] == 0.5).all() and (np.round(pixels[:, 17:, 0] * 1000) == 42).all()


def test_original_and_strength_zero_are_identities(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json"))
    assert instance.identity() is None
    instance.edit("view", 1)
    assert instance.identity() == "Source" and (instance.render(Arguments(42))[1] == 0.5).all()
    instance.edit("view", 0)
    instance.edit("strength", 0.0)
    assert instance.identity() == "Source" and (instance.render(Arguments(42))[1] == 0.5).all()


def test_thumbnails_pass_through(resolve_host, engine, tmp_path):
    instance = effect(resolve_host, make_media(tmp_path / "never.json"))
    status, pixels = instance.render(Arguments(3, source_frame=3, thumbnail=True))
    assert status == OK and (pixels == 0.5).all()


def test_four_threads_in_random_order_get_their_own_frames(host, engine, tmp_path):
    instance = effect(host, make_media(tmp_path / "a.json", step_s=0.002))
    order = np.random.default_rng(3).permutation(60)
    wrong = []

    def work(frames):
        for at in frames:
            status, pixels = instance.render(Arguments(int(at), source_frame=int(at)))
            if status != OK or index_of(pixels) != at:
                wrong.append((at, status))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (order[i::4] for i in range(4))))
    assert not wrong


def test_an_interactive_render_shows_the_original_and_progress_within_its_budget(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json", step_s=0.3), picture=gray(size=(120, 240)))
    begun_s = time.monotonic()
    status, pixels = instance.render(Arguments(42, interactive=True))
    assert status == OK and time.monotonic() - begun_s < 0.6
    assert (pixels[:60] == 0.5).all() and (pixels == 0.875).any()
    deadline_s = time.monotonic() + 20
    while index_of(instance.render(Arguments(42, interactive=True))[1]) != 42:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    before = instance.value("redraw")
    for _ in range(50):
        instance.sync()
        if instance.value("redraw") > before:
            break
        time.sleep(0.1)
    assert instance.value("redraw") == before + 1 and instance.value("status") == "Stabilized."
    assert '"findings":{"shake_deg":2.9}' in instance.value("state")


def test_a_final_render_waits_and_an_abort_ends_it(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json", step_s=0.15))
    begun_s = time.monotonic()
    status, _ = instance.render(Arguments(42, abort_after_s=0.3))
    assert status == FAILED and time.monotonic() - begun_s < 1
    status, pixels = instance.render(Arguments(42))
    assert status == OK and index_of(pixels) == 42


def test_a_final_render_fails_with_a_message_rather_than_deliver_the_original(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json", fail_at=5))
    assert instance.render(Arguments(5))[0] == FAILED and "on purpose" in instance.messages[-1]
    assert instance.render(Arguments(6))[0] == OK and instance.messages[-1] == ""
    assert instance.render(Arguments(100))[0] == FAILED and "frame 100" in instance.messages[-1].lower()
    assert instance.render(Arguments(-3))[0] == FAILED and "before the first frame" in instance.messages[-1]
    missing = effect(spec_host, "/no/such.mov")
    assert missing.render(Arguments(0))[0] == FAILED and "/no/such.mov" in missing.messages[-1]


def test_a_clip_without_media(spec_host, engine, tmp_path):
    instance = Instance(spec_host)
    assert instance.render(Arguments(0))[0] == FAILED and "Press Analyze" in instance.messages[-1]
    status, pixels = instance.render(Arguments(0, interactive=True, size=(4, 200)))
    assert status == OK and pixels.shape == (4, 200, 4)
    instance.edit("analyze")
    assert instance.value("status") == "There is no clip to analyse."


def test_a_host_that_never_calls_instance_changed_gets_the_presets_values(library, engine, tmp_path):
    with Host(library, "mlt") as host:
        instance = effect(host, make_media(tmp_path / "a.json"))
        assert set(instance.parameters) & {"analyze"} == set()
        instance.parameters["preset"].value = 1
        assert instance.render(Arguments(42))[0] == OK


def stored(width=32, height=16):
    """Green and blue of the fake engine's ramp, as its media stores it."""
    return np.dstack(np.meshgrid(np.arange(width) / width, np.arange(height) / height))


@pytest.mark.parametrize("rotation_deg", [90, 180, 270])
@pytest.mark.parametrize("mode", ["spec", "resolve"])
def test_a_picture_stored_on_its_side_is_turned_upright(library, engine, tmp_path, mode, rotation_deg):
    with Host(library, mode) as host:
        instance = effect(host, make_media(tmp_path / "a.json", ramp=True, rotation_deg=rotation_deg))
        upright = np.rot90(stored(), rotation_deg // 90)
        status, pixels = instance.render(Arguments(42, source_frame=42, size=upright.shape[:2]))
        assert status == OK
        np.testing.assert_allclose(pixels[..., 1:3], upright, atol=1e-6)


def test_upright_pictures_lie_in_the_middle_of_a_timeline_of_another_shape(resolve_host, engine, tmp_path):
    instance = effect(resolve_host, make_media(tmp_path / "a.json", ramp=True, rotation_deg=270))
    status, pixels = instance.render(Arguments(42, source_frame=42, size=(32, 64)))
    assert status == OK and not pixels[:, :24].any() and not pixels[:, 40:].any()
    np.testing.assert_allclose(pixels[:, 24:40, 1:3], np.rot90(stored(), 3), atol=1e-6)


def test_a_host_that_shows_what_is_stored_gets_what_is_stored(spec_host, engine, tmp_path):
    instance = effect(spec_host, make_media(tmp_path / "a.json", ramp=True, rotation_deg=90))
    status, pixels = instance.render(Arguments(42))
    assert status == OK
    np.testing.assert_allclose(pixels[..., 1:3], stored(), atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "size", "aspect", "rows"),
    [
        ("spec", (16, 32), 1.0, (0, 16)),  # shown as stored by a host that knows nothing of aspects
        ("spec", (16, 32), 4 / 3, (0, 16)),  # and by one that has such pixels itself
        ("resolve", (16, 32), 4 / 3, (0, 16)),
        ("spec", (24, 64), 1.0, (0, 24)),  # on square pixels
        ("resolve", (24, 65), 1.0, (0, 24)),  # with another rounding of the aspect
        ("resolve", (32, 64), 1.0, (4, 28)),  # in a higher timeline
        ("resolve", (12, 32), 1.0, (0, 12)),  # at half size
    ],
)
def test_a_picture_stored_squeezed_is_shown_in_shape(library, engine, tmp_path, mode, size, aspect, rows):
    path = make_media(tmp_path / "a.json", ramp=True, pixel_aspect="4/3")
    with Host(library, mode) as host:
        shown_in_shape(effect(host, path, Layout(pixel_aspect=aspect), gray(size=size)), size, rows)


def shown_in_shape(instance, size, rows):
    status, pixels = instance.render(Arguments(42, source_frame=42))
    first, end = rows
    assert status == OK and not pixels[:first].any() and not pixels[end:].any() and pixels[first:end, :, 3].all()
    across = (np.arange(size[1]) + 0.5) / size[1] - 0.5 / 32
    np.testing.assert_allclose(pixels[(first + end) // 2, 2:-2, 1], across[2:-2], atol=0.02)


@pytest.mark.parametrize(("aspect", "size"), [("2", (8, 32)), ("1/2", (16, 16))])
def test_a_squeezed_picture_is_seen_whole_in_a_timeline_of_as_many_square_pixels(resolve_host, engine, tmp_path, aspect, size):
    instance = effect(resolve_host, make_media(tmp_path / "a.json", ramp=True, pixel_aspect=aspect))
    status, pixels = instance.render(Arguments(42, source_frame=42, size=SIZE))
    shown = pixels[pixels[..., 3] > 0].reshape(*size, 4)
    edges = shown[0, 0, 1], shown[-1, -1, 1], shown[0, 0, 2], shown[-1, -1, 2]
    assert status == OK and edges == pytest.approx((0, 31 / 32, 0, 15 / 16), abs=0.05)


def test_a_squeezed_picture_on_its_side_is_turned_and_shown_in_shape(resolve_host, engine, tmp_path):
    path = make_media(tmp_path / "a.json", ramp=True, pixel_aspect="4/3", rotation_deg=90)
    status, pixels = effect(resolve_host, path).render(Arguments(42, source_frame=42, size=(64, 24)))
    assert status == OK and pixels[..., 3].all()
    assert pixels[2, 12, 1] > 0.9 > 0.1 > pixels[-3, 12, 1] and pixels[32, 2, 2] < 0.2 < 0.8 < pixels[32, -3, 2]
