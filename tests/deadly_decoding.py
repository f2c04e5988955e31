"""Decoding for a server that ends its process; worker processes import this, and no more."""

import os
import time

from tfdetect.serving.decoding import Decoded


def decode(data, run, max_pixels, copy=None):
    """Decode for a server; b"kill" ends the process, b"slow" takes very long."""
    if data == b"slow":
        time.sleep(600)
    if data == b"kill":
        os._exit(9)
    return Decoded(error=data.decode())
