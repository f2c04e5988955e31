"""Prepares a planned dataset as shards."""

from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.data.plan import Plan, find_data


def prepare_shards(
    plan: Plan, output: Path, copies, shard_bytes: int, workers: int, progress: bool = True
):
    """Writes the planned dataset as shards; see `data.shards.prepare`.

    Raises:
        UserError: it is prepared already.
    """
    from tfdetect.data.shards import prepare

    catalog = find_data(plan, progress)
    if "shard" in catalog.table.column_names:
        raise UserError(f"{catalog.name} is prepared already. Start from its files.")
    return prepare(catalog, plan.spec, output, copies, shard_bytes, workers, progress)
