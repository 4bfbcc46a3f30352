# SPDX-License-Identifier: Apache-2.0
"""RAFT as a FlowEstimator: sizes, padding, occlusion, and what is said when it cannot run."""

import builtins
import importlib.util
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vs3r_engine.errors import SetupError, WeightsMissing  # noqa: E402
from vs3r_engine.frame import Frame, PixelLayout  # noqa: E402
from vs3r_engine.methods import raft  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402

RANDOM = Settings().with_values({"analysis.weights": "random:3"})


@pytest.fixture(scope="module")
def torchvision():
    """torchvision, also where its build does not match a CPU-only torch: its import asks for two operators its library
    would bring."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    yield torchvision


def frame(picture, index=0):
    return Frame(index, tuple(np.ascontiguousarray(picture[..., c]) for c in range(3)), PixelLayout("rgb", 32))


@pytest.fixture
def noise():
    return np.random.default_rng(0).random((133, 171, 3)).astype(np.float32)


def test_flow_has_the_frames_size_and_is_repeatable(torchvision, noise):
    flow = raft.RaftFlow(RANDOM, "cpu")
    first, second = frame(noise), frame(np.roll(noise, 2, axis=1), 1)
    a, b = flow.flow(first, second), flow.flow(first, second)
    assert a.shape == (133, 171, 2) and a.dtype == np.float32 and np.isfinite(a).all() and np.array_equal(a, b)
    assert sum(p.numel() for p in raft._network("random:3", "cpu").parameters()) == 5_257_536


def test_padding_and_enlarging_are_undone(torchvision, monkeypatch):
    """A network that answers known motion in the size it is given: the caller gets it in its own pixels, nothing
    shifted."""

    def knowing(first, second):
        rows, columns = first.shape[-2:]
        assert rows % 8 == 0 and columns % 8 == 0 and min(rows, columns) >= 128
        return [torch.cat((first[:, :1] * 10, torch.full((len(first), 1, rows, columns), 4.0)), 1)]

    monkeypatch.setattr(raft, "_network", lambda source, device: knowing)
    for width, height in ((171, 133), (64, 40), (256, 128)):
        ramp = np.tile((np.arange(width, dtype=np.float32) + 0.5) / width, (height, 1))
        found = raft.RaftFlow(RANDOM, "cpu").flow(frame(np.dstack([ramp] * 3)), frame(np.dstack([ramp] * 3), 1))
        scale = max(1.0, raft.LEAST_SIDE_PX / min(width, height))
        inner = (slice(4, -4), slice(4, -4))
        assert np.abs(found[..., 0] - (ramp * 2 - 1) * 10 / scale)[inner].max() < 0.02
        assert np.abs(found[..., 1] - 4 / scale).max() < 1e-4


def test_frames_are_looked_at_in_the_networks_size(torchvision):
    flow = raft.RaftFlow(RANDOM, "cpu")
    wide, small = (
        flow.prepared(frame(np.zeros((1080, 1920, 3), np.float32))),
        flow.prepared(frame(np.zeros((90, 160, 3), np.float32))),
    )
    assert (wide.width, wide.height) == (518, 291) and (small.width, small.height) == (160, 90)


def test_missing_weights_are_told_before_any_work(torchvision):
    with pytest.raises(WeightsMissing) as error:
        raft.RaftFlow(Settings(), "cpu")
    assert "weights fetch raft-large" in error.value.hint


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImportError("No module"), "torchvision-missing"),
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision-mismatch"),
    ],
)
def test_an_installation_fault_is_not_hidden(monkeypatch, error, code):
    right = builtins.__import__

    def broken(name, *arguments, **options):
        if name.startswith("torchvision"):
            raise error
        return right(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(SetupError) as raised:
        raft.RaftFlow(RANDOM, "cpu")
    assert raised.value.code == code and "analysis.flow=dis" in raised.value.hint


def test_torchvision_is_imported_only_when_raft_is_used():
    code = "import vs3r_engine.methods.raft, sys; assert 'torchvision' not in sys.modules and 'torch' not in sys.modules"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
