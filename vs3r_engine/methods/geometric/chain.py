# SPDX-License-Identifier: Apache-2.0
"""The chain of a shot: frame by frame, which tracks arrived from the last good picture and how the camera turned, and
which frames are no good (black, blurred, textureless, repeated)."""

import contextlib
from dataclasses import dataclass, field

import cv2
import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.methods.geometric.bend import bent, straight
from vs3r_engine.methods.geometric.motion import (
    pair_motion,
    refitted,
    rotation_from_vector,
    turned,
    vector_from_rotation,
    votes_of,
)
from vs3r_engine.methods.geometric.tracks import PairTracks, Tracker
from vs3r_engine.methods.shrink import shrunk

ANALYSIS_WIDTH_PX = 640
FEWEST_TRACKS = 12

_LOWEST_INLIER_SHARE = 0.25
_LEAST_SUPPORT, _DOUBTFUL_SUPPORT, _CLEARLY_MORE = 0.1, 0.5, 1.5
"""Share of the tracks that agree with the motion found: under this they are looked for elsewhere, too, and what is found there has
to have so many times the support. Under the least one, a handful of the tracks are taken along by chance; the worst linked
pictures of nine real clips had 0.37."""
_LEAST_AGREEMENT = 0.8
"""Correlation of two pictures laid on each other from which the turn that does it is believed, if their fine detail agrees, too."""
_LEAST_DETAIL_AGREEMENT = 0.45
"""Of sky, its gradient and the lens's vignette agree, and say nothing of the camera. Where they misled, the correlation of fine detail
was 0.01 mostly (12 of 83 over this); where whip pans and heavy shake, blurred as they are, lay on each other rightly, 0.55 and more."""
_DETAIL_PX = 1, 6
"""Fine detail is what lies between these two Gaussian blurs, of a picture _JUMP_WIDTH_PX wide."""
_JUMP_WIDTH_PX = 160
_ECC_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-3)
_RESTART_AFTER_FRAMES = 3
"""Bad frames in a row after which a textured picture is the new start; of the motion across the gap only a glimpse is known."""
_LONGEST_GAP_FRAMES = 12


@dataclass(slots=True, eq=False)
class Link:
    """One frame's place in the chain.

    kind: "linked" to the last good frame; "start" of a chain (the first frame, or no tracks across what lies before it);
    "repeated" (the same picture as the last good one); "bad" (no tracks could be followed to it).
    glimpse: [3, 3] of a bad link and of a start, the turn since the last good frame that whole pictures show, if they do.
    is_apart: of a start, whether nothing shows how the camera moved since the last good frame.
    is_blank: of a start and of a repeated link, whether the picture has too little in it to follow, like a black one.
    ids, xy_from, xy_to: tracks from the last good frame, centred analysed pixels [m, 2] of a straight lens. to_from, log_zoom, weights:
    see PairMotion. votes: [m] sum 1. span_frames: frames since the last good one. pace: [2, 4] see Shutter.
    """

    frame_index: int
    kind: str
    ids: np.ndarray
    xy_from: np.ndarray
    xy_to: np.ndarray
    votes: np.ndarray
    weights: np.ndarray
    to_from: np.ndarray
    log_zoom: float
    inlier_share: float
    spread_px: float
    span_frames: int = 1
    pace: np.ndarray = field(default_factory=lambda: np.zeros((2, 4)))
    glimpse: np.ndarray | None = None
    is_blank: bool = False
    is_apart: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether the frame's camera is only guessed."""
        return self.kind == "bad" or self.is_blank


