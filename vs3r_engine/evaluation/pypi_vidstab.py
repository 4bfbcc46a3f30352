# SPDX-License-Identifier: Apache-2.0
"""Runs the PyPI package vidstab on one file, in whatever environment has it: pypi_vidstab.py IN OUT FFMPEG-OPTIONS...

The package gives black frames until its window is full; those are dropped. Pixels go to ffmpeg, so that the encoder is
the one of every other method.
"""

import subprocess
import sys

import cv2
from vidstab import VidStab

WINDOW = 30


def main() -> int:
    source, output, *options = sys.argv[1:]
    capture = cv2.VideoCapture(source)
    size = f"{int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))}x{int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))}"
    command = [
        "ffmpeg",
        "-nostats",
        "-loglevel",
        "warning",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "bgr24",
        "-s",
        size,
        "-r",
        str(capture.get(cv2.CAP_PROP_FPS)),
        "-i",
        "-",
        *options,
        output,
    ]
    encoder = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert encoder.stdin is not None
    stabilizer, given = VidStab(), 0
    while True:
        read, frame = capture.read()
        stable = stabilizer.stabilize_frame(input_frame=frame if read else None, smoothing_window=WINDOW)
        if stable is None:
            break
        given += 1
        if given > WINDOW:
            encoder.stdin.write(stable.tobytes())
    encoder.stdin.close()
    return encoder.wait()


if __name__ == "__main__":
    sys.exit(main())
