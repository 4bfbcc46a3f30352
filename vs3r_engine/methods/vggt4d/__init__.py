# SPDX-License-Identifier: Apache-2.0
"""The paper's reconstructor: VGGT with VGGT4D's motion mining."""

NAMES = ("vggt4d", "vggt-1b-commercial", "vggt-1b")
"""Entries of the weights' manifest that hold this network, in the order "installed" looks for them: the published
checkpoint first."""
