"""Find the class folders of a dataset that has no spec, at any depth."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.folder_names import (
    class_polarity,
    generator_of,
    is_derived_folder,
    is_mask_folder,
    split_of,
)
from tfdetect.core.image_names import is_image
from tfdetect.core.text import from_os
from tfdetect.core.walk import Walk, files_in, subfolders

_MAX_DEPTH = 6  # class folders are looked for so many levels below the root
_MAX_FOLDERS = 20_000  # ... and in so many folders at most


@dataclass(frozen=True)
class ClassFolder:
    """A folder that holds the images of one class.

    Attributes:
        above: names of the folders above it that are neither split nor class, from the root on.
        split: name of the split folder above it, or None.
        split_at: how many of the folders in `above` are above the split folder.
        name: its own name, the class.
        path: path of the folder.
    """

    above: tuple[str, ...]
    split: str | None
    split_at: int
    name: str
    path: str


@dataclass
class FolderTree:
    """The folders of a dataset by their meaning.

    Attributes:
        classes: the class folders, sorted by their paths.
        masks: folders of masks, relative to the root.
        empty: folders that would be classes if images were in them, relative to the root.
    """

    classes: list[ClassFolder] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in alphabetical order."""
        return sorted({c.name for c in self.classes})

    @property
    def splits(self) -> dict[str, str]:
        """The split folders' names, and the splits that they mean."""
        names = sorted({c.split for c in self.classes if c.split is not None})
        return {name: split_of(name) or "" for name in names}


def find_class_folders(
    root: Path, authentic: str | None, known: Callable[[str], bool] | None
) -> FolderTree:
    """Find the class folders below a folder.

    A folder whose name says that it is authentic or fake is a class, and so are the folders
    beside it. The folders above may be splits, generators, or names that say nothing. Folders of
    masks and empty folders are no classes. If no name says anything, the folders of the first
    level with several folders are the classes.

    Args:
        root: the folder.
        authentic: name of a class, from the user.
        known: whether a name is that of a further class; None if there are no further ones.

    Raises:
        UserError: the folders contradict each other, or cannot be read.
    """

    def is_class(name: str) -> bool:
        return class_polarity(name) is not None or (known is not None and known(name))

    tree = _Search(root, is_class).run()
    if authentic is not None and authentic not in tree.class_names:
        named = _Search(root, lambda name: name == authentic).run()
        if named.classes and not _both_sides(tree):
            return named
    return tree if tree.classes else _Search(root, None).run()


def _both_sides(tree: FolderTree) -> bool:
    """Return whether both authentic and fake classes were found by their names."""
    return {"authentic", "fake"} <= {class_polarity(name) for name in tree.class_names}


class _Search:
    """One search for class folders."""

    def __init__(self, root: Path, is_class: Callable[[str], bool] | None):
        """Prepare a search.

        Args:
            root: where to look.
            is_class: whether a name is that of a class; None: the first level with several
                folders has the classes, whatever their names.
        """
        self.root, self.is_class = os.fspath(root), is_class
        self.tree, self.visited = FolderTree(), 0

    def run(self) -> FolderTree:
        self._visit(self.root, (), None, 0, frozenset())
        self.tree.classes.sort(key=lambda c: c.path)
        return self.tree

    def _visit(
        self, folder: str, above: tuple[str, ...], split: str | None, split_at: int,
        ancestors: frozenset[tuple[int, int]],
    ) -> None:  # fmt: skip
        status = os.stat(folder)
        key = status.st_dev, status.st_ino
        self.visited += 1
        if key in ancestors or len(above) > _MAX_DEPTH or self.visited > _MAX_FOLDERS:
            return
        ancestors = ancestors | {key}
        classes, splits, others = self._divide(folder, split is not None)
        for name in classes:
            path = os.path.join(folder, name)
            if holds_images(path):
                found = ClassFolder(above, split, split_at, from_os(name), path)
                self.tree.classes.append(found)
            else:
                self.tree.empty.append(self._relative(path))
        for name in splits:
            inside = os.path.join(folder, name)
            self._visit(inside, above, from_os(name), len(above), ancestors)
        if splits and self.tree.classes:
            return
        for name in others:
            inside = os.path.join(folder, name)
            self._visit(inside, (*above, from_os(name)), split, split_at, ancestors)

    def _divide(self, folder: str, in_split: bool) -> tuple[list[str], list[str], list[str]]:
        """Return the classes in a folder, the splits, and the other folders to look into."""
        children = self._children(folder)
        splits = [name for name in children if not in_split and split_of(name)]
        others = [name for name in children if name not in splits]
        if len(splits) == 1 and self._hold_classes(folder, others):
            splits, others = [], children  # a category that is called "train", as in ForenSynths
        if not self._are_classes(folder, others, bool(splits)):
            return [], splits, others
        self._check_beside(folder, others, splits)
        return others, [], []

    def _children(self, folder: str) -> list[str]:
        """Return the folders in a folder, without those of masks and of derived images."""
        children = []
        for name in subfolders(folder):
            if self.is_class is not None and self.is_class(name):
                children.append(name)
            elif is_mask_folder(name):
                self.tree.masks.append(self._relative(os.path.join(folder, name)))
            elif not is_derived_folder(name):
                children.append(name)
        return children

    def _are_classes(self, folder: str, names: list[str], beside_splits: bool) -> bool:
        if self.is_class is not None:
            return any(map(self.is_class, names))
        if beside_splits or not names:
            return False
        return len(names) > 1 or not self._leads_on(folder, names[0])

    def _hold_classes(self, folder: str, names: list[str]) -> bool:
        """Return whether class folders are below one of several folders, none of them a class."""
        if self.is_class is None or any(map(self.is_class, names)):
            return False
        return any(_Search(Path(folder, name), self.is_class).run().classes for name in names)

    def _leads_on(self, folder: str, name: str) -> bool:
        """Return whether a folder, the only one in its parent, has only folders in it."""
        path = os.path.join(folder, name)
        return bool(subfolders(path)) and not any(is_image(path, file) for file in files_in(path))

    def _check_beside(self, folder: str, classes: list[str], splits: list[str]) -> None:
        """Check that split folders beside class folders hold no classes of their own."""
        for name in splits:
            inside = _Search(Path(folder, name), self.is_class).run()
            if inside.classes:
                raise UserError(
                    f"{folder} has class folders ({', '.join(classes)}) beside the split folder "
                    f"{name}, which has class folders too. Move the former into a folder train."
                )

    def _relative(self, path: str) -> str:
        return from_os(os.path.relpath(path, self.root))


def holds_images(folder: str) -> bool:
    """Return whether an image is below a folder, outside of hidden folders and junk."""
    return any(is_image(folder, path) for path in Walk(folder).paths())


def generators_below(classes: list[ClassFolder]) -> list[str]:
    """Return the names of folders directly in class folders if some name a generator."""
    names = sorted({from_os(name) for c in classes for name in subfolders(c.path)})
    return names if any(map(generator_of, names)) else []
