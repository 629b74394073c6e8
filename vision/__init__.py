"""What training, bin and hub must agree on: labels, pixels, decisions, bundles, events, figures.

It depends on numpy, OpenCV and the standard library, so that it installs and imports anywhere. It
holds no network, no clock and no configuration file.
"""

import os

# A 48 kB PNG can declare gigabytes of pixels; OpenCV refuses it only if this is set before its
# first import.
MAX_IMAGE_PIXELS = 64 * 1024 * 1024
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_IMAGE_PIXELS))
# OpenCV's own decoders warn on stderr about damaged files; read_image() says it once, with the
# file's name.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
