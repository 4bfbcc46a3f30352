# SPDX-License-Identifier: Apache-2.0
"""Making the completion model: curating pairs, training LoRA adapters."""
