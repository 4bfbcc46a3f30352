# SPDX-License-Identifier: Apache-2.0
"""Results go back into a copy of the timeline as an additional media reference, and come out again.

The stabilized media sits beside the original under its own key and is active; nothing else of the timeline changes.
"""

import os
from collections.abc import Mapping

import opentimelineio as otio

from host_bridge.timelines.plan import FIRST_IMAGE, KEY, Plan, PlannedClip
from host_bridge.timelines.walk import Root, at, video_clips
from vs3r_engine.errors import InputError
from vs3r_engine.job import RenderResult
from vs3r_engine.media.edit import IMAGE_SUFFIXES, METADATA, SCHEMA, original_key
from vs3r_engine.media.urls import url_of_path


def with_results(root: Root, plan: Plan, results: Mapping[str, RenderResult], output_dir: str = "") -> Root:
    """A copy of `root` in which every planned clip with a result shows its stabilized media; the others show what they showed
    before any stabilization.

    results: by job_id. output_dir: the folder that relative paths of the new timeline count from.
    """
    copy = root.deepcopy()
    for planned in plan.clips:
        clip = at(copy, planned.place.steps)
        if planned.state == "unchanged":
            continue
        result = results.get(planned.job.job_id)
        references = {key: reference for key, reference in clip.media_references().items() if key != KEY}
        if result is None:
            clip.set_media_references(references, planned.key)
        else:
            references[KEY] = stabilized_reference(planned, result, references[planned.key], output_dir)
            clip.set_media_references(references, KEY)
    return copy


def stabilized_reference(
    planned: PlannedClip, result: RenderResult, original: otio.core.MediaReference, output_dir: str
) -> otio.core.MediaReference:
    """The reference of a result: the frames it holds on the original's clock, its path written as the original's is.

    Where the clip has no source range its length is its media's, which is then stated exactly as before.
    """
    whole = planned.place.clip.source_range is None
    available_range = (
        original.available_range if whole and original.available_range is not None else planned.media.time_range(result.render_range)
    )
    metadata = {
        METADATA: {
            "schema": SCHEMA,
            "previous_key": planned.key,
            "digest": planned.digest,
            "source": os.path.basename(planned.job.clip.path),
            "render_range": [result.render_range.start, result.render_range.duration],
            "settings": planned.job.settings.changed(),
        }
    }
    like = getattr(original, "target_url", "") or getattr(original, "target_url_base", "") or "file:///"
    stem, suffix = os.path.splitext(os.path.basename(result.output))
    if suffix in IMAGE_SUFFIXES:
        return otio.schema.ImageSequenceReference(
            target_url_base=url_of_path(os.path.dirname(result.output), like, output_dir) + "/",
            name_prefix=stem.removesuffix(FIRST_IMAGE),
            name_suffix=suffix,
            start_frame=result.render_range.start,
            frame_step=1,
            rate=planned.media.otio_rate,
            frame_zero_padding=len(FIRST_IMAGE),
            available_range=available_range,
            metadata=metadata,
        )
    reference = otio.schema.ExternalReference(
        target_url=url_of_path(result.output, like, output_dir), available_range=available_range, metadata=metadata
    )
    reference.name = os.path.basename(result.output)
    return reference


def reverted(root: Root) -> Root:
    """A copy of `root` without anything that `with_results` added.

    Raises: InputError `nothing-to-revert`; MediaError `original-missing` for timelines of editors whose clips have one media reference.
    """
    copy = root.deepcopy()
    found = 0
    for place in video_clips(copy):
        references = place.clip.media_references()
        shown = original_key(place.clip)
        ours = references.get(KEY)
        if ours is None or METADATA not in ours.metadata:
            continue
        found += 1
        del references[KEY]
        place.clip.set_media_references(references, shown)
    if not found:
        raise InputError(
            "nothing-to-revert", "No clip of the timeline has stabilized media.", "Give the timeline that `vs3r timeline` wrote."
        )
    return copy
