# SPDX-License-Identifier: Apache-2.0
"""GeometricReconstructor: camera and scene of a shot from feature tracks alone, on a CPU, without weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from vs3r_engine.camera import Trajectory
from vs3r_engine.frame import Frame
from vs3r_engine.lens import Lens
from vs3r_engine.methods.geometric.bend import bent
from vs3r_engine.methods.geometric.bundle import ROTATION_TRANSLATION
from vs3r_engine.methods.geometric.chain import Chain, Link
from vs3r_engine.methods.geometric.depth import DepthMap
from vs3r_engine.methods.geometric.focal import CALIBRATION_FRAMES, CONFIDENT, calibrated, found_bend
from vs3r_engine.methods.geometric.motion import rotation_from_vector, vector_from_rotation
from vs3r_engine.methods.geometric.residual import SmoothField
from vs3r_engine.methods.geometric.shutter import Shutter, found_readout
from vs3r_engine.methods.geometric.windows import Node, Windows
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import AnalysisSettings

_PIECE_FRAMES = 24
_LONGEST_WAIT_FRAMES = 96
"""Frames that wait for a window to fill: a picture that stands still gives no new good frames."""
_VERTEX_ROWS, _VERTEX_COLUMNS = 10, 17
_FIELD_SCALE_PX = 0.3
"""Least disagreement that quarters a vote about left-over motion: tracks of static points agree to a tenth of a pixel."""
_LEAST_CONFIDENCE = 0.15
_FALLBACK_FOCAL = 0.9
"""Focal length over the longer side where nothing better is known: a phone's or camera's usual video lens."""


class GeometricReconstructor:
    """The Reconstructor that needs no weights."""

    def __init__(self, settings: AnalysisSettings) -> None:
        self._settings = settings

    def reconstruct(self, frames: Iterable[Frame], rate: Fraction) -> Iterator[Reconstruction]:
        """See `stages.reconstruct.Reconstructor`. Memory: two windows of tracks, two small pictures."""
        shot: _Shot | None = None
        for frame in frames:
            if shot is None:
                shot = _Shot(frame, self._settings, rate)
            shot.see(frame)
            if shot.final_count >= _PIECE_FRAMES:
                yield shot.taken()
        if shot is not None:
            shot.finish()
            if shot.final_count:
                yield shot.taken()


@dataclass(slots=True, eq=False)
class _State:
    """What is known of one frame."""

    link: Link
    world_from_camera: np.ndarray
    focal_px: float
    residual_px: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    residual_rms_px: float
    has_parallax: bool


class _Shake:
    """How far the camera's orientation strays from its steady course: RMS in degrees about a cubic over two seconds."""

    def __init__(self, rate: Fraction) -> None:
        self._window = max(8, round(2 * rate))
        self._rotations = np.zeros((0, 3, 3))
        self._squares, self._count = 0.0, 0

    def add(self, rotations: np.ndarray) -> None:
        """The next frames' rotations [n, 3, 3]."""
        recent = np.concatenate([self._rotations, rotations])[-max(self._window, len(rotations)) :]
        self._rotations = recent[-self._window :]
        if len(recent) < 8:
            return
        middle = recent[len(recent) // 2]
        vectors = np.array([vector_from_rotation(middle.T @ rotation) for rotation in recent])
        time = np.linspace(-1, 1, len(recent))
        powers = np.stack([time**k for k in range(4)], axis=1)
        strayed = vectors - powers @ np.linalg.lstsq(powers, vectors, rcond=None)[0]
        self._squares += float((strayed[-len(rotations) :] ** 2).sum())
        self._count += len(rotations)

    @property
    def rms_deg(self) -> float:
        return float(np.degrees(np.sqrt(self._squares / max(self._count, 1))))


class _Shot:
    """One shot: links come in, final states go out in order."""

    def __init__(self, first: Frame, settings: AnalysisSettings, rate: Fraction) -> None:
        self._width, self._height = first.width, first.height
        long_side = max(first.width, first.height)
        if settings.focal_mm > 0:
            self._focal_px, self._focal_source = settings.focal_mm / 36.0 * long_side, "user"
        else:
            self._focal_px, self._focal_source = _FALLBACK_FOCAL * long_side, "assumed"
        self._focal_confidence = 1.0 if self._focal_source == "user" else 0.0
        self._chain = Chain(first.width, first.height, self._focal_px)
        self._px = self._chain.px
        self._windows = Windows(self._focal_px / self._px)
        self._is_calibrated = False
        self._has_user_focal, self._may_roll = settings.focal_mm > 0, settings.rolling_shutter == "auto"
        self._shutter = Shutter(0.0, self._focal_px / self._px, float(self._chain.extent[1]))
        self._field = SmoothField(self._chain.extent, _VERTEX_ROWS, _VERTEX_COLUMNS)
        self._depth = DepthMap(self._chain.extent)
        y, x = np.meshgrid(np.linspace(-0.5, 0.5, _VERTEX_ROWS), np.linspace(-0.5, 0.5, _VERTEX_COLUMNS), indexing="ij")
        self._vertices = np.stack([x, y], axis=-1) * self._chain.extent
        self._residual = np.zeros((_VERTEX_ROWS, _VERTEX_COLUMNS, 2))
        self._waiting: list[Link] = []
        self._node: Node | None = None
        self._final: list[_State] = []
        self._frames = self._parallax_frames = 0
        self._shake = _Shake(rate)

    @property
    def final_count(self) -> int:
        return len(self._final)

    def see(self, frame: Frame) -> None:
        """Adds the next frame."""
        link = self._chain.link(frame)
        if not self._is_calibrated:
            linked = [earlier for earlier in self._waiting if earlier.kind in ("start", "linked")]
            if len(linked) >= CALIBRATION_FRAMES or (linked and link.kind == "start") or len(self._waiting) > _LONGEST_WAIT_FRAMES:
                self._calibrate(linked)
        self._waiting.append(link)
        if self._is_calibrated and link.kind in ("linked", "start"):
            self._add(link)
        if self._is_calibrated and len(self._waiting) > _LONGEST_WAIT_FRAMES:
            self._settle_all()
            self._leave_waiting()

    def finish(self) -> None:
        """Makes every frame final: the shot has ended."""
        if not self._is_calibrated:
            self._calibrate([link for link in self._waiting if link.kind in ("start", "linked")])
        self._settle_all()
        self._leave_waiting()

    def _leave_waiting(self) -> None:
        """Makes final what no later good frame is waited for."""
        self._final += [self._on_the_way(link, self._node, 0.0, self._residual) for link in self._waiting]
        self._waiting = []

    def taken(self) -> Reconstruction:
        """The final frames as a piece; they are forgotten here."""
        states, self._final = self._final, []
        K = np.zeros((len(states), 3, 3))
        K[:, 0, 0] = K[:, 1, 1] = [state.focal_px for state in states]
        K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = self._width / 2, self._height / 2, 1.0
        trajectory = Trajectory(
            states[0].link.frame_index,
            self._width,
            self._height,
            K,
            np.stack([state.world_from_camera for state in states]),
            np.stack([state.residual_px for state in states]),
            (Lens("division", (self._chain.bend * (self._focal_px / self._px) ** 2,)),) * len(states) if self._chain.bend else (),
        )
        diagnostics = {
            "track_count": np.array([len(state.link.ids) for state in states]),
            "inlier_share": np.array([state.link.inlier_share for state in states]),
            "is_bridged": np.array([state.link.is_bad or state.link.kind == "repeated" for state in states]),
            "is_repeated": np.array([state.link.kind == "repeated" and not state.link.is_bad for state in states]),
            "is_apart": np.array([state.link.is_apart for state in states]),
            "has_parallax": np.array([state.has_parallax for state in states]),
            "residual_rms_px": np.array([state.residual_rms_px for state in states]),
        }
        self._count(states)
        findings: dict[str, float | str] = {
            "shake_deg": round(self._shake.rms_deg, 2),
            "parallax_percent": round(100 * self._parallax_frames / self._frames, 1),
            "focal_px": round(self._focal_px, 1),
            "focal_source": self._focal_source,
            "focal_confidence": round(self._focal_confidence, 2),
            "rolling_shutter": round(self._shutter.readout, 3),
            "lens_bend": round(self._chain.bend * float((self._chain.extent**2).sum()) / 4, 3),
        }
        return Reconstruction(
            trajectory,
            np.stack([state.depth for state in states]),
            np.stack([state.confidence for state in states]),
            None,
            diagnostics,
            findings,
        )

    def _count(self, states: list[_State]) -> None:
        self._frames += len(states)
        self._parallax_frames += sum(state.has_parallax for state in states)
        self._shake.add(np.stack([state.world_from_camera[:3, :3] for state in states]))

    def _unskewed(self, readout: float, focal: float, linked: list[Link]) -> list[Link]:
        """Links without the skew of such a shutter."""
        trial = Shutter(readout, focal, float(self._chain.extent[1]))
        return [one for link in linked for one in trial.add(replace(link))] + trial.finish()

    def _calibrate(self, linked: list[Link]) -> None:
        """Settles the shot's shutter and lens, and hands the links so far to the windows."""
        height = float(self._chain.extent[1])
        focal = assumed = self._focal_px / self._px
        readout = found_readout(linked, focal, height) if self._may_roll else 0.0
        if not self._has_user_focal:
            for is_again in (False, True):
                found = calibrated(self._unskewed(readout, focal, linked), focal, max(self._chain.extent))
                self._focal_confidence = found.confidence
                if found.confidence >= _LEAST_CONFIDENCE:
                    # What is not certain moves the assumption only part of the way.
                    focal = assumed * float((found.focal_px / assumed) ** min(found.confidence / CONFIDENT, 1.0))
                    self._chain.refocus(focal * self._px, linked)
                if is_again or readout == 0.0 or focal == assumed:
                    break
                # The shutter's skew was measured through the assumed lens: once more through the one found.
                readout = found_readout(linked, focal, height)
            bend = 0.0
            if self._focal_confidence < CONFIDENT:
                # Else turns, mostly, have told the focal length. They hardly tell it from a bend, and one after the other they would
                # drift off together.
                bend = found_bend(self._unskewed(readout, focal, linked), focal, float(np.linalg.norm(self._chain.extent)) / 2)
            if bend:
                # The focal length was found as if lines were straight.
                self._chain.unbend(bend, linked)
                found = calibrated(self._unskewed(readout, focal, linked), focal, max(self._chain.extent))
                if found.confidence >= max(_LEAST_CONFIDENCE, self._focal_confidence):
                    focal *= float((found.focal_px / focal) ** min(found.confidence / CONFIDENT, 1.0))
                    self._focal_confidence = found.confidence
                    self._chain.refocus(focal * self._px, linked)
            if focal != assumed:
                self._focal_source = "found" if self._focal_confidence >= CONFIDENT else "guessed"
            self._focal_px = focal * self._px
            self._windows = Windows(focal)
        self._shutter = Shutter(readout, focal, height)
        self._is_calibrated = True
        for link in linked:
            self._add(link)

    def _add(self, link: Link) -> None:
        for unskewed in self._shutter.add(link):
            self._settle(self._windows.add(unskewed))

    def _settle_all(self) -> None:
        for unskewed in self._shutter.finish():
            self._settle(self._windows.add(unskewed))
        self._settle(self._windows.finish())

    def _settle(self, nodes: list[Node]) -> None:
        for node in nodes:
            between = []
            while self._waiting[0] is not node.link:
                between.append(self._waiting.pop(0))
            self._waiting.pop(0)
            field_px, rms_px = self._advanced(node)
            steps = 1 + sum(link.kind == "bad" for link in between)
            step = 0
            for link in between:
                # A repeated picture stands where it was taken; a bad one lies on the way to the next good one.
                step += link.kind == "bad"
                is_between = node.link.kind == "linked" and link.kind == "bad"
                self._final.append(self._on_the_way(link, node, step / steps if is_between else 0.0, field_px))
            self._residual = self._residual + field_px
            self._node = node
            self._final.append(self._standing(node.link, rms_px))

    def _advanced(self, node: Node) -> tuple[np.ndarray, float]:
        """(left-over motion [rows, columns, 2] of the clip's pixels since the last node, its RMS); the depth map is the
        new node's afterwards."""
        before, link = self._node, node.link
        field_px = np.zeros_like(self._residual)
        focal = [self._focal_px / self._px * np.exp(n.log_zoom) for n in (before or node, node)]
        if before is not None and link.kind == "linked":
            to_from = node.rotation.T @ before.rotation
            offset = node.rotation.T @ (before.centre - node.centre)
            rays = np.concatenate([link.xy_from / focal[0], np.ones((len(link.ids), 1))], axis=1)
            points = rays @ to_from.T + self._depth.at(link.xy_from)[:, None] * offset
            predicted = points[:, :2] * (focal[1] / np.maximum(points[:, 2:], 1e-3))
            expected, found = bent(predicted, self._chain.bend), bent(link.xy_to, self._chain.bend)
            field = self._field.fit(
                0.5 * (expected + found),
                found - expected,
                link.votes * (0.1 + link.weights),
                max(_FIELD_SCALE_PX, 3 * link.spread_px),
            )
            field_px = field * self._px
            self._depth.carry(to_from, offset, *focal)
        if node.model == ROTATION_TRANSLATION:
            self._depth.learn(node.xy, node.inverse_depth, node.agreement)
        else:
            self._depth.flatten()
        return field_px, float(np.sqrt(np.mean(field_px**2)))

    def _on_the_way(self, link: Link, node: Node | None, share: float, field_px: np.ndarray) -> _State:
        """A frame that far on the way from the last node to this one; where the whole picture shows it, if it does."""
        state = self._standing(link)
        if share > 0 and self._node is not None and node is not None:
            vector = vector_from_rotation(self._node.rotation.T @ node.rotation)
            state.world_from_camera[:3, :3] = self._node.rotation @ rotation_from_vector(share * vector)
            state.world_from_camera[:3, 3] += share * (node.centre - self._node.centre)
            state.focal_px *= float(np.exp(share * (node.log_zoom - self._node.log_zoom)))
            state.residual_px += (share * field_px).astype(np.float32)
        if link.glimpse is not None and self._node is not None:
            state.world_from_camera[:3, :3] = self._node.rotation @ link.glimpse.T
        return state

    def _standing(self, link: Link, rms_px: float = 0.0) -> _State:
        """A frame at the last node's camera."""
        world_from_camera = np.eye(4)
        focal_px = self._focal_px
        has_parallax = False
        residual_px = self._residual
        if self._node is not None:
            world_from_camera[:3, :3], world_from_camera[:3, 3] = self._node.rotation, self._node.centre
            focal_px *= float(np.exp(self._node.log_zoom))
            has_parallax = self._node.model == ROTATION_TRANSLATION
            residual_px = residual_px + self._shutter.skew_grid(self._node.link.pace, self._vertices) * self._px
        depth, confidence = self._depth.bent(self._chain.bend)
        return _State(
            link,
            world_from_camera,
            focal_px,
            residual_px.astype(np.float32),
            depth.astype(np.float32),
            confidence.astype(np.float32),
            rms_px,
            has_parallax,
        )
