# SPDX-License-Identifier: Apache-2.0
"""The diffusion model at full size with random weights, on a GPU."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from vs3r_engine.evaluation.bench_gpu import rates  # noqa: E402
from vs3r_engine.evaluation.bench_gpu_diffusion import forward_rows  # noqa: E402

pytestmark = pytest.mark.gpu


def test_a_full_size_forward_stays_under_ten_times_its_floor():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    row = next(forward_rows("cuda", False, rates("cuda", 8192), ["none"]))
    assert row.seconds < 10 * row.floor_s and row.peak_gib < 60
