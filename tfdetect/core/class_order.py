"""Decide which class of a dataset without a spec is authentic, and record how that is known."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tfdetect.core.errors import UserError, unknown
from tfdetect.core.folder_names import class_polarity
from tfdetect.core.spec import AuthenticBy, ClassSpec
from tfdetect.core.text import listed

_SHOWN = 20  # class names in a message

_NO_MATTER = "all figures but the accuracy of the class are of authentic against fake"


@dataclass(frozen=True)
class RunClasses:
    """The classes of a run that data are to evaluate; for data to train on there are none.

    Attributes:
        class_names: the run's classes in label order; class 0 is the authentic one.
        label: class of all images of a folder: "authentic", "fake" or a class name; None if
            the folders or the manifest tell.
    """

    class_names: tuple[str, ...]
    label: str | None = None

    def index_of(self, label: str) -> int:
        """Return the class number of a label.

        Raises:
            UserError: The label is not known, or "fake" does not say which of several classes.
        """
        names = self.class_names
        if label in names:
            return names.index(label)
        if label == "authentic":
            return 0
        if label == "fake" and len(names) == 2:
            return 1
        if label == "fake":
            raise UserError(
                f"The run distinguishes several kinds of fake. Say which kind these images are: "
                f"--label {' or --label '.join(names[1:])}. If they are of another kind, give any "
                f"of these: {_NO_MATTER}."
            )
        # The nearest name is not suggested here, because it may mean the opposite.
        choices = ", ".join(dict.fromkeys(["authentic", "fake", *names]))
        raise UserError(f"Unknown class for --label {label!r}. Available: {choices}.")

    def number_of(self, name: str) -> int | None:
        """Return the number of the class with this name, ignoring case; None if there is none."""
        return {n.lower(): i for i, n in enumerate(self.class_names)}.get(name.lower())

    def classes(self, folders: dict[int, tuple[str, ...]]) -> tuple[ClassSpec, ...]:
        """Return the run's classes, with the folders or labels in the data by class number."""
        return tuple(
            ClassSpec(name=name, folders=folders.get(number, ()))
            for number, name in enumerate(self.class_names)
        )


class UnknownAuthenticError(UserError):
    """--authentic names a class that a dataset does not have."""


@dataclass(frozen=True)
class OrderedClasses:
    """Classes in label order.

    Attributes:
        specs: the classes, the authentic one first.
        authentic_by: how it is known which one is authentic.
    """

    specs: tuple[ClassSpec, ...]
    authentic_by: AuthenticBy


def order_classes(
    names: Iterable[str],
    authentic: str | None,
    where: Path,
    run_classes: RunClasses | None,
    note: str = "",
) -> OrderedClasses:
    """Return the classes of a dataset in label order.

    Names that differ in case alone are one class.

    Args:
        names: names of folders, or labels of a manifest; at least one.
        authentic: the authentic class, if the user names it.
        where: the dataset, for messages.
        run_classes: given if the data are to evaluate a run. One class alone is enough then; and
            if all classes are the run's, they have the run's order.
        note: what else the message says if there is only one class.

    Raises:
        UserError: There is only one class, it is not clear which one is authentic, or the
            classes do not fit the run's.
    """
    variants: dict[str, list[str]] = {}
    for name in sorted(names):
        variants.setdefault(name.lower(), []).append(name)
    classes = {spelled[0]: tuple(spelled) for spelled in variants.values()}
    for first, spelled in classes.items():
        authentic = first if authentic in spelled else authentic
    if len(classes) == 1:
        (name,) = classes
        return _one_class(name, classes[name], authentic, where, run_classes, note)
    by: AuthenticBy = "name" if authentic is None else "flag"
    first = _authentic_class(list(classes), authentic, where)
    ordered = [first, *(name for name in classes if name != first)]
    if run_classes is not None:
        numbers = [run_classes.number_of(name) for name in ordered]
        if numbers[0] == 0 and None not in numbers:
            folders = {number: classes[name] for number, name in zip(numbers, ordered)}
            return OrderedClasses(run_classes.classes(folders), by)  # type: ignore[arg-type]
        if len(run_classes.class_names) > 2:
            raise UserError(
                f"The run has the classes {', '.join(run_classes.class_names)}, and {where} has "
                f"{', '.join(ordered)}. Name the folders or labels like the run's classes, or "
                "describe the data in a dataset spec that lists the run's classes in their order, "
                "with folders: [] for a kind without images. Fakes of an unknown kind may be "
                f"given any: {_NO_MATTER}."
            )
    return OrderedClasses(tuple(ClassSpec(name=n, folders=classes[n]) for n in ordered), by)


def _authentic_class(names: list[str], authentic: str | None, where: Path) -> str:
    """Return which of several classes is authentic.

    Raises:
        UserError: It is not clear.
    """
    if authentic is not None:
        if authentic not in names:
            raise UnknownAuthenticError(str(unknown("class for --authentic", authentic, names)))
        return authentic
    found = [name for name in names if class_polarity(name) == "authentic"]
    if len(found) == 1:
        return found[0]
    what = "Several classes look authentic" if found else "No class looks authentic"
    numbers = (
        " Numbers are not taken for labels: 0 means authentic in some datasets and fake in others."
        if all(name.isdecimal() for name in names)
        else ""
    )
    raise UserError(
        f"{what} among {listed(names, _SHOWN)} in {where}. Say which one is: --authentic "
        f"NAME.{numbers}"
    )


def _one_class(
    name: str, spelled: tuple[str, ...], authentic: str | None, where: Path,
    run_classes: RunClasses | None, note: str,
) -> OrderedClasses:  # fmt: skip
    """Return the run's classes for data that contain only one class.

    Raises:
        UserError: It is not clear which class that is, or the data are to train on.
    """
    if run_classes is None:
        raise UserError(
            f"{where} has only one class, {name!r}. A detector needs authentic images and at "
            f"least one kind of fake, each in its own folder or with its own label.{note}"
        )
    if authentic is not None and authentic != name:
        raise UnknownAuthenticError(str(unknown("class for --authentic", authentic, [name])))
    number = run_classes.number_of(name)
    if authentic is not None or number == 0 or class_polarity(name) == "authentic":
        label = 0
    elif number is not None:
        label = number
    elif class_polarity(name) == "fake":
        label = run_classes.index_of("fake")
    else:
        raise UserError(
            f"{where} has only one class, {name!r}, and its name does not say whether these "
            "images are fake. Say so: --label authentic or --label fake."
        )
    by: AuthenticBy = "name" if authentic is None else "flag"
    return OrderedClasses(run_classes.classes({label: spelled}), by)
