# SPDX-License-Identifier: Apache-2.0
"""Hosts' side of VS3R: talks to the engine over the protocol. Never touches pixels, never imports numpy, cv2 or torch."""
