# SPDX-License-Identifier: Apache-2.0
"""The paper's verbs, pure functions of nouns: reconstruct, mask, smooth, render, complete.

Stages never import methods: each states what it needs as a Protocol, and pipeline.py joins them.
"""
