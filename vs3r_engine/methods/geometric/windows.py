# SPDX-License-Identifier: Apache-2.0
"""The cameras of a shot, window by window: each window of links is explained by the simplest model that the evidence
supports, and joined to the cameras already settled."""

from dataclasses import dataclass, replace

import numpy as np

from vs3r_engine.methods.geometric.begin import begun
from vs3r_engine.methods.geometric.bundle import (
    ROTATION,
    ROTATION_TRANSLATION,
    ROTATION_ZOOM,
    Sightings,
    Window,
    adjusted,
)
from vs3r_engine.methods.geometric.chain import Link
from vs3r_engine.methods.geometric.motion import nearest_rotation

SETTLED_FRAMES = 24
"""Good frames that one window settles."""
BEHIND_FRAMES, AHEAD_FRAMES = 10, 8
"""Settled frames that hold a window in place, and later ones that only inform it."""

_COARSE_STEP, _DEPTH_STEP = 3, 2
"""Every how manieth frame of a window tells the cameras' model, and the depth of all tracks."""
_TRACKS = 130
_FEWEST_SIGHTINGS = 6
_FEWEST_FRAMES = 8
_NOISE_PX = 0.35
"""Tracks drift together by about this much (analysed pixels), whatever a single sighting's precision: the evidence for
a richer model has to be larger."""
_SIGHTINGS_PER_TRACK = 6
"""Independent sightings that a track is worth."""
_DEPTH_SPREAD = 0.2
"""Standard deviation of log depth under which a translation is not told apart from a rotation."""
_NEARNESS_OF_WALKERS, _MOST_PERCENT = 3.0, 60
"""Who walks along with the camera's shift looks near. What is so many times nearer than most does not tell the cameras, lest they
explain walkers; whether it stands still is seen from the cameras that the rest gives."""
_STRICTNESS = 0.5
"""Times its nearness, by which such a track's error counts: on exact clips near things erred by 0.15 pixels, walkers by 0.6."""
_WORST_COST = 5.4
_STAYING = 0.85
"""What a model's criterion is worth where the window before has it already: each change of model bends the path."""
_RELUCTANCE_TO_ZOOM = 1.08
"""A lens that seems to breathe a little is parallax or a moving crowd."""
_MOST_TURNED_APART_RAD = 0.025
"""A window whose cameras turn otherwise from one frame to the next than the tracks of those two frames say has gone astray. Windows
that were right stayed within 0.014 on real clips and just within this on heavily shaken ones; the others began at 0.035."""
_PER_FRAME = {ROTATION: 3, ROTATION_ZOOM: 4, ROTATION_TRANSLATION: 6}
_PER_TRACK = {ROTATION: 2, ROTATION_ZOOM: 2, ROTATION_TRANSLATION: 3}


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A settled camera at a good frame. world_from_camera as rotation [3, 3] and centre [3]; log_zoom relative to the
    shot's focal length. xy [m, 2], inverse_depth [m] (per z-depth) and agreement [m] in [0, 1]: tracks seen here whose
    depth is known."""

    link: Link
    model: str
    rotation: np.ndarray
    centre: np.ndarray
    log_zoom: float
    xy: np.ndarray
    inverse_depth: np.ndarray
    agreement: np.ndarray


class Windows:
    """Takes links in order, gives nodes in order. A link of kind "start" begins anew from the last camera, turned by its glimpse."""

    def __init__(self, focal_px: float) -> None:
        """focal_px: of analysed pixels."""
        self._focal = focal_px
        self._links: list[Link] = []
        self._nodes: list[Node] = []
        self._waiting = 0
        self._rotation, self._centre, self._log_zoom = np.eye(3), np.zeros(3), 0.0
        self._point_ids, self._points = np.zeros(0, np.int64), np.zeros((0, 4))
        self._usual_inverse_depth = 1.0
        self._last_model = ROTATION

    def add(self, link: Link) -> list[Node]:
        """Nodes that became final through this link."""
        settled: list[Node] = []
        if link.kind == "start":
            settled = self.finish()
            self._links, self._nodes = [], []
            if link.glimpse is not None:
                self._rotation = self._rotation @ link.glimpse.T
        self._links.append(link)
        self._waiting += 1
        if self._waiting >= SETTLED_FRAMES + AHEAD_FRAMES:
            settled += self._settle(SETTLED_FRAMES)
        return settled

    def finish(self) -> list[Node]:
        """Nodes of every link added so far."""
        return self._settle(self._waiting) if self._waiting else []

    def _settle(self, count: int) -> list[Node]:
        behind = len(self._links) - self._waiting
        nodes = self._solved(behind)[behind : behind + count]
        # Cameras without a translation of their own do not hold a window in place, they only say where it begins.
        kept = BEHIND_FRAMES if nodes[-1].model == ROTATION_TRANSLATION else 1
        self._nodes = (self._nodes + nodes)[-kept:]
        self._waiting -= len(nodes)
        self._links = self._links[-(self._waiting + len(self._nodes)) :]
        last = nodes[-1]
        self._last_model = last.model
        self._rotation, self._centre, self._log_zoom = last.rotation, last.centre, last.log_zoom
        return nodes

    def _solved(self, behind: int) -> list[Node]:
        """All links of the window as nodes; the first `behind` are settled already."""
        links = self._links
        rotation, centre, log_zoom = self._chained(behind)
        ids, xy, seen = table(links)
        window, tracks = self._window(rotation, centre, ids, xy, seen, behind)
        model = ROTATION
        if window is not None:
            model, solved = self._explained(window, Sightings(xy[:, tracks], seen[:, tracks]), np.exp(log_zoom - log_zoom[0]))
        if model == ROTATION_TRANSLATION:
            return self._nodes_with_depth(solved, ids[tracks], rotation[0], centre[0], ids, xy, seen)
        if model == ROTATION_ZOOM:
            joint = max(behind - 1, 0)
            turn = rotation[joint] @ solved.rotation[joint]
            zoomed = np.log(solved.focal_px / solved.focal_px[joint]) + self._log_zoom
            free = slice(joint + 1, None)
            rotation[free] = nearest_rotation(np.matmul(turn, solved.rotation[free].transpose(0, 2, 1)))
            log_zoom[free] = zoomed[free]
        else:
            log_zoom[:] = self._log_zoom
        nothing = np.zeros((0, 2)), np.zeros(0), np.zeros(0)
        return [Node(link, model, r, self._centre, float(z), *nothing) for link, r, z in zip(links, rotation, log_zoom, strict=True)]

    def _chained(self, behind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rotation [f, 3, 3], centre [f, 3], log_zoom [f]) of all links by the chain, from the settled cameras on."""
        rotation = [node.rotation for node in self._nodes]
        centre = [node.centre for node in self._nodes]
        log_zoom = [node.log_zoom for node in self._nodes]
        for link in self._links[behind:]:
            before = rotation[-1] if rotation else self._rotation
            rotation.append(nearest_rotation(before @ link.to_from.T))
            centre.append(centre[-1] if centre else self._centre)
            log_zoom.append((log_zoom[-1] if log_zoom else self._log_zoom) + link.log_zoom)
        if behind >= 2 and self._nodes[-1].model == ROTATION_TRANSLATION:
            velocity = (centre[behind - 1] - centre[0]) / (behind - 1)
            for k in range(behind, len(centre)):
                centre[k] = centre[behind - 1] + (k - behind + 1) * velocity
        return np.array(rotation), np.array(centre), np.array(log_zoom)

    def _window(
        self, rotation: np.ndarray, centre: np.ndarray, ids: np.ndarray, xy: np.ndarray, seen: np.ndarray, behind: int
    ) -> tuple[Window | None, np.ndarray]:
        """The window before adjustment over the chosen tracks (None if there is too little), and which those are."""
        frames = len(rotation)
        life = seen.sum(axis=0)
        tracks = np.argsort(-life, kind="stable")[:_TRACKS]
        tracks = np.sort(tracks[life[tracks] >= _FEWEST_SIGHTINGS])
        if frames < _FEWEST_FRAMES or len(tracks) < 24:
            return None, tracks
        return self._located(rotation, centre, ids[tracks], xy[:, tracks], seen[:, tracks], behind), tracks

    def _located(self, rotation: np.ndarray, centre: np.ndarray, ids: np.ndarray, xy: np.ndarray, seen: np.ndarray, behind: int) -> Window:
        """Cameras and tracks relative to the window's first camera; known points where they were, new ones at the usual
        depth in the direction they were first seen."""
        frames, focal = len(rotation), self._focal * float(np.exp(self._log_zoom))
        camera_from_reference = np.matmul(rotation.transpose(0, 2, 1), rotation[0])
        translation = np.matmul(rotation.transpose(0, 2, 1), (centre[0] - centre)[..., None])[..., 0]
        first = seen.argmax(axis=0)
        at = np.arange(len(ids))
        ray = np.concatenate([xy[first, at] / focal, np.ones((len(ids), 1))], axis=1)
        scene = np.full(len(ids), self._usual_inverse_depth)
        direction = np.einsum("mji,mj->mi", camera_from_reference[first], ray - translation[first] * scene[:, None])
        known_at, known = _find(self._point_ids, ids)
        if known.any():
            points = self._points[known_at[known]]
            direction[known] = (points[:, :3] - points[:, 3:] * centre[0]) @ rotation[0]
            scene[known] = points[:, 3]
        length = np.linalg.norm(direction, axis=1)
        weight = np.where(known, 4.0, 0.3)
        is_fixed = np.arange(frames) < max(behind, 1)
        return Window(
            camera_from_reference,
            translation,
            np.full(frames, focal),
            direction / length[:, None],
            scene / length,
            weight,
            is_fixed,
        )

    def _explained(self, window: Window, sightings: Sightings, zoom: np.ndarray) -> tuple[str, Window]:
        """The model that the evidence supports, and the window adjusted by it (as it was, for a plain rotation).

        A Bayesian information criterion over tracks: parameters have to pay for themselves in robust cost, where a
        track counts as a few independent sightings of known noise. zoom: [f] by the chain.
        """
        frames = len(sightings.seen)
        coarse = np.unique(np.append(np.arange(0, frames, _COARSE_STEP), frames - 1))
        sight = Sightings(sightings.xy[coarse], sightings.seen[coarse])
        turning = replace(window, is_fixed=np.arange(frames) == 0)
        zooming = replace(turning, focal_px=window.focal_px * zoom)
        is_begun = bool((window.translation[window.is_fixed] != 0).any())
        start = {ROTATION: turning, ROTATION_ZOOM: zooming, ROTATION_TRANSLATION: window}
        small = _part_of(window, coarse, slice(None))
        moved, error = adjusted(small, sight, ROTATION_TRANSLATION, 7, first_scale_px=4.0) if is_begun else begun(small, sight)
        tells = _nearness(moved.inverse_depth) <= _NEARNESS_OF_WALKERS
        if not tells.all():
            sight, sightings = (Sightings(s.xy, s.seen * tells) for s in (sight, sightings))
            moved, error = adjusted(moved, sight, ROTATION_TRANSLATION, 7, first_scale_px=4.0)
        told = int(tells.sum())
        price = 0.5 * np.log(_SIGHTINGS_PER_TRACK * told)
        found, criterion = {ROTATION_TRANSLATION: moved}, {}
        for model in (ROTATION_TRANSLATION, ROTATION_ZOOM, ROTATION):
            seen = sight.seen
            if model != ROTATION_TRANSLATION:
                # The poorer models only have to say how badly they do: every other track tells.
                part = slice(None, None, 2)
                seen = sight.seen[:, part]
                found[model], error = adjusted(
                    _part_of(start[model], coarse, part), Sightings(sight.xy[:, part], seen), model, 7, first_scale_px=4.0
                )
            cost = float(robust_cost(error, seen)[seen.any(axis=0)].mean())
            parameters = _PER_FRAME[model] * len(coarse) + _PER_TRACK[model] * told
            criterion[model] = _SIGHTINGS_PER_TRACK * told * cost + price * parameters
            if model == self._last_model:
                criterion[model] *= _STAYING
            if model == ROTATION_ZOOM:
                criterion[model] *= _RELUCTANCE_TO_ZOOM
            if model == ROTATION_TRANSLATION and (cost > _WORST_COST or depth_spread(moved.inverse_depth[tells]) < _DEPTH_SPREAD):
                criterion[model] = np.inf
            if model == ROTATION_ZOOM and criterion[ROTATION_TRANSLATION] < criterion[ROTATION_ZOOM]:
                break
        for model in sorted(criterion, key=lambda name: criterion[name]):
            if model == ROTATION:
                break
            refined = self._refined(start[model], sightings, found[model], coarse, model, is_begun)
            if turned_apart_rad(refined.rotation, window.rotation) < _MOST_TURNED_APART_RAD:
                return model, refined
        return ROTATION, window

    def _refined(self, window: Window, sightings: Sightings, moved: Window, coarse: np.ndarray, model: str, is_begun: bool) -> Window:
        """Every camera of the window, seen from the points of the coarse one."""
        rotation, translation = window.rotation.copy(), window.translation.copy()
        behind = coarse[np.clip(np.searchsorted(coarse, np.arange(len(rotation)), side="right") - 1, 0, len(coarse) - 1)]
        spot = np.searchsorted(coarse, behind)
        correction = np.matmul(moved.rotation[spot], window.rotation[behind].transpose(0, 2, 1))
        free = ~window.is_fixed
        rotation[free] = np.matmul(correction, window.rotation)[free]
        translation[free] = np.stack(
            [np.interp(np.arange(len(rotation)), coarse, moved.translation[:, axis]) for axis in range(3)], axis=1
        )[free]
        focal = np.exp(np.interp(np.arange(len(rotation)), coarse, np.log(moved.focal_px)))
        full = replace(window, rotation=rotation, translation=translation, focal_px=focal)
        if model == ROTATION_TRANSLATION:
            full = replace(full, direction=moved.direction, inverse_depth=moved.inverse_depth)
        else:
            sightings = Sightings(sightings.xy[:, ::2], sightings.seen[:, ::2])
            full = replace(
                full,
                direction=moved.direction,
                inverse_depth=moved.inverse_depth,
                depth_weight=window.depth_weight[::2],
            )
        if is_begun:
            return adjusted(full, sightings, model, 4, first_scale_px=1.5, hold="points")[0]
        # The first camera was held still where it could have been mistaken: let the points tell where it is, too.
        free_all = replace(full, is_fixed=np.zeros(len(rotation), bool))
        solved = adjusted(free_all, sightings, model, 7, first_scale_px=8.0, hold="points")[0]
        return _from_first_camera(solved, self._usual_inverse_depth)

    def _nodes_with_depth(
        self,
        solved: Window,
        solved_ids: np.ndarray,
        rotation0: np.ndarray,
        centre0: np.ndarray,
        ids: np.ndarray,
        xy: np.ndarray,
        seen: np.ndarray,
    ) -> list[Node]:
        # A window measures from the last one's cameras and back: rounding would triple with each, and bend a shot of 20 seconds.
        rotation = nearest_rotation(np.matmul(rotation0, solved.rotation.transpose(0, 2, 1)))
        centre = centre0 - np.matmul(rotation, solved.translation[..., None])[..., 0]
        self._point_ids, self._points = solved_ids, _world_points(solved, rotation0, centre0)
        self._usual_inverse_depth = float(np.median(solved.inverse_depth))
        enough = seen[::_DEPTH_STEP].sum(axis=0) >= 3
        ids, xy, seen = ids[enough], xy[:, enough], seen[:, enough]
        # Points of every track, from the settled cameras.
        window = self._located(rotation, centre, ids, xy, seen, len(rotation))
        some, every = np.arange(0, len(rotation), _DEPTH_STEP), slice(None)
        sight = Sightings(xy[some], seen[some])
        chosen, error = adjusted(_part_of(window, some, every), sight, ROTATION_TRANSLATION, 5, first_scale_px=6.0, hold="cameras")
        track_error = np.sqrt((np.minimum(error, 6.0) ** 2 * sight.seen).sum(axis=0) / sight.seen.sum(axis=0))
        nearness = _nearness(chosen.inverse_depth)
        strictness = np.where(nearness > _NEARNESS_OF_WALKERS, _STRICTNESS * nearness, 1.0)
        agreement = 1.0 / (1.0 + (strictness * track_error) ** 2) ** 2
        good = agreement > 0.25
        self._point_ids, self._points = ids[good], _world_points(chosen, rotation0, centre0)[good]
        z = np.matmul(window.rotation[:, 2], chosen.direction.T) + window.translation[:, 2:] * chosen.inverse_depth
        inverse_depth = chosen.inverse_depth / np.maximum(z, 0.05)
        nodes = []
        for k, link in enumerate(self._links):
            here = np.flatnonzero(seen[k] > 0)
            nodes.append(
                Node(
                    link,
                    ROTATION_TRANSLATION,
                    rotation[k],
                    centre[k],
                    self._log_zoom,
                    xy[k, here],
                    inverse_depth[k, here],
                    agreement[here],
                )
            )
        if good.any():
            self._usual_inverse_depth = float(np.median(inverse_depth[-1, good]))
        return nodes


