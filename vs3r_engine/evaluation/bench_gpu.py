# SPDX-License-Identifier: Apache-2.0
"""`make bench-gpu`: seconds and memory of the networks on this GPU, at full size with random weights, into BENCHMARKS.md.

Each is set against a floor: its arithmetic, or its least traffic, at the rates that matrix products and copies reach here.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from vs3r_engine.errors import DeviceError, VS3RError
from vs3r_engine.evaluation.bench_page import placed
from vs3r_engine.methods.devices import choose_device

PARTS = ("reconstruction", "diffusion")
_HEADER = "| what | size | how | s | floor s | x floor | peak GiB |\n|---|---|---|---:|---:|---:|---:|"


@dataclass(frozen=True, slots=True)
class Rates:
    """What the device reaches: floating point operations and bytes per second."""

    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. seconds: the best of the repetitions; None where it could not be measured, and then `why`. peak_gib: of
    the device. floor_s: 0 where there is none."""

    what: str
    size: str
    how: str
    seconds: float | None
    floor_s: float = 0.0
    peak_gib: float = 0.0
    why: str = ""

    def line(self) -> str:
        """Of the Markdown table."""
        if self.seconds is None:
            return f"| {self.what} | {self.size} | {self.how} | {self.why} | | | |"
        floor = f"{self.floor_s:.3f} | {self.seconds / self.floor_s:.2f}" if self.floor_s else "|"
        return f"| {self.what} | {self.size} | {self.how} | {self.seconds:.3f} | {floor} | {self.peak_gib:.1f} |"


def measured(run: Callable[[], object], device: str, repeats: int = 1) -> tuple[float, float]:
    """(seconds of the fastest run after one to warm up, peak GiB of the device)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = min([_timed(run, device) for _ in range(1 + repeats)][1:])
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0


def _timed(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rates(device: str, side: int) -> Rates:
    """Of square bf16 products, and of copies of as many numbers in float32."""
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    copied = torch.zeros(side, side, device=device)
    return Rates(2 * side**3 / measured(lambda: a @ b, device, 5)[0], 2 * copied.nbytes / measured(copied.clone, device, 5)[0])


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit code."""
    options = _parsed(arguments)
    try:
        device = choose_device("auto").name
        if device != "cuda" and not options.small:
            raise DeviceError("no-cuda", "There is no CUDA device to measure.", "Run this on a machine that has one.")
        for part in options.parts:
            placed("", options.report, _by(part))  # A page that cannot take the numbers is refused before they are measured.
        reached = rates(device, 256 if options.small else 8192)
        name = torch.cuda.get_device_name() if device == "cuda" else device
        said = (
            f"{name}, torch {torch.__version__}: matrix products at {reached.flops / 1e12:.1f} TFLOP/s, "
            f"copies at {reached.bytes / 1e9:.0f} GB/s."
        )
        print(said)
        for part in options.parts:
            lines = [_HEADER]
            print(_HEADER)
            for row in _rows(part, device, options.small, reached, options.modes.split(",")):
                print(row.line(), flush=True)
                lines.append(row.line())
            options.report.write_text(placed("\n".join([said, "", *lines]), options.report, _by(part)), encoding="utf-8")
    except VS3RError as error:
        print(str(error), file=sys.stderr)
        return error.exit_code
    print(options.report)
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vs3r_engine.evaluation.bench_gpu", description="Measure the networks on this GPU.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--report", type=Path, default=Path("BENCHMARKS.md"), help="Markdown page whose measured parts are replaced")
    parser.add_argument("--modes", default="none,group,int8,fp8", help="where and how the diffusion model's weights are kept, by comma")
    parser.add_argument("--small", action="store_true", help="tiny networks on any device: does the measurement run?")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    options.parts = options.parts or PARTS
    return options


def _by(part: str) -> str:
    return f"make bench-gpu PARTS={part}"


def _rows(part: str, device: str, small: bool, reached: Rates, modes: list[str]) -> Iterator[Row]:
    if part == "reconstruction":
        from vs3r_engine.evaluation.bench_gpu_reconstruction import render_rows, window_rows

        yield from window_rows(device, small, reached)
        yield from render_rows(device, small, reached)
    else:
        from vs3r_engine.evaluation.bench_gpu_diffusion import autoencoder_rows, forward_rows

        yield from forward_rows(device, small, reached, modes)
        yield from autoencoder_rows(device, small)


if __name__ == "__main__":
    sys.exit(main())
