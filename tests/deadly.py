"""Work that ends the process that does it; worker processes import this, and no TensorFlow."""

import os
import signal
import time

from tfdetect.serving.decoding import Decoded
from tfdetect.synthesis import synthesize_dataset


class DeadlyTask(synthesize_dataset.ForgeTask):
    """Forges photographs; "7.png" ends the process."""

    def make(self, item, autoencoder=None):
        if item.photo == "7.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(item, autoencoder)


def decode(data, run, max_pixels):
    """Decode for a server; b"kill" ends the process, b"slow" takes very long."""
    if data == b"slow":
        time.sleep(600)
    if data == b"kill":
        os._exit(9)
    return Decoded(error=data.decode())
