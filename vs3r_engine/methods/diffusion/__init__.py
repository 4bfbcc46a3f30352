# SPDX-License-Identifier: Apache-2.0
"""What the video diffusion completers share:

autoencoder streams, sampling, adapters, memory, the two passes over a shot.
"""
