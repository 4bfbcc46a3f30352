# SPDX-License-Identifier: Apache-2.0
"""The demo clip: a hand-held shot of a painted town at dusk, rendered here so that the first run needs no footage."""

import itertools
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, RATE, FRAMES = 960, 540, Fraction(30), 150
FOCAL_PX = 900.0


def render_demo_clip(path: Path, seed: int = 7, frames: int = FRAMES) -> None:
    """Write the clip's first `frames` frames (H.264, 960x540, with a soft tone as its sound) to `path`."""
    import av

    layers = _town(np.random.default_rng(seed))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", RATE, options={"crf": "16", "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.color_primaries = video.codec_context.color_trc = video.codec_context.colorspace = 1
        sound = container.add_stream("aac", 48000, layout="mono")
        for index, picture in enumerate(itertools.islice(_frames(layers, seed), frames)):
            frame = av.VideoFrame.from_ndarray(picture, "bgr24").reformat(format="yuv420p", dst_colorspace=1)
            frame.pts, frame.time_base = index, 1 / RATE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        time_s = np.arange(int(48000 * frames / RATE)) / 48000
        tone = (0.05 * np.sin(2 * np.pi * 220 * time_s) * (1 + 0.5 * np.sin(2 * np.pi * 0.8 * time_s))).astype(np.float32)
        for start in range(0, len(tone), 1024):
            block = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = 48000, start, Fraction(1, 48000)
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))


def _frames(layers, seed):
    """Pictures [h, w, 3] uint8 BGR of the layers as a walking, shaking camera with a slow pan sees them."""
    rng = np.random.default_rng(seed + 1)
    yaw, pitch, roll = (_shake(rng, amount) for amount in (0.013, 0.011, 0.007))
    yaw += np.linspace(-0.10, 0.10, FRAMES)
    sideways, upwards = _shake(rng, 0.05), _shake(rng, 0.06)
    K = np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
    for i in range(FRAMES):
        rotation = _rotation(yaw[i], pitch[i], roll[i])
        centre = np.array([sideways[i] + 0.012 * i, upwards[i], 0.006 * i])
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for painted, depth, metres_per_px, left, top, drift in layers:
            plane_from_canvas = np.array([[metres_per_px, 0, left + drift * i], [0, metres_per_px, top], [0, 0, depth]])
            picture_from_canvas = K @ rotation @ (plane_from_canvas - np.outer(centre, [0, 0, 1]))
            seen = cv2.warpPerspective(painted, picture_from_canvas, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_CONSTANT)
            alpha = seen[..., 3:].astype(np.float32) / 255
            picture = picture * (1 - alpha) + seen[..., :3] * alpha
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _shake(rng, amount: float) -> np.ndarray:
    """[FRAMES] a hand's tremble: noise around 1 to 6 Hz with the given RMS."""
    spectrum = np.fft.rfft(rng.normal(size=4 * FRAMES))
    frequency_hz = np.fft.rfftfreq(4 * FRAMES, float(1 / RATE))
    spectrum *= np.exp(-((np.log(frequency_hz + 1e-3) - np.log(2.0)) ** 2))
    shake = np.fft.irfft(spectrum)[:FRAMES]
    return amount * shake / shake.std()


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    turns = [cv2.Rodrigues(np.array(v, float))[0] for v in ((0, -yaw, 0), (-pitch, 0, 0), (0, 0, -roll))]
    return turns[2] @ turns[1] @ turns[0]


