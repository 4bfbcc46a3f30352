# SPDX-License-Identifier: Apache-2.0
"""The VS3R engine: reconstruct, smooth, render, complete. Importing this package imports nothing heavy."""

import os

# One thread for each small thing: OpenBLAS's own threads only spin on the engine's small matrices (three to ten times the CPU
# time on a busy machine), OpenCV's make its short loops no faster and wake up for each. Read once, when they are first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")

__version__ = "0.1.0"
