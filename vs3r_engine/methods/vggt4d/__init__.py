# SPDX-License-Identifier: Apache-2.0
"""The paper's reconstructor: VGGT with VGGT4D's motion mining."""
