# SPDX-License-Identifier: Apache-2.0
"""Processes: protocol, server, engine, worker, cache."""
