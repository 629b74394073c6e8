"""Where the tables of a lake lie: in its folder, or in S3-compatible storage.

An object in S3 is there whole and for good, or not at all, so nothing is synced there, and no torn
commit is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import PyFileSystem

from vision.errors import StorageError

_OWNER_NAME = "_hub_owner"
# Two commits at once are told apart by the storage itself.
_DEFAULTS = {"aws_conditional_put": "etag"}


@dataclass(frozen=True, slots=True)
class Storage:
    """A place for tables.

    Attributes:
        url: file:///srv/lake, or s3://bucket/prefix; without a slash at its end.
        options: of deltalake, e.g. AWS_ENDPOINT_URL; what is not here comes from the environment.
    """

    url: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Return whether it is a folder of this machine."""
        return self.url.startswith("file:")

    def uri(self, name: str) -> str:
        """Return where a table is."""
        return f"{self.url}/{name}"

    def path_or_uri(self, uri: str) -> str:
        """Return what DuckDB and pyarrow know a file by: a path, or the URI of what is remote."""
        return unquote(urlsplit(uri).path) if self.is_local else uri

    def own(self, log_id: str) -> None:
        """Become the one hub whose log feeds these tables.

        Hubs on one machine exclude each other by a lock; those on several by this.

        Raises:
            StorageError: another hub's log does, or the storage does not answer.
        """
        if self.is_local:
            return
        table = self.uri(_OWNER_NAME)
        try:
            owner = _owner(table, self.options)
            if owner is None:
                rows = pa.table({"log_id": [log_id]})
                # Of two hubs that start at once, one gets an error.
                write_deltalake(table, rows, mode="error", storage_options=dict(self.options))
                owner = log_id
        except (DeltaError, pa.ArrowException, OSError) as error:
            raise StorageError(f"{table}: cannot be read or written ({error})") from error
        if owner != log_id:
            raise StorageError(
                f"{self.url}: another hub's log feeds these tables ({owner}, not {log_id}); stop "
                f"that hub, or name another storage. If it is gone for good, remove {_OWNER_NAME} "
                "there"
            )


def local_storage(folder: Path) -> Storage:
    """Return the storage of a lake whose tables lie in its folder.

    Raises:
        StorageError: the path cannot be used.
    """
    path = str(folder.resolve())
    if unquote(path) != path:
        raise StorageError(
            f"{folder}: deltalake takes %XX in a path for an encoded letter; name another folder"
        )
    if pattern := sorted(set(path) & set("*?[]{}")):
        raise StorageError(
            f"{folder}: deltalake and DuckDB read {' '.join(pattern)} in a path as a pattern; "
            "name another folder"
        )
    return Storage(folder.resolve().as_uri())


def remote_storage(url: str, options: Mapping[str, str]) -> Storage:
    """Return S3-compatible storage.

    Args:
        url: s3://bucket/prefix.
        options: see Storage.
    """
    return Storage(url.rstrip("/"), {**_DEFAULTS, **options})


def open_files(uris: Sequence[str], options: Mapping[str, str]) -> ds.Dataset:
    """Return remote Parquet files as one dataset; a column that one of them lacks is null there.

    Args:
        uris: of one bucket, at least one.
        options: see Storage.

    Raises:
        OSError, ArrowException: they cannot be read.
    """
    bucket = "/".join(uris[0].split("/")[:3])
    factory = ds.FileSystemDatasetFactory(
        _file_system(bucket, options),
        [uri.removeprefix(f"{bucket}/") for uri in uris],
        ds.ParquetFileFormat(),
        ds.FileSystemFactoryOptions(),
    )
    return factory.finish(factory.inspect(promote_options="default"))


def _owner(table: str, options: Mapping[str, str]) -> str | None:
    try:
        files = DeltaTable(table, storage_options=dict(options)).file_uris()
    except TableNotFoundError:
        return None
    return str(open_files(files, options).to_table()["log_id"][0].as_py())


def _file_system(url: str, options: Mapping[str, str]) -> PyFileSystem:
    return PyFileSystem(DeltaStorageHandler(url, options=dict(options)))
