# SPDX-License-Identifier: Apache-2.0
"""Replaceable parts behind the stages' Protocols. A foreign convention lives in its adapter here and nowhere else."""
