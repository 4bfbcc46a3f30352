# SPDX-License-Identifier: Apache-2.0
"""Media files: pixels in and out (video), edits in and out (edit)."""
