"""Addresses such as s3://bucket/folder, and the paths of their copies in the cache.

Nothing is read or fetched here; `storage` does that. Credentials come from the configuration of the
libraries; addresses must not contain them. `redacted` removes what may be secret from messages.
"""

import hashlib
import os
import re
from pathlib import Path

from tfdetect.core.caches import cache_dir
from tfdetect.core.errors import UserError

WEB = ("http", "https")
_COPIES = "storage"  # folder in the cache
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}([^/].*)", re.DOTALL)  # Path drops a slash
_NOT_OURS = ("hf", "kaggle", "tfds")
_USER = re.compile(r"(?<=[a-z0-9]:)(/{1,3})[^/\s@]*:[^/\s@]*@")
_QUERY = re.compile(r"(https?:/{1,2}[^\s?'\"]+)\?[^\s'\"]*")

# The path of a local copy does not contain the query of its address: addresses with a query by that
# path, and the paths by the address without the query.
_with_query: dict[Path, str] = {}
_by_name: dict[str, Path] = {}


def copies_folder() -> Path:
    """Return the folder in the cache that holds the copies."""
    return cache_dir().resolve() / _COPIES


def local_path(text: str) -> Path | None:
    """Return the path of the local copy of an address; None if the text is not an address.

    Raises:
        UserError: the address has a password, or a part "..".
    """
    if text in _by_name:
        return _by_name[text]
    match = _ADDRESS.fullmatch(text)
    if match is None or match[1] in _NOT_OURS:
        return None
    scheme, rest = match.groups()
    if scheme == "file":
        return Path("/", rest)
    address, query = f"{scheme}://{rest}", ""
    if scheme in WEB:
        rest, _, query = rest.partition("?")
    parts = [part for part in rest.split("/") if part]
    user, at, _ = parts[0].rpartition("@")
    if at and ":" in user:
        raise UserError(
            f"{redacted(address)}: an address with a password is not used, because addresses are "
            "written into logs and runs. Give the credentials as the library of this kind of "
            "storage takes them: for s3:// in AWS_PROFILE or ~/.aws, for others in fsspec's "
            "configuration (~/.config/fsspec)."
        )
    if "::" in rest or {".", ".."} & set(parts):
        raise UserError(f"{redacted(address)} is not an address of one file or folder.")
    if query:
        parts.insert(-1, f"~{hashlib.sha256(query.encode()).hexdigest()[:12]}")
    path = copies_folder().joinpath(scheme, *parts)
    if query:
        _with_query[path], _by_name[redacted(address)] = address, path
    return path


def address_of(path: str | Path) -> str | None:
    """Return the address that a path is the local copy of; None for other paths."""
    path = Path(path)
    if "storage" not in path.parts:  # at once for nearly all
        return None
    if path in _with_query:
        return _with_query[path]
    try:
        scheme, *parts = path.absolute().relative_to(copies_folder()).parts
    except ValueError:
        return None
    return f"{scheme}://{'/'.join(parts)}"


def shown(path: str | Path) -> str:
    """Return a path for messages: for the local copy of an address, the address without secrets."""
    address = address_of(path)
    return os.fspath(path) if address is None else redacted(address)


def with_addresses(text: str) -> str:
    """Return a message in which the paths of local copies are replaced by their addresses."""
    if f"/{_COPIES}/" not in text:  # a message on a wrong cache folder must not ask for the folder
        return text
    return re.sub(rf"{re.escape(str(copies_folder()))}/([a-z][a-z0-9+.-]+)/(?!/)", r"\1://", text)


def redacted(text: str) -> str:
    """Return text without the passwords and queries of addresses, which may be signatures."""
    return _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text))
