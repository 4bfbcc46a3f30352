# SPDX-License-Identifier: Apache-2.0
"""OTIO timelines in, stabilized OTIO timelines out, with nothing else changed.

read (files.py) -> choose (walk.py) -> plan (plan.py) -> run (run.py) -> write back (apply.py, flavours.py). Planning
and writing back are pure functions of a timeline; only `run` talks to an engine.
"""
