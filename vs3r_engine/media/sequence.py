# SPDX-License-Identifier: Apache-2.0
"""Image sequences: names, and their files as a source of frames."""

def find(path):
    return None
def output_name(path, info):
    return None
class SequenceName: pass
