"""Find the image files that a user names by files, folders and patterns."""

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tfdetect.core import addresses, storage
from tfdetect.core.errors import UserError
from tfdetect.core.image_names import IMAGE_SUFFIXES, is_image, suffix_of
from tfdetect.core.remote_files import RemoteFile
from tfdetect.core.text import counted, listed, user_path
from tfdetect.core.walk import Walk, is_junk, kind


@dataclass
class ImageFiles:
    """The files that were found. Together they are all files below a folder.

    Attributes:
        paths: the images, in order.
        errors: why images or folders cannot be read, by path; these are not among `paths`.
        empty: folders without images that the user named.
        other: number of files that are no images, by suffix or by what hides them.
        entries: what is known of those at addresses; their paths are of local copies, which need
            not exist.
        repeated: further paths that lead to one of the images; these are not among `paths`.
    """

    paths: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    entries: dict[str, RemoteFile] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    def extend(self, more: "ImageFiles") -> None:
        """Add further files."""
        self.paths += more.paths
        self.errors |= more.errors
        self.empty += more.empty
        self.other.update(more.other)
        self.entries |= more.entries
        self.repeated += more.repeated

    def drop_repeated(self, seen: set[object]) -> None:
        """Keep the first path of each file; a link is a further path to the file it leads to.

        Args:
            seen: the files that other inputs led to; those of this one are added.
        """
        kept: list[str] = []
        for path in self.paths:
            key = path if path in self.entries else _identity(path)
            (self.repeated if key in seen else kept).append(path)
            seen.add(key)
        self.paths = kept

    @property
    def noteworthy(self) -> bool:
        """Whether `describe` says more than the number of images."""
        return bool(self.errors or self.empty or self.other or self.repeated)

    @property
    def unreadable(self) -> dict[str, str]:
        """Why there are no images in what a user named, by path: `errors` and `empty`."""
        return self.errors | dict.fromkeys(self.empty, "the folder contains no images")

    def check(self) -> None:
        """Check that there are images.

        Raises:
            UserError: there are none.
        """
        if not self.paths and self.unreadable:
            path, reason = next(iter(self.unreadable.items()))
            more = f" {self.describe()}." if self.empty else ""
            raise UserError(f"No image can be read. {path}: {reason}.{more}")

    def describe(self) -> str:
        """Return how many files there are of each kind; the numbers add up."""
        repeated = len(self.repeated)
        total = len(self.paths) + repeated + len(self.errors) + self.other.total()
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.other.most_common(5))
        # Whether an image can be decoded is not known yet, so zeros would promise too much.
        parts = [counted(len(self.paths), "image")]
        if repeated:
            parts.append(f"{repeated:,} given twice")
        if self.errors:
            parts.append(f"{len(self.errors):,} that cannot be opened")
        if kinds:
            parts.append(f"{self.other.total():,} of other kinds ({kinds})")
        empty = f". Folders without images: {', '.join(self.empty)}" if self.empty else ""
        once = ""
        if repeated:
            were, count = ("was", "counts") if repeated == 1 else ("were", "count")
            once = f". {counted(repeated, 'file')} {were} given twice and {count} once: " + listed(
                map(addresses.shown, self.repeated)
            )
        return (f"Files: {total:,} = {' + '.join(parts)}" if total else "Files: 0") + empty + once


def images_below(folder: str | Path, once: bool = False) -> ImageFiles:
    """Return the images below a folder, sorted, with their paths relative to it.

    Args:
        folder: the folder.
        once: whether a file that several paths lead to comes once.
    """
    walk, found = Walk(folder), ImageFiles()
    seen = set()
    for path in sorted(walk.paths()):
        if not is_image(walk.root, path):
            found.other[suffix_of(path) or "no suffix"] += 1
            continue
        if once:
            status = os.stat(os.path.join(walk.root, path))
            if (status.st_dev, status.st_ino) in seen:
                found.other["further paths to a file"] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
        found.paths.append(path)
    found.errors = {path or ".": f"it cannot be listed: {why}"
                    for path, why in sorted(walk.unreadable.items())}  # fmt: skip
    found.errors |= dict(sorted(walk.unusable.items()))
    found.other += walk.left_out
    return found


