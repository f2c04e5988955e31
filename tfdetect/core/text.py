"""Text that comes from outside, such as file names, and how it is shown in every kind of output.

A file name is bytes. Python shows bytes that are not UTF-8 as lone surrogates, which Arrow, JSON,
YAML and HTML refuse. Inside of tfdetect such a byte is a character of its own, U+10FF00 + byte:
`from_os` makes it, `to_os` turns it back, and `printable` shows it as an escape such as \\xe9.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfdetect.core.addresses import local_path
from tfdetect.core.errors import UserError, UserTypeError, shortened

MAX_NAME_BYTES = 200  # of a dataset, class, run ...: endings and prefixes fit into 255 beside it
_MAX_FILE_BYTES = 240  # of a written file's name: leaves room for a temporary ending
_BYTE = 0x10FF00  # U+10FF80 to U+10FFFF, the end of the private use area, are bytes 0x80 to 0xFF
ENCODED_BYTE = b"\xf4\x8f"  # how they all begin in UTF-8

_FROM_OS = re.compile("[\udc80-\udcff\U0010ff80-\U0010ffff]")
_TO_OS = re.compile("[\U0010ff80-\U0010ffff]+")
# Control characters, bytes that are no UTF-8, and characters that change the direction or the
# look of the text around them without being seen.
_INVISIBLE = (
    "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_HIDDEN = re.compile(f"[{_INVISIBLE}\U0010ff80-\U0010ffff]")
_HIDDEN_IN_LINES = re.compile(f"(?![\n\t])[{_INVISIBLE}\U0010ff80-\U0010ffff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
}  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_FORBIDDEN_IN_NAMES = re.compile(f"[/\\\\{_INVISIBLE}]")


def from_os(path: str | os.PathLike[str]) -> str:
    """Return a path of the operating system as text that every format takes, without loss.

    Args:
        path: a path from `os.listdir`, `sys.argv` and the like, with surrogates for bytes that are
            not UTF-8.
    """
    text = os.fspath(path)
    if text.isascii():
        return text
    return _FROM_OS.sub(_private, text)


def _private(match: re.Match[str]) -> str:
    data = match[0].encode("utf-8", "surrogateescape")
    return "".join(chr(_BYTE + byte) for byte in data)


def to_os(text: str) -> str:
    """Return a path for the functions that open files; the inverse of `from_os`."""
    if text.isascii():
        return text
    return _TO_OS.sub(_bytes_again, text)


def _bytes_again(match: re.Match[str]) -> str:
    data = bytes(ord(character) - _BYTE for character in match[0])
    return data.decode("utf-8", "surrogateescape")


def printable(text: object, lines: bool = False) -> str:
    """Return text without control characters, invisible marks and bytes that are no UTF-8.

    They become escapes such as \\x1b, \\u202e and \\xe9, so that a name can neither move the cursor
    nor look like another one.

    Args:
        text: for example a file name.
        lines: keep line breaks and tabs, of text that is more than a name.
    """
    shown = text if isinstance(text, str) else str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return (_HIDDEN_IN_LINES if lines else _HIDDEN).sub(_escape, shown)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code >= _BYTE or 0xDC80 <= code <= 0xDCFF:
        code &= 0xFF
    if short := {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(code):
        return short
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def capitalized(text: str) -> str:
    """Return a text with a capital first letter; the other letters are unchanged."""
    return text[:1].upper() + text[1:]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return "1 image" or "1,234 images"; `plural` is for nouns whose plural is not noun + "s"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def span(low: int, high: int) -> str:
    """Return "32 to 1,024", or "32" where both are equal."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def listed(names: Iterable[object], most: int = 3) -> str:
    """Return names separated by commas; if there are more than `most`, how many are left out."""
    shown = list(map(printable, names))
    more = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def images_are(count: int, total: int) -> str:
    """Return "3 of 6 images are", or "1 of 6 images is"."""
    return f"{count:,} of {counted(total, 'image')} {'is' if count == 1 else 'are'}"


def legend_label(name: object) -> str:
    """Return a name for a matplotlib legend, which leaves out labels that begin with "_"."""
    shown = printable(name)
    return f" {shown}" if shown.startswith("_") else shown


def markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def latex(text: object) -> str:
    """Return text that LaTeX shows as it is."""
    return "".join(_LATEX.get(character, character) for character in printable(text))


def csv_cell(value: Any) -> Any:
    """Return the value of a CSV cell; text that a spreadsheet would run as a formula gets a "'"."""
    if not isinstance(value, str):
        return value
    if value.startswith(_FORMULA) and as_number(value) is None:
        value = f"'{value}"
    return printable(value, lines=True)


