"""Patterns of specs mean what they mean in Python, and take no more than linear time."""

import re
import time

import pytest

from tfdetect.core.patterns import PathPattern, PathSearch
from tfdetect.core.shipped_documents import shipped_names
from tfdetect.core.spec import DatasetSpec

PATTERNS = [
    r"(?P<class>real|fake)/.+",
    r"(.*/)?(?P<split>train|test)/(?P<class>REAL|FAKE)/[^/]+",
    r"(?:(?P<generator>.*)/)?(?P<class>ai|nature)/(?P<stem>[\w\-. ]+)\.\w+",
    r"(?P<class>\w+)/(?P<group>\d{1,3}(_\d{,3})?)\.png",
    r"(?P<class>a|(?P<generator>b|c))/[]x]+[^]]*",
    r"(?P<class>(?: \(\d+\))?)x?\.jpg\Z",
    r"(?i)(?P<class>REAL)\W[^\d]",
    re.escape("a.b (c)/") + r"(?P<class>.)",
]
PATHS = [
    "real/a.jpg", "fake/x\ny.png", "train/REAL/1.jpg", "x/y/test/FAKE/z z.png",
    "SD 1.4/train/ai/a_b.png", "nature/gr\u00f6\u00dfe.jpeg", "gr\u00f6\u00dfe/12_345.png",
    "\u0663/1.png", "b/]x]x", "a/x]y", " (2).jpg", "x.jpg", "real-x", "Real 7", "a.b (c)/d",
    "real/\U0010ffe9.jpg", "",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_python_means(pattern):
    found = PathPattern(pattern)
    python = re.compile(pattern, re.DOTALL)
    assert found.groups == tuple(python.groupindex)
    for path, groups in zip(PATHS, found.match(PATHS)):
        match = python.fullmatch(path)
        expected = match and {name: text or "" for name, text in match.groupdict().items()}
        assert groups == expected, path


@pytest.mark.parametrize(
    "pattern",
    [r"/(\w+)/", "real", r"(?:train|test)/(RE..|FA..)", r"(?P<part>\d+)_(\d+)", r"\((\d)\)|x",
     r"[(](\d)", r"^(\w+)(/|-)", r"(\d+)\.png$", "(a|b)?c"],
)  # fmt: skip
def test_a_search_finds_what_python_finds(pattern):
    python = re.compile(pattern)
    for path, found in zip(PATHS, PathSearch(pattern).search(PATHS)):
        match = python.search(path)
        assert found == (match and (match[1 if python.groups else 0] or "")), path


def test_no_search_takes_long():
    start = time.perf_counter()
    assert PathSearch("((a+)+)+!").search(["a" * 4000] * 20) == [None] * 20
    assert time.perf_counter() - start < 1
    with pytest.raises(ValueError, match="look-ahead"):
        PathSearch("(?=a)b")


@pytest.mark.parametrize("name", sorted(shipped_names("data_specs")))
def test_shipped_patterns_are_supported(name):
    from tfdetect.core.load_spec import load_spec

    def check(spec: DatasetSpec) -> None:
        if spec.pattern:
            assert PathPattern(spec.pattern).groups == tuple(re.compile(spec.pattern).groupindex)
        for part in spec.parts:
            check(part.spec)

    check(load_spec(name)[0])


@pytest.mark.parametrize(
    "pattern",
    [r"(?P<class>([a-z]+)+)+!", r"(?P<class>real)/((.+)+)+!", r"(?P<class>(a|aa)+)$", "(.*)*" * 90],
)
def test_no_pattern_takes_long(pattern):
    start = time.perf_counter()
    PathPattern(pattern).match(["a" * 250, "real/" + "a" * 4000] * 10)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?P<class>a", "missing"),
        ("(?=a)(?P<class>a)", "look-ahead"),
        (r"(?P<class>a)\1", "back references"),
        ("(?P<class>.{1,99999999999})", "more than 1,000"),
        ("(?P<class>a)(?P<class>b)", "twice"),
        (r"(?P<class>[a\W])", "between brackets"),
        ("(?P<class>((a{1,999}){1,999}){1,999})", "repetition"),
        ("(" * 5000, "missing"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, reason):
    with pytest.raises(ValueError, match=reason):
        PathPattern(pattern)
