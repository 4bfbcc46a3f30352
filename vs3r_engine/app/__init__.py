# SPDX-License-Identifier: Apache-2.0
"""People: the vs3r-engine command line and the doctor."""

import gc

# Importing and analysing make many objects and hardly a cycle; at Python's own threshold, looking for cycles takes a sixth of the start.
gc.set_threshold(10_000)