def with_escapes(text: str) -> str:
    """Return text in which bytes that are no UTF-8 are escapes such as \\xe9."""
    return text if text.isascii() else _FROM_OS.sub(_escape, text)


def flag_words(**flags: object) -> list[str]:
    """Return flags as the words of a command line.

    Args:
        flags: values by the flags' names, with _ for -; those that are None are left out.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    return [word for name, value in given.items()
            for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


def shell_command(name: str, /, *arguments: object, **flags: object) -> str:
    """Return the line `python -m tfdetect.NAME ...`, to be pasted into a shell.

    Args:
        name: the name of the command, such as "train".
        arguments: what follows it, such as paths.
        flags: see `flag_words`.
    """
    words = [*map(str, arguments), *flag_words(**flags)]
    return shlex.join(["python", "-m", f"tfdetect.{name}", *map(with_escapes, words)])


def as_number(value: object) -> float | None:
    """Return the number that a value is, or that a text holds; None if there is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def name_problem(name: object) -> str | None:
    """Return the problem of a name of a dataset, class or run; None if it is valid."""
    if not isinstance(name, str):
        return "a name is text"
    if not name or name != name.strip():
        return "a name is not empty, and neither begins nor ends with a space"
    if name.startswith("."):
        return "a name does not begin with a dot"
    if found := _FORBIDDEN_IN_NAMES.search(name):
        return f"a name has no slash and no control character, and this one has {found[0]!a}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"a name has at most {MAX_NAME_BYTES} bytes, and this one has {len(name.encode())}"
    return None


def checked_name(name: str, what: str) -> str:
    """Return a name that can be the name of a folder.

    Args:
        name: the name of a dataset, class, run, experiment, search or generator.
        what: what it names, for the message, for example "the class".

    Raises:
        UserError: it is empty, too long, begins with a dot, or has a slash or control character.
    """
    if problem := name_problem(name):
        shown = printable(name)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise UserError(f"The name of {what} cannot be used: {problem}. Received: '{shown}'.")
    return name


def below(root: Path, path: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write below `root`, checked to stay below it.

    Args:
        root: the folder that is written.
        path: relative to it, for example a class name and a file name.

    Raises:
        UserError: the path leads out of the folder, by "..", by being absolute, or by a link.
    """
    target = root / path
    if not target.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{printable(path)} leads out of the folder {printable(root)}, so nothing is written "
            "there."
        )
    return target


def plain_name(name: str) -> str:
    """Return a name in which invisible characters are replaced by "_"."""
    return _HIDDEN.sub("_", name)


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ~ expanded; for an address, the path of its local copy.

    Raises:
        UserError: it is empty, longer than file systems allow, contains a null character, or
            begins with the "~name" of a user who does not exist.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserTypeError(f"A path is text or a pathlib.Path. Received: {shortened(path)}.")
    text = os.fspath(path)
    if not text:
        raise UserError("A path is empty. Give a file or a folder.")
    if "\0" in text:
        raise UserError(
            f"A path cannot contain a null character. Received: '{printable(text):.80}'."
        )
    try:
        found = _local_copy(text) or Path(to_os(text)).expanduser()
        long = max(len(os.fsencode(part)) for part in found.parts) if found.parts else 0
    except RuntimeError as error:
        raise UserError(f"The path {text!r:.80}: {error}") from None
    except UnicodeEncodeError:
        raise UserError(f"No file can have the name '{printable(text):.80}'.") from None
    if long > 255 or len(os.fsencode(found)) > 4095:
        raise UserError(f"The path {text!r:.80}... is longer than file systems allow.")
    return found


def _local_copy(text: str) -> Path | None:
    return local_path(text) if ":/" in text else None


def file_name(name: str, ending: str = "", most: int = _MAX_FILE_BYTES) -> str:
    """Return the name of a file to write, cut where a file system would refuse it.

    Args:
        name: the wanted name, for example that of the image that the file describes.
        ending: what follows, for example ".mask.png".
        most: the largest number of bytes.

    Returns:
        name + ending; of a name that is too long its beginning and a digest of the whole.
    """
    encoded = os.fsencode(name)
    room = most - len(ending.encode())
    if len(encoded) > room:
        digest = hashlib.sha256(encoded).hexdigest()[:10]
        kept = encoded[: room - 11].decode("utf-8", "surrogateescape")
        # A character that was cut in two is dropped.
        name = re.sub("[\udc80-\udcff]{1,3}$", "", kept) + f"-{digest}"
    return name + ending