def table(links: list[Link]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids [m], xy [f, m, 2], seen [f, m]) of all tracks that cross the links' frames."""
    ids = np.unique(np.concatenate([link.ids for link in links]))
    xy, seen = np.zeros((len(links), len(ids), 2)), np.zeros((len(links), len(ids)))
    for k, link in enumerate(links):
        at = np.searchsorted(ids, link.ids)
        xy[k, at], seen[k, at] = link.xy_to, 1.0
        if k:
            xy[k - 1, at], seen[k - 1, at] = link.xy_from, 1.0
    return ids, xy, seen


def _find(known_ids: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place in the sorted known_ids, whether it is there) of each id."""
    if not len(known_ids):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    at = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    return at, known_ids[at] == ids


def _world_points(window: Window, rotation0: np.ndarray, centre0: np.ndarray) -> np.ndarray:
    """[m, 4] homogeneous points in the world of a window whose reference camera has this pose."""
    world = window.direction @ rotation0.T + window.inverse_depth[:, None] * centre0
    return np.concatenate([world, window.inverse_depth[:, None]], axis=1)


def _from_first_camera(window: Window, usual_inverse_depth: float) -> Window:
    """The same window with its first camera as the reference, in the scale that makes its points usually so far."""
    rotation = np.matmul(window.rotation, window.rotation[0].T)
    translation = window.translation - rotation @ window.translation[0]
    direction = window.direction @ window.rotation[0].T + window.inverse_depth[:, None] * window.translation[0]
    length = np.linalg.norm(direction, axis=1)
    inverse_depth = window.inverse_depth / length
    scale = usual_inverse_depth / max(float(np.median(inverse_depth)), 1e-9) if inverse_depth.any() else 1.0
    return replace(
        window,
        rotation=rotation,
        translation=translation / scale,
        direction=direction / length[:, None],
        inverse_depth=inverse_depth * scale,
    )


def _part_of(window: Window, frames: np.ndarray, tracks: slice) -> Window:
    return Window(
        window.rotation[frames],
        window.translation[frames],
        window.focal_px[frames],
        window.direction[tracks],
        window.inverse_depth[tracks],
        window.depth_weight[tracks],
        window.is_fixed[frames],
    )


def _nearness(inverse_depth: np.ndarray) -> np.ndarray:
    """[m] inverse depth as a multiple of what most stay under."""
    return inverse_depth / max(float(np.percentile(inverse_depth, _MOST_PERCENT)), 1e-9)


def turned_apart_rad(rotation: np.ndarray, other: np.ndarray) -> float:
    """The largest difference between the turns from frame to frame of cameras [f, 3, 3]; 0 for one frame."""
    turn, other_turn = (np.matmul(r[1:], r[:-1].transpose(0, 2, 1)) for r in (rotation, other))
    cosine = 0.5 * ((turn * other_turn).sum(axis=(1, 2)) - 1.0)
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)).max(initial=0.0))


def robust_cost(error: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[m] squared error of each track in units of the noise, at most 9."""
    squared = (np.minimum(error, 5.0) ** 2 * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1e-9) / _NOISE_PX**2
    return squared / (1.0 + squared / 9.0)


def depth_spread(inverse_depth: np.ndarray) -> float:
    """Robust standard deviation of log depth."""
    logs = np.log(np.maximum(inverse_depth, 1e-6))
    low, high = np.percentile(logs, [12, 88])
    return float(high - low) / 2.35
