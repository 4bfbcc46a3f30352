# SPDX-License-Identifier: Apache-2.0
"""The VS3R engine: reconstruct, smooth, render, complete. Importing this package imports nothing heavy."""

__version__ = "0.1.0"
