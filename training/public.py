"""Public sets by name.

Where they are, what their licence is, and a download that is checked before it is unpacked.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pooch  # type: ignore[import-untyped]

from vision.addresses import without_secrets
from vision.datasets.readers import LICENCES
from vision.errors import DatasetError

MAX_ARCHIVE_BYTES = 8 * 1024**3
MAX_UNPACKED_BYTES = 32 * 1024**3
TIMEOUT_S = 60
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PublicSet:
    """One set that others publish.

    Attributes:
        title: what it is, with its makers.
        source: page to read and to cite.
        url: of the archive (zip).
        sha256: of the archive, or None where the publisher gives none: pin it with `--sha256` after
            the first download.
        licence: SPDX id.
        shippable: whether a model trained on it may be shipped commercially.
    """

    title: str
    source: str
    url: str
    sha256: str | None
    licence: str
    shippable: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched.

    Attributes:
        files: how many.
        sha256: of the archive, hex.
        verified: how, in words for people.
        licence: SPDX id.
    """

    files: int
    sha256: str
    verified: str
    licence: str


PUBLIC_SETS = {
    "trashnet": PublicSet(
        "TrashNet: 2,527 photographs on a white board, six labels (Thung, Yang)",
        "https://github.com/garythung/trashnet",
        "https://raw.githubusercontent.com/garythung/trashnet/6fa2b878c6c1b4304b91109070ce0edf9279bb31/data/dataset-resized.zip",
        None,
        "MIT",
        True,
    ),
    "clothing": PublicSet(
        "Clothing dataset (small): 3,781 photographs of ten kinds of clothes, for textile "
        "(Grigorev)",
        "https://github.com/alexeygrigorev/clothing-dataset-small",
        "https://github.com/alexeygrigorev/clothing-dataset-small/archive/11961516512414bf9f6c150a832cfd21b54a6b54.zip",
        None,
        "CC0-1.0",
        True,
    ),
    "grocery": PublicSet(
        "Grocery Store Dataset: 5,125 photographs, fruit and vegetables for organic (Klasson, "
        "Zhang, Kjellström)",
        "https://github.com/marcusklasson/GroceryStoreDataset",
        "https://github.com/marcusklasson/GroceryStoreDataset/archive/fc80ba90f803d79d0383df52c5a4ac5de99ff6fc.zip",
        None,
        "MIT",
        True,
    ),
    "realwaste": PublicSet(
        "RealWaste: 4,752 photographs from a landfill's floor, nine labels (Single, Iranmanesh, "
        "Raad)",
        "https://doi.org/10.24432/C5SS4G",
        "https://archive.ics.uci.edu/static/public/908/realwaste.zip",
        None,
        "CC-BY-NC-SA-4.0",
        False,
    ),
}


