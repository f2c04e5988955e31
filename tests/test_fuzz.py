"""Whatever a document or flag holds, it is accepted or refused with one message, soon."""

import importlib
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_documents import EXPERIMENT, ODD, RAW, RUN, SPACE, SPEC, changed, dumped, places

from tfdetect.__main__ import COMMANDS
from tfdetect.core.errors import UserError
from tfdetect.core.journal import Journal
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.load_spec import load_spec
from tfdetect.core.open_run import read_run
from tfdetect.core.parsing import parse_yaml, read_json, read_rows, read_yaml
from tfdetect.tuning.space import load_space

FAST = settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
LOADERS = {"spec": load_spec, "experiment": load_experiment, "space": load_space, "run": read_run}
VALID = {"spec": SPEC, "experiment": EXPERIMENT, "space": SPACE, "run": RUN}

scalars = st.one_of(
    st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=20), st.dates(),
    st.binary(max_size=5), st.booleans(),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip


def refused(function, *arguments):
    """Call a function, which may compute for 2 s; return whether it raised a `UserError`."""
    start = time.process_time()
    try:
        function(*arguments)
    except UserError as error:
        assert 10 < len(str(error)) < 30_000
        assert time.process_time() - start < 2
        return True
    assert time.process_time() - start < 2
    return False


def load(kind, folder, content):
    """Write a document and load it as a command would."""
    if kind == "run":
        (folder / "run.json").write_bytes(content)
        return refused(read_run, folder)
    (folder / "odd.yaml").write_bytes(content)
    return refused(LOADERS[kind], str(folder / "odd.yaml"))


@pytest.mark.parametrize("kind", VALID)
def test_the_unchanged_document_is_valid(kind, tmp_path):
    assert not load(kind, tmp_path, dumped(VALID[kind], kind).encode())


@pytest.mark.parametrize("kind", VALID)
@given(data=st.data())
@FAST
def test_a_changed_document(kind, tmp_path, data):
    document = VALID[kind]
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(document))))
        document = changed(document, path, data.draw(values | st.just(...)))
    try:
        content = dumped(document, kind).encode()
    except (TypeError, ValueError, UnicodeEncodeError):  # JSON has no dates and no bytes
        return
    load(kind, tmp_path, content)


@pytest.mark.parametrize("kind", VALID)
def test_raw_bytes_are_refused(kind, tmp_path):
    assert [content[:40] for content in RAW if not load(kind, tmp_path, content)] == []


@given(st.text(max_size=60) | st.text("[]{}:,-&*!|>'\"#%@` \n\ta1.", max_size=60))
@FAST
def test_any_text_as_yaml(text):
    refused(parse_yaml, text, "the text")


@given(st.binary(max_size=80))
@FAST
def test_any_bytes_as_json_and_csv(tmp_path, content):
    file = tmp_path / "odd"
    file.write_bytes(content)
    refused(read_json, file)
    refused(read_rows, file)
    refused(read_yaml, file)


@given(st.sampled_from([
    "training.epochs", "data.image_size", "model.options.stem", "data.augment.0.name", "",
    "model.options.a.b", "data.augment.\u00b2", "training.stages.0.epochs", "plugins",
]), st.text(max_size=20) | st.sampled_from(ODD).map(str))  # fmt: skip
@FAST
def test_any_setting(key, value):
    refused(load_experiment, "small_images", [f"{key}={value}"])


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "models"])
@given(data=st.data())
@settings(FAST, max_examples=10)
def test_any_flag(command, data):
    parser = importlib.import_module(f"tfdetect.{command.replace('-', '_')}").parser()
    flags = [a for a in parser._actions if a.option_strings and a.nargs != 0]
    positions = [a for a in parser._actions if not a.option_strings]
    flag = data.draw(st.sampled_from(flags)).option_strings[-1]
    value = data.draw(st.sampled_from(ODD).map(str) | st.text(max_size=10))
    required = [text for a in flags if a.required for text in (a.option_strings[-1], "x")]
    refused(parser.parse_args, ["x"] * len(positions) + required + [f"{flag}={value}"])


@given(st.lists(st.binary(max_size=30) | st.sampled_from([
    b"3", b"[]", b"{}", b'{"id": null}', b'{"id": [1]}', b'{"id": "a", "x": 1}', b"[" * 3000,
])))  # fmt: skip
@FAST
def test_any_journal(tmp_path, lines):
    file = tmp_path / "journal.jsonl"
    file.write_bytes(b"\n".join(lines))
    rows = Journal(file, "id", ["x"]).read()
    assert all(row.keys() >= {"id", "x"} and isinstance(name, str) for name, row in rows.items())
