"""A forging that ends its process; worker processes import this, and no TensorFlow."""

import os
import signal

from tfdetect.synthesis import forge_task


class DeadlyTask(forge_task.ForgeTask):
    """Forges photographs; "7.png" ends the process."""

    def make(self, item, autoencoder=None):
        if item.photo == "7.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(item, autoencoder)