def _town(rng):
    """Painted canvases BGRA with depth (m), scale (m/px), left and top edge (m) and drift (m/frame), far to near."""
    sky = _gradient(1400, 700, (140, 90, 60), (150, 190, 250))
    for _ in range(60):
        centre = int(rng.integers(0, 1400)), int(rng.integers(0, 380))
        cv2.ellipse(sky, centre, (int(rng.integers(30, 140)), int(rng.integers(5, 16))), 0, 0, 360, (200, 205, 240, 255), -1, cv2.LINE_AA)
    sky = cv2.GaussianBlur(sky, (0, 0), 3)
    for x0, height, colour in ((0, 170, (110, 95, 90)), (0, 110, (80, 75, 65))):
        ridge = np.cumsum(rng.normal(0, 5, 1400))
        ridge = cv2.GaussianBlur(ridge[:, None], (0, 0), 6)[:, 0]
        line = np.stack([np.arange(1400) + x0, 470 - height - ridge + ridge.mean()], 1)
        cv2.fillPoly(sky, [np.vstack([line, [[1400, 700], [0, 700]]]).astype(np.int32)], (*colour, 255), cv2.LINE_AA)
    sky[..., :3] = np.clip(sky[..., :3] + rng.normal(0, 5, (*sky.shape[:2], 1)), 0, 255)

    town = np.zeros((520, 2400, 4), np.uint8)
    x = 0
    while x < 2400:
        width, height = int(rng.integers(90, 190)), int(rng.integers(180, 420))
        wall = rng.integers(60, 170, 3)
        cv2.rectangle(town, (x, 520 - height), (x + width - 6, 520), (*map(int, wall), 255), -1)
        cv2.rectangle(town, (x - 4, 512 - height), (x + width - 2, 524 - height), (*map(int, wall // 2), 255), -1)
        for wy in range(540 - height, 490, 38):
            for wx in range(x + 12, x + width - 26, 30):
                glow = (90, 200, 250, 255) if rng.random() < 0.4 else (60, 50, 40, 255)
                cv2.rectangle(town, (wx, wy), (wx + 16, wy + 22), glow, -1)
                cv2.rectangle(town, (wx, wy), (wx + 16, wy + 22), (30, 30, 30, 255), 1)
        x += width
    grain = rng.normal(0, 7, (*town.shape[:2], 1))
    town[..., :3] = np.clip(town[..., :3] + grain * (town[..., 3:] > 0), 0, 255)

    street = _gradient(2600, 300, (70, 75, 80), (40, 42, 45))
    for x in range(0, 2600, 120):
        cv2.rectangle(street, (x, 120), (x + 60, 130), (190, 200, 205, 255), -1)
    street[..., :3] = np.clip(street[..., :3] + rng.normal(0, 12, (300, 2600, 1)), 0, 255)

    trees = np.zeros((420, 2600, 4), np.uint8)
    for x in range(80, 2600, 290):
        x += int(rng.integers(-50, 50))
        cv2.rectangle(trees, (x - 8, 170), (x + 8, 420), (40, 55, 70, 255), -1)
        for _ in range(90):
            leaf = rng.normal(0, 38, 2)
            shade = int(rng.integers(40, 130))
            cv2.circle(
                trees,
                (int(x + leaf[0]), int(130 + leaf[1])),
                int(rng.integers(7, 20)),
                (shade // 3, shade, shade // 2, 255),
                -1,
                cv2.LINE_AA,
            )

    balloon = np.zeros((260, 180, 4), np.uint8)
    for i, colour in enumerate(((60, 60, 220), (70, 200, 240), (60, 60, 220), (70, 200, 240))):
        cv2.ellipse(balloon, (90, 90), (80 - 22 * i, 85), 0, 0, 360, (*colour, 255), -1, cv2.LINE_AA)
    cv2.rectangle(balloon, (74, 205), (106, 232), (50, 80, 110, 255), -1)
    for x in (40, 140):
        cv2.line(balloon, (x, 155), (90 + (x - 90) // 4, 206), (30, 30, 30, 255), 2, cv2.LINE_AA)
    bus = np.zeros((130, 330, 4), np.uint8)
    cv2.rectangle(bus, (4, 8), (326, 112), (40, 140, 230, 255), -1)
    for x in range(16, 300, 52):
        cv2.rectangle(bus, (x, 22), (x + 40, 62), (90, 70, 50, 255), -1)
    for x in (70, 255):
        cv2.circle(bus, (x, 112), 17, (25, 25, 25, 255), -1, cv2.LINE_AA)
    return [
        (sky, 120.0, 0.16, -112.0, -66.0, 0.0),
        (balloon, 60.0, 0.05, -12.0, -15.5, 0.045),
        (town, 30.0, 0.026, -31.0, -9.6, 0.0),
        (street, 16.0, 0.02, -26.0, 2.0, 0.0),
        (bus, 15.0, 0.014, -7.0, 1.2, 0.05),
        (trees, 10.0, 0.0115, -15.0, -1.3, 0.0),
    ]


def _gradient(width: int, height: int, top, bottom) -> np.ndarray:
    share = np.linspace(0, 1, height)[:, None, None]
    colour = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    return np.ascontiguousarray(np.dstack([np.broadcast_to(colour, (height, width, 3)), np.full((height, width), 255)]), np.uint8)
