# SPDX-License-Identifier: Apache-2.0
"""The VS3R engine: reconstruct, smooth, render, complete. Importing this package imports nothing heavy."""

import os

# The engine's matrices are small: OpenBLAS's own threads only spin (three to ten times the CPU time on a busy machine,
# measured on the geometric analysis). Read once, when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
