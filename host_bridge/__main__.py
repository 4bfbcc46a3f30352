# SPDX-License-Identifier: Apache-2.0
"""`python -m host_bridge` is `vs3r`."""

from host_bridge.cli import main

if __name__ == "__main__":
    main()
