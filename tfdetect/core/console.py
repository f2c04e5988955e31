"""Terminal output of all commands: messages, tables and progress.

Results go to stdout; messages, warnings and progress go to stderr, so that
`tfdetect ... --json | jq` and `> file` get the result alone. Colors, width, NO_COLOR and pipes
are handled by rich, which is imported only when it is needed. Control characters in names are
shown as escapes; see `tfdetect.core.text.printable`.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tfdetect.core.addresses import with_addresses
from tfdetect.core.text import as_number, printable

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn
    from rich.table import Table
    from rich.text import Text

Item = TypeVar("Item")
Log = Callable[[str], None]  # is called with each message, such as `log`

PIPE_WIDTH = 1000  # columns of a table that goes into a file or a pipe: lines are not wrapped
SHORTEST = 12  # characters to which names in a terminal are shortened at most
PROSE = 30  # characters that other columns of text keep beside shortened names
NARROWEST = 5  # characters to which a column of text may shrink
GAP = 3  # spaces between columns
LINE_SECONDS = 10  # where there is no terminal, progress lines are at least this far apart
LONGEST_SILENCE = 60  # ... and at most this far apart

_active = threading.Lock()  # a terminal shows one progress bar at a time


def log(text: str) -> None:
    """Print a progress message to stderr."""
    print(_said(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print `warning: text` to stderr."""
    _labeled("warning:", text, "yellow")


def error(text: str) -> None:
    """Print `error: text` to stderr."""
    _labeled("error:", text, "bold red")


def result(text: str = "") -> None:
    """Print a result to stdout."""
    print(_said(text), flush=True)


def _said(text: str) -> str:
    """Return a message as it is printed: without odd characters, and with addresses for copies."""
    return printable(with_addresses(text), lines=True)


def print_json(value: Any) -> None:
    """Print one JSON document to stdout; dates, paths and the like become strings."""
    import json

    print(json.dumps(value, indent=2, default=str), flush=True)


def table(
    rows: Iterable[Mapping[str, Any] | Sequence[Any]],
    columns: Sequence[str] | None = None,
    title: str | None = None,
    max_widths: Mapping[str, int] | None = None,
) -> None:
    """Print a table to stdout; see `format_table` for the arguments."""
    if sys.stdout.isatty():
        console = _console()
        found = _build(rows, columns, title, max_widths, console.width)
        console.print(found, soft_wrap=False)
    else:
        result(format_table(rows, columns, title, max_widths))


def format_table(
    rows: Iterable[Mapping[str, Any] | Sequence[Any]],
    columns: Sequence[str] | None = None,
    title: str | None = None,
    max_widths: Mapping[str, int] | None = None,
    shortened: Collection[str] = (),
) -> str:
    """Return a table as plain text, as wide as the terminal allows.

    Where the columns have no room beside each other, each row becomes lines of `heading: value`.

    Args:
        rows: mappings from column names to values, or sequences in the order of `columns`.
            None becomes an empty cell; numbers are not formatted.
        columns: the column headings; by default the keys of the first row.
        title: a line above the table.
        max_widths: the largest width of some columns, by heading; longer text is wrapped.
        shortened: headings of columns of names, which a terminal shows shortened in the middle
            where whole ones would be wrapped. Files and pipes get them whole.
    """
    console = _console(no_color=True)
    short = None
    if shortened and sys.stdout.isatty() and columns:
        cells = [list(row) for row in rows]
        rows, short = cells, _with_short_names(cells, columns, shortened, console.width)
    with console.capture() as capture:
        found = _build(
            rows if short is None else short, columns, title, max_widths, console.width,
            shortened if short else (),
        )  # fmt: skip
        console.print(found, soft_wrap=False)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


class Progress:
    """How far a long piece of work has come. Made by `progress`; may be used by several threads."""

    def __init__(self, total: int | None, description: str, unit: str, done: int):
        self.total, self.description, self.unit = total, printable(description), unit
        self.done, self.note = done, ""
        self._lock = threading.Lock()

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        with self._lock:
            self.done += count
            self._show()

    def set_done(self, done: int) -> None:
        """Set the number of units that are done."""
        with self._lock:
            self.done = done
            self._show()

    def set_note(self, text: str) -> None:
        """Show `text` behind the bar, for example the best value so far."""
        with self._lock:
            self.note = printable(text)
            self._show()

    def set_step(self, text: str) -> None:
        """Show `text` behind the bar: what is being done of a unit that takes long."""
        self.set_note(text)

    def _show(self) -> None:
        """Update the display; the silent display does nothing."""

    def _end(self) -> None:
        """Close the display."""

    def _count(self) -> str:
        total = "" if self.total is None else f" of {self.total:,}"
        return f"{self.done:,}{total} {self.unit}".rstrip()


