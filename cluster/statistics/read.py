"""Parquet files as one DuckDB relation, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from cluster.lake.storage import open_files


def read(
    db: duckdb.DuckDBPyConnection, files: Sequence[str], options: Mapping[str, str]
) -> duckdb.DuckDBPyRelation:
    """Return Parquet files as one relation; a column that one of them lacks is null there.

    A folder called label=1 above the lake is no column: every column that counts is in the files.
    Remote files are read by the libraries that wrote them: DuckDB would have to download an
    extension first.

    Args:
        db: open connection.
        files: paths, or URIs of S3; at least one.
        options: of their storage.

    Raises:
        OSError, ArrowException: remote files cannot be read.
    """
    if files[0].startswith("s3:"):
        return db.from_arrow(open_files(files, options))
    return db.read_parquet(list(files), hive_partitioning=False, union_by_name=True)
