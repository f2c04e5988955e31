"""What the machines of `spark.py --driver` do instead of reading images."""

import hashlib

import numpy as np
import pyarrow as pa

from tfdetect.spark.dataset_tasks import ReadFiles
from tfdetect.spark.run_tasks import PredictFiles


class EmptyRows(PredictFiles):
    """Returns rows as of images that cannot be read, without reading them."""

    def start(self, threads):
        predict = super().start(threads)
        schema = predict(pa.table({"path": pa.array([], pa.string())})).schema

        def rows(items):
            known = {"path": items["path"], "error": pa.array(["not read"] * len(items))}
            columns = [known.get(f.name, pa.nulls(len(items), f.type)) for f in schema]
            return pa.table(columns, schema)

        return rows


class MadeUpRows(ReadFiles):
    """Returns rows as of images of 32 pixels that differ from each other, without reading them."""

    def start(self, threads):
        return lambda items: pa.table([self._column(f, items) for f in self.columns], self.columns)

    def _column(self, field, items):
        count = len(items)
        known = {"width": 32, "height": 32, "bits": 8, "format": "JPEG", "mode": "RGB"}
        if field.name in known:
            return pa.array([known[field.name]] * count, field.type)
        texts = items["item"].to_pylist()
        digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        if field.name in ("hash", "pixels"):
            return pa.array([digest.hex() for digest in digests])
        if field.name == "phash":
            return pa.array([int.from_bytes(digest[:8], "big") for digest in digests], field.type)
        if pa.types.is_boolean(field.type):
            return pa.array([False] * count)
        if pa.types.is_floating(field.type):
            seed = int.from_bytes((digests or [b"0"])[0], "big")
            return pa.array(np.random.default_rng(seed).normal(60, 9, count), field.type)
        return pa.nulls(count, field.type)
