"""Read the files of a request, multipart or JSON, within the limits of the settings."""

import base64
import binascii
import uuid
from pathlib import Path

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from tfdetect.core.text import file_name, printable
from tfdetect.serving.schemas import PredictRequest, first_problem
from tfdetect.serving.server_settings import MEBIBYTE, ServerSettings
from tfdetect.serving.service import Upload

# A form with up to this factor more files than allowed is read, to report how many are allowed.
_COUNTED_FACTOR = 10


async def read_uploads(
    request: Request, settings: ServerSettings, keep: bool = False
) -> list[Upload]:
    """Return the files of a request, multipart or JSON, within the limits.

    Args:
        request: the request; its body is read.
        settings: the limits.
        keep: whether to write the files into the folder for uploaded files, if the settings have
            one.

    Raises:
        HTTPException: the request is malformed or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _form_uploads(request, _COUNTED_FACTOR * settings.max_files)
    elif kind == "application/json":
        found = _json_uploads(await request.body())
    else:
        raise HTTPException(
            415, "Send files as multipart/form-data, or JSON with base64 as application/json."
        )
    if not found:
        raise HTTPException(422, "The request contains no file. Send images in fields named files.")
    if len(found) > settings.max_files:
        raise HTTPException(
            422, f"The request contains {len(found)} files; at most {settings.max_files} files are "
            "allowed. Send the others in further requests.",
        )  # fmt: skip
    for each in found:
        if len(each.data) > settings.max_file_mib * MEBIBYTE:
            raise HTTPException(
                413, f"{printable(each.name)[:100]!r} is too large: at most "
                f"{settings.max_file_mib} MiB are allowed for a file.",
            )  # fmt: skip
    named = [Upload(printable(each.name)[:1000], each.data) for each in found]
    if keep and settings.keep is not None:
        _keep(named, settings.keep)
    return named


async def _form_uploads(request: Request, max_files: int) -> list[Upload]:
    """Return the files of a multipart request.

    Args:
        request: the request; its body is read.
        max_files: number of files, at most, that are read.

    Raises:
        HTTPException: the request is malformed, or a field is not a file.
    """
    found = []
    async with request.form(max_files=max_files, max_fields=10) as form:
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                raise HTTPException(
                    422, f"The field {printable(name)[:100]!r} is not a file. Give parameters in "
                    "the address: ?model=NAME",
                )  # fmt: skip
            found.append(Upload(part.filename or "image", await part.read()))
    return found


def _json_uploads(body: bytes) -> list[Upload]:
    """Return the files of a JSON request.

    Raises:
        HTTPException: the request is malformed.
    """
    try:
        content = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, first_problem(error.errors(), "body")) from None
    found = []
    for number, each in enumerate(content.images):
        try:
            found.append(Upload(each.name, base64.b64decode(each.data, validate=True)))
        except (binascii.Error, ValueError):
            raise HTTPException(422, f"body.images.{number}.data: not valid base64.") from None
    return found


def _keep(uploads: list[Upload], folder: Path) -> None:
    """Write files into a folder, under unique names."""
    for each in uploads:
        name = file_name(f"{uuid.uuid4().hex}-{Path(each.name).name}")
        (folder / name).write_bytes(each.data)
