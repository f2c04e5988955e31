"""What is said of a plug-in that fails, or whose functions are not what they must be.

The error of the plug-in stays the `__cause__` of the `UserError` that names it.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tfdetect.core.errors import UserError

if TYPE_CHECKING:
    from tfdetect.core.entries import Registry

TRACEBACK = "TFDETECT_TRACEBACK"  # the environment variable that makes commands show tracebacks
_HINT = f"{TRACEBACK}=1 shows the traceback."
# How AutoGraph says where in a function that it translated an error is.
_TRANSLATED = re.compile(r'File "(.+)", line (\d+), in (\S+)')
_OF_NODE = re.compile(r"^(.+)\n\s*\[\[\{\{node", re.MULTILINE)  # what an operation says in a graph
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node .*?\}\} ?")


@contextmanager
def importing(what: str, module: str) -> Iterator[None]:
    """Name the plug-in that is imported meanwhile, if that fails.

    Args:
        what: what to call it, with "The".
        module: the name of its module.

    Raises:
        UserError: the import fails, or ends the program.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        place = _place_in(error, module)
        if isinstance(error, ModuleNotFoundError) and error.name:
            raise UserError(
                f"{what} imports {error.name!r}, which is not installed{place}. Install it where "
                f"tfdetect is installed, or correct the import. {_HINT}"
            ) from error
        if isinstance(error, SyntaxError) and error.filename:
            reason, place = error.msg, f" ({error.filename}, line {error.lineno})"
        else:
            reason = _reason(error)
        raise UserError(
            f"{what} cannot be imported: {type(error).__name__}: {reason}{place}. Correct it. "
            f"{_HINT}"
        ) from error


@contextmanager
def calling(known: "Registry[Any]", name: str, part: Callable | None = None) -> Iterator[None]:
    """Name the plug-in whose function is called meanwhile, if that raises an error.

    Errors of the functions that come with the package are bugs, and are unchanged.

    Args:
        known: where the function is registered.
        name: its name there.
        part: what is called, if it is not the function itself.

    Raises:
        UserError: the function of a plug-in raises an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not known.is_plugin(name):
            raise
        function = part or known.load(name)
        place = _place_in(error, _module_of(function))
        raise UserError(
            f"{_named(known, name, function)} raised {type(error).__name__}: "
            f"{_reason(error)}{place}. {known.contract.rule(known.kind)} {_HINT}"
        ) from error


def wrong_result(known: "Registry[Any]", name: str, received: str, wanted: str = "") -> UserError:
    """Return the error for a function of a plug-in that returns what it must not.

    Args:
        known: where the function is registered.
        name: its name there.
        received: what it returned.
        wanted: what it must return here, where the contract does not say it.
    """
    wanted = f" It must return {wanted} here." if wanted else ""
    return UserError(
        f"{_named(known, name, known.load(name))} returned {received}.{wanted} "
        f"{known.contract.rule(known.kind)}"
    )


def check_signature(known: "Registry[Any]", name: str, function: Callable) -> None:
    """Check that a function of a plug-in can be called with the arguments of its kind.

    Raises:
        UserError: it takes fewer.
    """
    arguments = known.contract.arguments
    if not arguments:
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some functions in C
        return
    try:
        signature.bind_partial(*arguments)
    except TypeError:
        taken = ", ".join(str(p.replace(annotation=p.empty)) for p in signature.parameters.values())
        raise UserError(
            f"{_named(known, name, function)} takes ({taken}). It is called with "
            f"({', '.join(arguments)}), by position. {known.contract.rule(known.kind)}"
        ) from None


def shape_text(tensor: Any) -> str:
    """Return dtype and shape of a tensor, as in "float32 [B, 16, 16, 3]", or what else it is."""
    shape = getattr(tensor, "shape", None)
    dtype = getattr(tensor, "dtype", None)
    rank = getattr(shape, "rank", 0)  # of TensorFlow's own shapes, which may be unknown
    if shape is None or dtype is None:
        return f"{type(tensor).__name__} {tensor!r:.80}"
    if rank is None:
        return f"{_dtype_name(dtype)} of unknown shape"
    sides = ["B" if n == 0 and s is None else str(s) for n, s in enumerate(shape)]
    return f"{_dtype_name(dtype)} [{', '.join(sides)}]"


def _dtype_name(dtype: Any) -> str:
    return getattr(dtype, "name", None) or str(dtype)


def _named(known: "Registry[Any]", name: str, function: Callable) -> str:
    function = _innermost(function)
    called = getattr(function, "__name__", type(function).__name__)
    code = getattr(function, "__code__", None)
    place = f"module {_module_of(function)}"
    if code is not None:
        place = f"{code.co_filename}, line {code.co_firstlineno}"
    return f"The {known.kind} {name!r} of a plug-in (function {called}, {place})"


def _innermost(function: Any) -> Any:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return inspect.unwrap(function)


def _module_of(function: Callable) -> str:
    return getattr(_innermost(function), "__module__", None) or ""


def _place_in(error: BaseException, module: str) -> str:
    """Return the last line of a plug-in that led to an error, as " (file, line, function)"."""
    if found := _TRANSLATED.findall(str(error)):
        file, line, function = found[-1]
        return f" ({file}, line {line}, in {function})"
    root, place = module.partition(".")[0], ""
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if frame.f_globals.get("__name__", "").partition(".")[0] == root:
            within = frame.f_code.co_name
            place = f"{frame.f_code.co_filename}, line {step.tb_lineno}"
            place = f" ({place}, in {within})" if within != "<module>" else f" ({place})"
        step = step.tb_next
    return place


def _reason(error: BaseException) -> str:
    """Return in one line what an error says, without what TensorFlow and Keras write around it."""
    text = _DECORATION.sub("", str(error)).strip()
    if said := _OF_NODE.findall(text):
        text = said[-1]
    if text.startswith("in user code:"):
        *_, text = re.split(rf"^ *{type(error).__name__}: ", text, flags=re.MULTILINE)
    if text.startswith("Exception encountered when calling"):
        text = text.partition("\n")[2]
    text = text.partition("Error encountered:\n")[2] or text  # of a layer's symbolic call
    lines = text.strip().splitlines()
    return lines[0].strip().rstrip(".")[:300] if lines else "no message"


def shows_traceback() -> bool:
    """Return whether commands show the traceback of an error that they explain."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")
