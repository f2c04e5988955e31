"""Tables with missing values, and what they are written as."""

import csv
import io

import numpy as np
import pyarrow as pa

from tfdetect.core.columns import Column, Table

MISSING = np.array([False, True, False])


def example():
    return Table({
        "path": Column.texts(["a.jpg", 'say "no", or\n=1+1', "=SUM(A1)"]),
        "p_fake": Column(np.array([0.1, 0, 1e-7], np.float32), MISSING),
        "certain": Column(np.array([True, False, False]), MISSING),
        "counts": Column(np.arange(6, dtype=np.int32).reshape(3, 2), MISSING),
        "error": Column.texts([None, "not an image", None]),
    })  # fmt: skip


def test_a_table_equals_arrows():
    table = example()
    arrow = table.to_arrow()
    assert arrow.to_pylist() == table.to_pylist()
    assert arrow.schema.types == [
        pa.string(), pa.float32(), pa.bool_(), pa.list_(pa.int32(), 2), pa.string(),
    ]  # fmt: skip
    for name in ("p_fake", "certain", "error"):
        assert arrow[name].null_count == table[name].null_count
        expected = arrow[name].to_numpy()
        found = table[name].to_numpy()
        assert found.dtype == expected.dtype
        assert [str(value) for value in found] == [str(value) for value in expected]
    assert table["counts"].to_numpy().shape == (3, 2)


def test_rows_are_taken_and_added():
    table = example()
    assert table.take([2, 0]).to_pylist() == [table.to_pylist()[2], table.to_pylist()[0]]
    longer = table.extended([{"path": "gone", "error": "it cannot be listed"}])
    assert longer.to_pylist()[:3] == table.to_pylist()
    assert longer.to_pylist()[3] == {
        "path": "gone", "p_fake": None, "certain": None, "counts": None,
        "error": "it cannot be listed",
    }  # fmt: skip
    renamed = table.with_paths(["x", "y", "z"])
    assert renamed.column_names == table.column_names
    assert renamed["path"].to_pylist() == ["x", "y", "z"]


def test_csv_has_the_digits_of_the_type_and_no_formulas():
    text = example().with_column("counts", Column(np.arange(3))).to_csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["p_fake"] for row in rows] == ["0.1", "", "1e-07"]
    assert [row["certain"] for row in rows] == ["true", "", "false"]
    assert rows[1]["path"] == 'say "no", or\n=1+1' and rows[2]["path"] == "'=SUM(A1)"
    assert '"not an image"' in text and [row["error"] for row in rows] == ["", "not an image", ""]