class _Lines(Progress):
    """Progress as plain lines, at sensible intervals, for files, pipes and logs."""

    def __init__(self, *args: Any, seconds: float, transient: bool):
        super().__init__(*args)
        self._seconds, self._transient = seconds, transient
        self._began = self._last = time.monotonic()
        self._printed, self._last_done = False, self.done

    def set_step(self, text: str) -> None:
        with self._lock:
            self.note = printable(text)
            if time.monotonic() - self._last >= self._seconds:
                self._print()

    def _show(self) -> None:
        silent = time.monotonic() - self._last
        tenth = (self.total or 0) / 10
        if silent < self._seconds or self.done == self.total:  # `_end` prints the last line
            return
        if silent < LONGEST_SILENCE and self.done - self._last_done < tenth:
            return
        self._print()

    def _print(self, text: str = "") -> None:
        note = f" ({self.note})" if self.note else ""
        log(f"{self.description}: {self._count()}{note}{text}")
        self._printed, self._last, self._last_done = True, time.monotonic(), self.done

    def _end(self) -> None:
        if self._printed and self.done != self._last_done and not self._transient:
            self._print(f", {time.monotonic() - self._began:.0f} s")


class _Bar(Progress):
    """A progress bar in a terminal. It appears when the work has taken `delay` seconds."""

    def __init__(self, *args: Any, delay: float, transient: bool):
        super().__init__(*args)
        self._began, self._delay, self._transient = time.monotonic(), delay, transient
        self._bar: RichProgress | None = None
        if delay <= 0:
            self._start()

    def _start(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns: list[ProgressColumn | str] = [
            TextColumn("{task.description}", markup=False), BarColumn(),
            TextColumn("{task.fields[count]}", markup=False), TimeElapsedColumn(),
        ]  # fmt: skip
        if self.total is not None:
            columns += ["left", TimeRemainingColumn()]
        columns.append(TextColumn("{task.fields[note]}", markup=False))
        # What is printed meanwhile appears above the bar, unless stdout goes elsewhere.
        self._bar = RichProgress(*columns, console=_console(stderr=True), transient=self._transient,
                                 redirect_stdout=sys.stdout.isatty())  # fmt: skip
        self._task = self._bar.add_task(
            self.description, total=self.total, completed=self.done, count=self._count(),
            note=self.note,
        )  # fmt: skip
        self._bar.start()

    def _show(self) -> None:
        if self._bar is None:
            if time.monotonic() - self._began < self._delay or self.done == self.total:
                return
            self._start()
            return
        self._bar.update(self._task, completed=self.done, count=self._count(), note=self.note)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(
    total: int | None,
    description: str,
    unit: str = "",
    *,
    initial: int = 0,
    shown: bool = True,
    delay: float = 1.0,
    transient: bool = False,
    line_seconds: float = LINE_SECONDS,
) -> Iterator[Progress]:
    """Show on stderr how far a long piece of work has come.

    In a terminal it is a progress bar with the time left, elsewhere a plain line now and then.
    A progress inside another one shows nothing, and neither does a short one.

    Args:
        total: the number of units of work; None where it is not known.
        description: what is being done, for example "predicting".
        unit: what is counted, in the plural, for example "images".
        initial: how many units were done before.
        shown: False shows nothing, as --quiet asks for.
        delay: seconds after which a bar appears.
        transient: whether a bar disappears at its end, and no plain line tells of the end.
        line_seconds: seconds before a plain line, and between two, at least.

    Yields:
        The progress, whose `advance` is to be called.
    """
    parts = total, description, unit, initial
    if not shown or not _active.acquire(blocking=False):
        yield Progress(*parts)
        return
    bar = is_terminal()
    display = (
        _Bar(*parts, delay=delay, transient=transient) if bar
        else _Lines(*parts, seconds=line_seconds, transient=transient)
    )  # fmt: skip
    try:
        yield display
    finally:
        display._end()
        _active.release()


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Show no progress meanwhile, whatever is called, if `wanted`."""
    held = wanted and _active.acquire(blocking=False)
    try:
        yield
    finally:
        if held:
            _active.release()


def track(
    items: Iterable[Item],
    description: str,
    total: int | None = None,
    unit: str = "",
    *,
    shown: bool = True,
) -> Iterator[Item]:
    """Yield `items` and show the progress; see `progress`."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with progress(total, description, unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.advance()


def is_terminal() -> bool:
    """Return whether stderr is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def _console(stderr: bool = False, no_color: bool | None = None) -> "Console":
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    wide = not file.isatty() and "COLUMNS" not in os.environ
    return Console(
        stderr=stderr, width=PIPE_WIDTH if wide else None, markup=False, highlight=False,
        emoji=False, force_jupyter=False, no_color=no_color or None,
        force_terminal=False if no_color else None,
    )  # fmt: skip


def _labeled(label: str, text: str, style: str) -> None:
    if not sys.stderr.isatty():  # without rich: mistakes are answered at once
        return log(f"{label} {text}")
    from rich.text import Text

    line = Text.assemble((label, style), " ", _said(text))
    return _console(stderr=True).print(line, soft_wrap=True)


def _build(
    rows: Iterable[Mapping[str, Any] | Sequence[Any]],
    columns: Sequence[str] | None,
    title: str | None,
    max_widths: Mapping[str, int] | None,
    width: int,
    whole: Collection[str] = (),
) -> "Table | Text | Group":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    if columns is None:
        columns = list(rows[0]) if rows and isinstance(rows[0], Mapping) else []
    cells = [
        [row.get(name) for name in columns] if isinstance(row, Mapping) else list(row)
        for row in rows
    ]
    if not _has_room(columns, cells, width):
        return Text("\n".join([*([printable(title), ""] if title else []),
                               *_stacked(columns, cells)]))  # fmt: skip
    found = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for number, name in enumerate(columns):
        numeric = _are_numbers(row[number] for row in cells)
        found.add_column(
            Text(printable(name)), overflow="fold", max_width=(max_widths or {}).get(name),
            no_wrap=numeric or name in whole, justify="right" if numeric else "left",
        )  # fmt: skip
    for row in cells:
        found.add_row(*(Text("" if cell is None else printable(cell)) for cell in row))
    # A title of the table itself would be broken where the table is narrower.
    return Group(Text(printable(title), style="bold"), found) if title else found


def _with_short_names(
    rows: list[list[Any]], columns: Sequence[str], shortened: Collection[str], width: int
) -> list[list[Any]] | None:
    """Return rows whose names are shortened to what the other columns leave of the width.

    None where they leave too little.
    """
    from rich.cells import cell_len

    names = [i for i, name in enumerate(columns) if name in shortened]
    room = width - GAP * (len(columns) - 1)
    for i, name in enumerate(columns):
        if i not in names:
            texts = ["" if row[i] is None else printable(row[i]) for row in rows]
            widest = max(map(cell_len, [name, *texts]))
            room -= widest if _are_numbers(texts) else min(widest, PROSE)
    if room < SHORTEST * len(names):
        return None
    return [
        [middle_out(printable(x), room // len(names)) if i in names and x else x
         for i, x in enumerate(row)]
        for row in rows
    ]  # fmt: skip


def middle_out(text: str, width: int) -> str:
    """Return a text without its middle, "photos/2024-0...19-final.jpg", of at most `width` cells.

    The end is kept longer than the beginning: it tells files of a folder apart.
    """
    from rich.cells import cell_len, chop_cells

    if cell_len(text) <= width:
        return text
    after = (width - 3) * 2 // 3
    before = width - 3 - after
    end = text
    while cell_len(end) > after:
        end = end[1:]
    return f"{chop_cells(text, before)[0] if before else ''}...{end}"


def _has_room(columns: Sequence[str], cells: list[list[Any]], width: int) -> bool:
    """Return whether numbers and NARROWEST characters of other columns fit beside each other."""
    needed = -GAP
    for number, name in enumerate(columns):
        texts = [name, *("" if row[number] is None else printable(row[number]) for row in cells)]
        longest = max(map(len, texts))
        needed += GAP + (longest if _are_numbers(texts[1:]) else min(NARROWEST, longest))
    return needed <= width


def _are_numbers(texts: Iterable[Any]) -> bool:
    filled = [text for text in texts if text not in (None, "")]
    return bool(filled) and all(map(_is_number, filled))


def _stacked(columns: Sequence[str], cells: list[list[Any]]) -> Iterator[str]:
    for number, row in enumerate(cells):
        if number:
            yield ""
        for name, cell in zip(columns, row):
            if cell not in (None, ""):
                yield f"{printable(name)}: {printable(cell)}"


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        value = value.removeprefix("* ").replace(",", "").rstrip("%").split(" ")[0]
    return as_number(value) is not None