class Chain:
    """Links frames of one size, one by one."""

    def __init__(self, width: int, height: int, focal_px: float) -> None:
        """focal_px: of the clip's pixels."""
        scale = min(1.0, ANALYSIS_WIDTH_PX / width)
        self._small = max(1, round(width * scale)), max(1, round(height * scale))
        self.px = width / self._small[0]
        """Pixels of the clip per analysed pixel."""
        self._square = np.array([1.0, height / self._small[1] / self.px])
        self.extent = np.array(self._small) * self._square
        """Width and height of the picture in (square) analysed pixels."""
        self._focal = focal_px / self.px
        self.bend = 0.0
        """How the lens bends lines, see `straight`: links are straight."""
        self._tracker = Tracker(*self._small)
        self._expected = np.eye(3), 0.0
        self._trust_ids, self._trust = np.zeros(0, np.int64), np.zeros(0)
        self._bad_in_a_row = 0
        self._last_index = 0
        self._glimpsed: tuple[np.ndarray, np.ndarray] | None = None
        """The picture before, if tracks could not be followed to it but whole pictures showed how the camera turned: (picture, turn)."""

    def link(self, frame: Frame) -> Link:
        """The next frame's link."""
        picture = shrunk(frame.luma8(), *self._small)
        index = frame.frame_index
        if self._tracker.picture is None:
            self._tracker.begin(picture)
            self._last_index = index
            return self._without_motion(index, "start")
        if np.array_equal(picture, self._tracker.picture):
            return self._without_motion(index, "repeated")
        link, glimpse = self._linked(index, picture)
        self._glimpsed = None if glimpse is None else (picture, glimpse)
        if link is not None:
            link.span_frames, self._last_index = index - self._last_index, index
            self._bad_in_a_row = 0
            return link
        self._bad_in_a_row += 1
        was_blank = self._is_blank
        if self._bad_in_a_row >= _RESTART_AFTER_FRAMES or was_blank:
            found = self._tracker.begin(picture)
            if found >= FEWEST_TRACKS or self._bad_in_a_row >= _LONGEST_GAP_FRAMES:
                self._bad_in_a_row, self._expected, self._last_index, self._glimpsed = 0, (np.eye(3), 0.0), index, None
                start = self._without_motion(index, "start", glimpse)
                # From black or white the picture comes back to where it was, as after a flash.
                start.is_apart = glimpse is None and not was_blank and not start.is_blank
                return start
        return self._without_motion(index, "bad", glimpse)

    def unbend(self, bend: float, links: list[Link]) -> None:
        """From now on through a lens that bends lines so; `links` so far, none of which was straightened, are changed to agree."""
        self.bend = bend
        for link in links:
            link.xy_from, link.xy_to = straight(link.xy_from, bend), straight(link.xy_to, bend)
        self.refocus(self._focal * self.px, links)

    def refocus(self, focal_px: float, links: list[Link]) -> None:
        """From now on with another focal length (of the clip's pixels); `links` so far are changed to agree."""
        ratio = self._focal / (focal_px / self.px)
        self._focal = focal_px / self.px
        for link in links:
            if link.kind == "linked":
                start = rotation_from_vector(vector_from_rotation(link.to_from) * [ratio, ratio, 1.0])
                link.to_from, link.log_zoom = refitted(
                    start, link.log_zoom, link.xy_from, link.xy_to, link.votes * link.weights, self._focal
                )
                self._expected = link.to_from, link.log_zoom

    def _linked(self, index: int, picture: np.ndarray) -> tuple[Link | None, np.ndarray | None]:
        """The link by tracks, or None; and if the whole picture had to be asked where it went, what it said (see Link.glimpse)."""
        pair, link, support = self._followed(index, picture, self._expected)
        glimpse = None
        if support < _DOUBTFUL_SUPPORT and len(self._tracker.xy) >= FEWEST_TRACKS:
            # Perhaps too far from where the tracks were looked for.
            assert self._tracker.picture is not None
            turn, is_seen = self._jumped(self._tracker.picture, picture)
            if not is_seen and self._glimpsed is not None:
                # Beyond what the last good picture shows; but perhaps not beyond the one just before, blurred alike.
                on, is_seen = self._jumped(self._glimpsed[0], picture)
                turn = on @ self._glimpsed[1] if is_seen else turn
            glimpse = turn if is_seen else None
            other = self._followed(index, picture, (turn, 0.0))
            if other[2] > _CLEARLY_MORE * support:
                pair, link, support = other
        if link is None or link.inlier_share < _LOWEST_INLIER_SHARE or (support < _LEAST_SUPPORT and glimpse is None):
            return None, glimpse
        self._trust = 0.8 * self._trusted(link.ids) + 0.2 * link.weights
        self._trust_ids = link.ids
        self._expected = link.to_from, link.log_zoom
        self._tracker.accept(picture, pair)
        return link, None

    def _followed(self, index: int, picture: np.ndarray, expected: tuple[np.ndarray, float]) -> tuple[PairTracks, Link | None, float]:
        """The tracks that are found where `expected` takes them, what they say, and the share of all tracks that agrees with it."""
        xy_expected = turned(self._centred(self._tracker.xy), self._focal, *expected)
        pair = self._tracker.follow(picture, bent(xy_expected, self.bend) / self._square + 0.5 * np.array(self._small))
        if len(pair) < FEWEST_TRACKS:
            return pair, None, 0.0
        xy_from, xy_to = self._centred(pair.xy_from), self._centred(pair.xy_to)
        votes = votes_of(xy_from, self._trusted(pair.ids), *self.extent)
        motion = pair_motion(xy_from, xy_to, votes, self._focal, expected, index)
        link = Link(
            index,
            "linked",
            pair.ids,
            xy_from,
            xy_to,
            votes,
            motion.weights,
            motion.to_from,
            motion.log_zoom,
            motion.inlier_share,
            motion.spread_px,
        )
        return pair, link, motion.inlier_share * len(pair) / len(self._tracker.xy)

    def _jumped(self, last: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, bool]:
        """(the turn [3, 3] since the picture `last` that lays it best on this one as a whole, whether they then agree).

        A shift by phase correlation; where the pictures agree so far that ECC refines it, with the roll. Blur that leaves no corner
        to follow leaves this; of sky, it is not believed.
        """
        shrink = max(1.0, self._small[0] / _JUMP_WIDTH_PX)
        size = max(8, round(self._small[0] / shrink)), max(8, round(self._small[1] / shrink))
        before, after = (cv2.resize(p, size, interpolation=cv2.INTER_AREA).astype(np.float32) for p in (last, picture))
        # Copies: OpenCV 5.0.0 puts its window on the pictures it is given.
        (x, y), _ = cv2.phaseCorrelate(before.copy(), after.copy(), cv2.createHanningWindow(size, cv2.CV_32F))
        motion, agreement = np.array([[1, 0, x], [0, 1, y]], np.float32), 0.0
        with contextlib.suppress(cv2.error):  # pictures that have nothing in common
            agreement, refined = cv2.findTransformECC(before, after, motion.copy(), cv2.MOTION_EUCLIDEAN, _ECC_STEPS, None, 5)  # type: ignore[call-overload]
        is_seen = agreement > _LEAST_AGREEMENT
        if is_seen:
            motion = refined
            is_seen = _detail_agreement(before, after, refined) > _LEAST_DETAIL_AGREEMENT
        middle = (np.array(size) - 1) / 2
        moved = (motion[:, :2] @ middle + motion[:, 2] - middle) * self.extent / size / self._focal
        moved *= np.arctan(np.linalg.norm(moved)) / max(float(np.linalg.norm(moved)), 1e-9)
        return rotation_from_vector(np.array([-moved[1], moved[0], np.arctan2(motion[1, 0], motion[0, 0])])), is_seen

    def _without_motion(self, index: int, kind: str, glimpse: np.ndarray | None = None) -> Link:
        nothing = np.zeros((0, 2))
        none = np.zeros(0)
        is_blank = kind != "bad" and self._is_blank
        ids = np.zeros(0, np.int64)
        return Link(index, kind, ids, nothing, nothing, none, none, np.eye(3), 0.0, 0.0, 0.0, glimpse=glimpse, is_blank=is_blank)

    @property
    def _is_blank(self) -> bool:
        """Whether the last good picture has nothing to follow."""
        return len(self._tracker.xy) < FEWEST_TRACKS

    def _centred(self, xy: np.ndarray) -> np.ndarray:
        return straight((xy - 0.5 * np.array(self._small)) * self._square, self.bend)

    def _trusted(self, ids: np.ndarray) -> np.ndarray:
        """[m] in [0, 1]: how static tracks have been so far; 0.5 for new ones."""
        trust = np.full(len(ids), 0.5)
        if len(self._trust_ids):
            at = np.minimum(np.searchsorted(self._trust_ids, ids), len(self._trust_ids) - 1)
            known = self._trust_ids[at] == ids
            trust[known] = self._trust[at[known]]
        return trust


def _detail_agreement(before: np.ndarray, after: np.ndarray, motion: np.ndarray) -> float:
    """Correlation of two pictures' fine detail where they overlap, the later laid on the earlier by `motion`; 0 where they do not."""
    laid, overlap = (
        cv2.warpAffine(picture, motion, before.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        for picture in (after, np.ones_like(after))
    )
    reach = np.ones((2 * _DETAIL_PX[1] + 1,) * 2, np.uint8)
    inner = cv2.erode(overlap, reach, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0.5
    if not inner.any():
        return 0.0
    fine, coarse = ([cv2.GaussianBlur(picture, (0, 0), sigma)[inner] for picture in (before, laid)] for sigma in _DETAIL_PX)
    a, b = (x - y - (x - y).mean() for x, y in zip(fine, coarse, strict=True))
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-9))
