"""What the server allows: limits on requests, files and waiting."""

from pathlib import Path

from pydantic import Field

from tfdetect.core.documents import Document

MEBIBYTE = 2**20


class ServerSettings(Document):
    """Limits of the server.

    Attributes:
        max_file_mib: largest image file in MiB.
        max_pixels: largest image in pixels.
        max_files: images in one request.
        queue_size: images that wait or are being worked on; further ones are answered with 429.
        batch_size: images that the detector is given at once, at most.
        timeout_s: seconds after which an image is given up.
        decoders: processes that decode files.
        token: the token that requests must carry; none for no check.
        keep: folder that uploaded files are written into; none to keep nothing.
    """

    max_file_mib: int = Field(50, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)
    max_files: int = Field(20, ge=1)
    queue_size: int = Field(64, ge=1)
    batch_size: int = Field(4, ge=1)
    timeout_s: float = Field(60.0, gt=0)
    decoders: int = Field(2, ge=1)
    token: str | None = None
    keep: Path | None = None

    @property
    def max_body(self) -> int:
        """Largest request in bytes: all its files, and a tenth for their wrapping."""
        return int(self.max_files * self.max_file_mib * MEBIBYTE * 1.4)