def find_images(inputs: Iterable[str]) -> ImageFiles:
    """Return the image files that a user names, each once.

    Args:
        inputs: as for `images_of`.

    Raises:
        UserError: an input does not exist, a pattern matches no file, or there are no images at
            all.
    """
    found = ImageFiles()
    for text in inputs:
        found.extend(images_of(text))
    found.check()
    found.drop_repeated(set())
    return found


def images_of(text: str) -> ImageFiles:
    """Return the image files of one input.

    Args:
        text: a file, which is taken whatever its name; a folder, which is searched for images with
            all folders below; a glob pattern; or an address of such (`core.storage`).

    Raises:
        UserError: the input does not exist, or the pattern matches no file.
    """
    path = os.fspath(user_path(text))
    if addresses.address_of(path) is not None:
        return _at_address(text, path)
    if os.path.isdir(path):
        below = images_below(path)
        if not below.paths and not below.errors:
            below.empty.append(path)
        below.paths = [os.path.join(path, name) for name in below.paths]
        below.errors = {os.path.join(path, name): why for name, why in below.errors.items()}
        return below
    if os.path.lexists(path):
        return _files([path])
    if glob.has_magic(path):
        matching = _files(_matching(path))
        if not matching.paths and not matching.errors:
            raise UserError(f"No file matches {text!r}.")
        return matching
    raise UserError(f"There is no file or folder {text!r}.")


def _identity(path: str) -> object:
    """Return a key that is equal for all paths that lead to the same file."""
    try:
        status = os.stat(path)
    except OSError:  # it went away meanwhile
        return path
    return status.st_dev, status.st_ino


def _at_address(text: str, path: str) -> ImageFiles:
    """Return the images at an address, as paths of local copies, which need not exist."""
    found = ImageFiles()
    base, pattern = _divided(path)
    for name, entry in sorted(storage.listing(Path(base)).items()):
        file = os.path.join(base, name) if name else base
        if pattern and not _matches(name.split("/"), pattern):
            continue
        if name and not pattern and any(map(is_junk, name.split("/"))):
            found.other["hidden"] += 1
        elif name and not pattern and suffix_of(name).lower() not in IMAGE_SUFFIXES:
            found.other[suffix_of(name) or "no suffix"] += 1
        else:
            found.paths.append(file)
            found.entries[file] = entry
    if not found.paths:
        shown = addresses.redacted(text)
        if pattern:
            raise UserError(f"No file matches {shown!r}.")
        found.empty.append(shown)
    return found


def _files(paths: Iterable[str]) -> ImageFiles:
    """Return paths as image files; pipes, devices and broken links count as unreadable."""
    found = ImageFiles()
    for path in sorted(paths):
        try:
            if os.path.isfile(path):
                found.paths.append(path)
            elif not os.path.isdir(path):
                found.errors[path] = kind(path)
        except OSError as error:
            found.errors[path] = error.strerror or type(error).__name__
    return found


def _matching(pattern: str) -> list[str]:
    """Return the files that match a pattern; ** stands for any number of folders."""
    base, parts = _divided(pattern)
    if "**" not in parts:
        return glob.glob(pattern)
    walk = Walk(base or ".")
    names = [*walk.paths(), *walk.unusable]
    return [os.path.join(base, name) for name in names if _matches(name.split("/"), parts)]


def _divided(path: str) -> tuple[str, list[str]]:
    """Return the folder before the first part of a path that is a pattern, and the parts from it.

    A path without a pattern is such a folder itself.
    """
    parts = Path(path).parts
    first = next((n for n, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None:
        return path, []
    return os.path.join("", *parts[:first]), list(parts[first:])


def _matches(names: list[str], parts: list[str]) -> bool:
    """Return whether the names of a path match the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_matches(names[start:], parts[1:]) for start in range(len(names) + 1))
    return (
        bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])
    )
