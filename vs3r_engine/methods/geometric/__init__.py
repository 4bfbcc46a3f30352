# SPDX-License-Identifier: Apache-2.0
"""The weight-free reconstructor."""

from vs3r_engine.methods.geometric.reconstructor import GeometricReconstructor

__all__ = ["GeometricReconstructor"]
