# SPDX-License-Identifier: Apache-2.0
"""GeometricReconstructor: camera and scene of a shot from feature tracks alone, on a CPU, without weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from vs3r_engine.camera import Trajectory
from vs3r_engine.frame import Frame
from vs3r_engine.methods.geometric.motion import pair_motion, rotation_from_vector, turned, vector_from_rotation, votes_of
from vs3r_engine.methods.geometric.residual import ResidualField
from vs3r_engine.methods.geometric.tracks import PairTracks, Tracker
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import AnalysisSettings

_ANALYSIS_WIDTH_PX = 640
_PIECE_FRAMES = 30
_LONGEST_BRIDGE_FRAMES = 12
"""Bad frames in a row over which tracks are still looked for; after more, the path goes on from where it stood."""
_RESTART_AFTER_FRAMES = 3
_FEWEST_TRACKS = 12
_LOWEST_INLIER_SHARE = 0.25
_VERTEX_ROWS, _VERTEX_COLUMNS = 10, 17
_DEPTH_SHAPE = (36, 64)
_FALLBACK_FOCAL = 0.9
"""Focal length over the longer side where nothing better is known: a phone's or camera's usual video lens."""


class GeometricReconstructor:
    """The Reconstructor that needs no weights."""

    def __init__(self, settings: AnalysisSettings) -> None:
        self._settings = settings

    def reconstruct(self, frames: Iterable[Frame], rate: Fraction) -> Iterator[Reconstruction]:
        """See `stages.reconstruct.Reconstructor`. Memory: one piece of small arrays and two small pictures."""
        shot: _Shot | None = None
        for frame in frames:
            if shot is None:
                shot = _Shot(frame, self._settings)
            shot.see(frame)
            if len(shot) >= _PIECE_FRAMES:
                yield shot.taken()
        if shot is not None:
            shot.settle()
            if len(shot):
                yield shot.taken()


@dataclass(slots=True, eq=False)
class _State:
    """What is known of one frame."""

    frame_index: int
    world_from_camera: np.ndarray
    residual_px: np.ndarray
    track_count: int
    inlier_share: float
    residual_rms_px: float
    is_bridged: bool


class _Shot:
    """The path of one shot so far: final states, and frames that wait for the far side of a gap."""

    def __init__(self, first: Frame, settings: AnalysisSettings) -> None:
        self.width, self.height = first.width, first.height
        scale = min(1.0, _ANALYSIS_WIDTH_PX / first.width)
        self._small_size = max(1, round(first.width * scale)), max(1, round(first.height * scale))
        self._px = first.width / self._small_size[0]
        """Pixels of the clip per analysed pixel; analysed points are made square with the height's own factor."""
        self._square = np.array([1.0, first.height / self._small_size[1] / self._px])
        self._extent = np.array(self._small_size) * self._square
        long_side = max(first.width, first.height)
        if settings.focal_mm > 0:
            self.focal_px, self.focal_source = settings.focal_mm / 36.0 * long_side, "user"
        else:
            self.focal_px, self.focal_source = _FALLBACK_FOCAL * long_side, "assumed"
        self._focal = self.focal_px / self._px
        self._tracker = Tracker(*self._small_size)
        self._field = ResidualField(*self._extent, _VERTEX_ROWS, _VERTEX_COLUMNS)
        self._rotation = np.eye(3)
        self._residual = np.zeros((_VERTEX_ROWS, _VERTEX_COLUMNS, 2))
        self._expected = np.eye(3), 0.0
        self._trust_ids, self._trust_values = np.zeros(0, np.int64), np.zeros(0)
        self._final: list[_State] = []
        self._waiting: list[_State] = []

    def __len__(self) -> int:
        return len(self._final)

    def see(self, frame: Frame) -> None:
        """Adds the next frame."""
        picture = cv2.resize(frame.luma8(), self._small_size, interpolation=cv2.INTER_AREA)
        index = frame.frame_index
        if self._tracker.picture is None:
            self._tracker.begin(picture)
            self._final.append(self._state(index, 0, 1.0, False))
            return
        if np.array_equal(picture, self._tracker.picture):
            self._hold_waiting()
            self._final.append(self._state(index, 0, 1.0, True))
            return
        pair = self._followed(picture)
        motion = None
        if len(pair) >= _FEWEST_TRACKS:
            points_from, points_to = self._centred(pair.xy_from), self._centred(pair.xy_to)
            trust = self._trusted(pair.ids)
            votes = votes_of(points_from, trust, *self._extent)
            motion = pair_motion(points_from, points_to, votes, self._focal, self._expected, index)
            if motion.inlier_share < _LOWEST_INLIER_SHARE:
                motion = None
        if motion is None:
            self._waiting.append(self._state(index, len(pair), 0.0, True))
            if len(self._waiting) >= _RESTART_AFTER_FRAMES and self._tracker.begin(picture) >= _FEWEST_TRACKS \
                    or len(self._waiting) >= _LONGEST_BRIDGE_FRAMES:
                self._hold_waiting()
            return
        rotated = turned(points_from, self._focal, motion.to_from)
        left_over = points_to - rotated
        field = self._field.fit(0.5 * (points_to + rotated), left_over, votes * (0.1 + motion.weights), max(2.0, 3 * motion.spread_px))
        self._advance(motion.to_from, field * self._px)
        self._trust_ids, self._trust_values = pair.ids, 0.8 * trust + 0.2 * motion.weights
        self._expected = motion.to_from, motion.log_zoom
        self._tracker.accept(picture, pair)
        rms = float(np.sqrt(np.mean(field**2))) * self._px
        self._final.append(self._state(index, len(pair), motion.inlier_share, False, rms))

    def settle(self) -> None:
        """Makes every frame final: the shot has ended."""
        self._hold_waiting()

    def taken(self) -> Reconstruction:
        """The final frames as a piece; they are forgotten here."""
        states, self._final = self._final, []
        n = len(states)
        K = np.array([[self.focal_px, 0, self.width / 2], [0, self.focal_px, self.height / 2], [0, 0, 1.0]])
        trajectory = Trajectory(states[0].frame_index, self.width, self.height, np.tile(K, (n, 1, 1)),
                                np.stack([s.world_from_camera for s in states]), np.stack([s.residual_px for s in states]))
        return Reconstruction(
            trajectory, np.ones((n, *_DEPTH_SHAPE), np.float32), np.full((n, *_DEPTH_SHAPE), 0.1, np.float32), None,
            {"track_count": np.array([s.track_count for s in states]), "inlier_share": np.array([s.inlier_share for s in states]),
             "residual_rms_px": np.array([s.residual_rms_px for s in states]),
             "is_bridged": np.array([s.is_bridged for s in states]), "has_parallax": np.zeros(n, bool)},
            {"focal_px": self.focal_px, "focal_confidence": 0.0 if self.focal_source == "assumed" else 1.0, "focal_source": self.focal_source})

    def _state(self, index: int, tracks: int, inlier_share: float, is_bridged: bool, rms: float = 0.0) -> _State:
        world_from_camera = np.eye(4)
        world_from_camera[:3, :3] = self._rotation
        return _State(index, world_from_camera, self._residual.astype(np.float32), tracks, inlier_share, rms, is_bridged)

    def _hold_waiting(self) -> None:
        self._final += self._waiting
        self._waiting = []

    def _advance(self, to_from: np.ndarray, field_px: np.ndarray) -> None:
        """Moves the path on by one measured motion; frames waiting inside it share it evenly."""
        vector = vector_from_rotation(to_from)
        steps = len(self._waiting) + 1
        for k, state in enumerate(self._waiting):
            share = (k + 1) / steps
            state.world_from_camera[:3, :3] = self._rotation @ rotation_from_vector(share * vector).T
            state.residual_px = (self._residual + share * field_px).astype(np.float32)
        self._hold_waiting()
        rotation = self._rotation @ to_from.T
        u, _, vt = np.linalg.svd(rotation)
        self._rotation = u @ vt
        self._residual = self._residual + field_px

    def _followed(self, picture: np.ndarray) -> PairTracks:
        to_from, log_zoom = self._expected
        expected = turned(self._centred(self._tracker.xy), self._focal, to_from, log_zoom)
        return self._tracker.follow(picture, expected / self._square + 0.5 * np.array(self._small_size))

    def _centred(self, xy: np.ndarray) -> np.ndarray:
        return (xy - 0.5 * np.array(self._small_size)) * self._square

    def _trusted(self, ids: np.ndarray) -> np.ndarray:
        """[m] in [0, 1]: how static tracks have been so far; 0.5 for new ones. Ids rise, so a sorted search finds them."""
        trust = np.full(len(ids), 0.5)
        if len(self._trust_ids):
            at = np.minimum(np.searchsorted(self._trust_ids, ids), len(self._trust_ids) - 1)
            known = self._trust_ids[at] == ids
            trust[known] = self._trust_values[at[known]]
        return trust
