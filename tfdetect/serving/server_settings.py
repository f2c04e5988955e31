"""`ServerSettings`: limits on requests, files and waiting, and the token."""

from pathlib import Path

from pydantic import Field

from tfdetect.core.documents import Document
from tfdetect.core.limits import MAX_PIXELS

MEBIBYTE = 2**20


class ServerSettings(Document):
    """Settings of the server.

    Attributes:
        max_file_mib: size of an image file in MiB, at most.
        max_pixels: number of pixels of an image, at most.
        max_files: number of images in one request, at most.
        queue_size: number of images that wait or are processed, at most; requests with further ones
            get the status 429.
        batch_size: number of images in a batch of the detector, at most.
        timeout_s: seconds for decoding a file, at most.
        decoders: number of processes that decode files.
        token: the token that requests need; None if they need none.
        keep: the folder into which uploaded files are written; None to keep no file.
    """

    max_file_mib: int = Field(50, ge=1)
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    max_files: int = Field(20, ge=1)
    queue_size: int = Field(64, ge=1)
    batch_size: int = Field(4, ge=1)
    timeout_s: float = Field(60.0, gt=0)
    decoders: int = Field(2, ge=1)
    token: str | None = None
    keep: Path | None = None

    @property
    def max_body(self) -> int:
        """Size of a request in bytes, at most: base64 makes files a third larger."""
        return int(self.max_files * self.max_file_mib * MEBIBYTE * 1.4)
