"""Reads the files of a request, multipart or JSON, within the limits of the settings."""

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

_COUNTED_FACTOR = 10  # times as many files as allowed are counted; with more, a request is not read


async def read_uploads(
    request: Request, settings: ServerSettings, keep: bool = False
) -> list[Upload]:
    """Return the files of a request, multipart or JSON, within the limits.

    Args:
        request: whose body is read.
        settings: the limits.
        keep: whether the files are kept, where the settings name a folder.

    Raises:
        HTTPException: the request is malformed or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(
            max_files=_COUNTED_FACTOR * settings.max_files, max_fields=10
        ) as form:
            found = []
            for name, part in form.multi_items():
                if not isinstance(part, UploadFile):
                    raise HTTPException(422, f"Field {printable(name)[:100]!r} is no file. Give "
                                        "parameters in the address: ?model=NAME")  # fmt: skip
                found.append(Upload(part.filename or "image", await part.read()))
    elif kind == "application/json":
        found = _json_uploads(await request.body())
    else:
        raise HTTPException(
            415, "Send files as multipart/form-data, or JSON with base64 as application/json."
        )
    if not found:
        raise HTTPException(422, "The request has no file.")
    if len(found) > settings.max_files:
        raise HTTPException(422, f"A request has at most {settings.max_files} files.")
    for each in found:
        if len(each.data) > settings.max_file_mib * MEBIBYTE:
            raise HTTPException(413, f"{printable(each.name)[:100]!r} is too large: a file has at "
                                f"most {settings.max_file_mib} MiB.")  # fmt: skip
    named = [Upload(printable(each.name)[:1000], each.data) for each in found]
    if keep and settings.keep is not None:
        _keep(named, settings.keep)
    return named


def _json_uploads(body: bytes) -> list[Upload]:
    try:
        content = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, first_problem(error.errors(), "body")) from None
    found = []
    for number, each in enumerate(content.images):
        try:
            found.append(Upload(each.name, base64.b64decode(each.data, validate=True)))
        except (binascii.Error, ValueError):
            raise HTTPException(422, f"body.images.{number}.data: it is no base64") from None
    return found


def _keep(uploads: list[Upload], folder: Path) -> None:
    for each in uploads:
        name = file_name(f"{uuid.uuid4().hex}-{Path(each.name).name}")
        (folder / name).write_bytes(each.data)
