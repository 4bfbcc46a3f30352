# SPDX-License-Identifier: Apache-2.0
"""People: the vs3r-engine command line and the doctor."""
