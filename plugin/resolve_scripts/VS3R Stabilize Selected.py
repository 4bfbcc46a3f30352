# SPDX-License-Identifier: Apache-2.0
"""Menu script of DaVinci Resolve (Workspace > Scripts). Stabilizes the selected clips; each result is a take beside its original.

Standard library only. `vs3r resolve install` copies it and writes the two paths below.
"""

import importlib.util

PROGRAM = ["vs3r"]
MODULE = "resolve.py"

spec = importlib.util.spec_from_file_location("vs3r_resolve", MODULE)
vs3r = importlib.util.module_from_spec(spec)
try:
    spec.loader.exec_module(vs3r)
except OSError:
    raise SystemExit("VS3R is not where it was. Install it again, then run: vs3r resolve install") from None
try:
    vs3r.stabilize_selected(vs3r.connect(globals()), PROGRAM)
except vs3r.ResolveError as problem:
    print(problem)