def fetch(
    name: str,
    out: Path,
    url: str | None = None,
    sha256: str | None = None,
    advance: Callable[[int], None] = lambda size: None,
) -> Fetched:
    """Download a public set's archive, check it, and unpack it.

    Nothing is left behind if anything is wrong.

    Args:
        name: key of PUBLIC_SETS.
        out: folder to unpack into; must not exist, or be empty.
        url: a mirror; the set's own address by default.
        sha256: what the archive must be; the set's own by default.
        advance: called with the bytes of each chunk, for a progress bar.

    Raises:
        DatasetError: unknown name, no connection, another checksum, no zip, or a zip that would
            write elsewhere.
    """
    if (chosen := PUBLIC_SETS.get(name)) is None:
        raise DatasetError(f"no public set {name!r}; there are {', '.join(PUBLIC_SETS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out}: is not empty; name a new folder")
    address = url or chosen.url
    wanted = (sha256 or chosen.sha256 or "").lower()
    name_shown = without_secrets(address)
    if not address.startswith(("https://", "http://")):
        raise DatasetError(f"{name_shown}: not an http address")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".fetch-") as scratch:
        archive = _download(address, wanted, Path(scratch), advance)
        digest = str(pooch.file_hash(str(archive)))
        unpacked = Path(scratch) / "set"
        files = _unpack(archive, unpacked, name_shown)
        # The licence stays with the images: whoever trains on them later finds it in the bundle's
        # manifest.
        licence = LICENCES[chosen.licence]
        note = f"# {chosen.title}\n\nSource: {chosen.source}\nLicence: {licence}\n"
        source = unpacked / "SOURCE.md"
        source.write_text(f"{note}archive sha256: {digest}\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(unpacked, out)
    verified = (
        "as expected"
        if wanted
        else "NOT VERIFIED, the publisher names none: give this one as --sha256 next time"
    )
    return Fetched(files, digest, verified, chosen.licence)


class _Counted:
    """A file that counts what is written to it, and takes no more than MAX_ARCHIVE_BYTES.

    Args:
        file: where the bytes go.
        address: for the message.
        advance: called with the bytes of each chunk.
    """

    def __init__(self, file: IO[bytes], address: str, advance: Callable[[int], None]) -> None:
        self._file = file
        self._address = address
        self._advance = advance
        self._size = 0

    def write(self, chunk: bytes) -> int:
        """Write a chunk.

        Raises:
            DatasetError: it is one too many.
        """
        self._size += len(chunk)
        if self._size > MAX_ARCHIVE_BYTES:
            raise DatasetError(
                f"{self._address}: more than {MAX_ARCHIVE_BYTES / 1e9:.0f} GB; refused"
            )
        self._advance(len(chunk))
        return self._file.write(chunk)

    def flush(self) -> None:
        """Do nothing: a file is flushed when it is closed."""


def _download(address: str, wanted: str, folder: Path, advance: Callable[[int], None]) -> Path:
    """Download an archive into a folder, and return its path.

    Args:
        address: http or https.
        wanted: sha256, hex; empty if it is not known.
        folder: nothing of a failed download is left in it.
        advance: called with the bytes of each chunk.

    Raises:
        DatasetError: no connection, one that broke off, too many bytes, or another checksum.
    """
    name_shown = without_secrets(address)

    def download(url: str, path: str, _: object) -> None:
        with Path(path).open("wb") as file:
            get = pooch.HTTPDownloader(timeout=TIMEOUT_S, chunk_size=CHUNK_BYTES)
            get(url, _Counted(file, name_shown, advance), None)

    pooch.get_logger().setLevel(logging.WARNING)  # below it, the address is shown as it is
    try:
        found = pooch.retrieve(address, wanted or None, "archive.zip", folder, None, download)
    except OSError as error:  # requests' errors are such, of a broken-off body too
        raise DatasetError(
            f"{name_shown}: cannot be downloaded ({_reason(error)}). Try a mirror with --url."
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{name_shown}: another archive was expected. Nothing was unpacked. {error}"
        ) from error
    return Path(found)


def _reason(error: BaseException) -> str:
    """Return what went wrong without the address: it may hold secrets, and be redirected to."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _unpack(archive: Path, folder: Path, address: str) -> int:
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [
                m
                for m in zipped.infolist()
                if not m.filename.endswith(("/", "\\")) and "__MACOSX" not in m.filename
            ]
            if sum(m.file_size for m in members) > MAX_UNPACKED_BYTES:
                raise DatasetError(
                    f"{address}: would unpack to more than {MAX_UNPACKED_BYTES / 1e9:.0f} GB; "
                    "refused"
                )
            folder.mkdir()
            for member in members:
                member.filename = member.filename.replace("\\", "/")  # as .NET packs them
                target = (folder / member.filename).resolve()
                if (
                    not target.is_relative_to(folder.resolve())
                    or ":" in member.filename.split("/")[0]
                ):
                    raise DatasetError(
                        f"{address}: holds {member.filename!r}, which lies outside of the folder; "
                        "refused"
                    )
                zipped.extract(member, folder)
    # zlib.error: damaged inside; RuntimeError: encrypted; NotImplementedError: packed in a way of
    # its own.
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        EOFError,
        NotADirectoryError,
    ) as error:
        raise DatasetError(f"{address}: not a readable zip ({error})") from error
    return len(members)
