"""Where data stands: a path or URL with its storage options, how it is opened, and what kind of file it is.

Every reader and writer takes a `Location`; nothing below this module parses a path.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import posixpath
import re
import uuid
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import zarr
import zarr.storage
from fsspec import __version__ as fsspec_version
from fsspec import available_protocols, filesystem
from fsspec.core import split_protocol, url_to_fs
from zarr.abc.store import Store

from sc_dask.errors import FormatError, InputError, NothingThereError, StoreError
from sc_dask.io.blobs.suffix import BucketStore
from sc_dask.outside.fsspec import READS_ZIP_BEHIND_URL, reads_zip_behind_url

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZARR_KEYS = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")
_TEXT_KINDS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".txt": "tsv", ".mtx": "mtx"}

Kind = Literal["zarr", "h5ad", "10x-h5", "10x-mtx", "loom", "csv", "tsv", "mtx"]
"""What `sniff` can answer; ``csv`` and ``tsv`` may be gzipped, ``10x-mtx`` is a folder, ``mtx`` one file."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Write elements as they are asked for, without remarks.

    AnnData never chooses shards by itself inside, and zarr does not remark that record arrays (scanpy's
    marker tables) have no v3 specification yet.
    """
    import anndata

    sharding = {"auto_shard_zarr_v3": False} if hasattr(anndata.settings, "auto_shard_zarr_v3") else {}
    with warnings.catch_warnings(), anndata.settings.override(**sharding):
        warnings.filterwarnings("ignore", "The data type .* does not have a Zarr V3 specification")
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        yield


@dataclass(frozen=True)
class Location:
    """A local path or an fsspec URL, and the options that open it.

    Make it with `Location.parse`. Options may hold credentials, so they are never printed.
    """

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @classmethod
    def parse(
        cls, path: str | os.PathLike[str] | Location, storage_options: Mapping[str, Any] | None = None
    ) -> Location:
        """Return the location of a path or URL; a local path is made absolute.

        Raises
        ------
        InputError
            If the path is empty or not a path, or a local path comes with storage options.
        """
        if isinstance(path, Location):
            return cls(path.url, dict(storage_options)) if storage_options else path
        if not isinstance(path, str | bytes | os.PathLike) or not os.fspath(path):
            raise InputError(f"found {path!r} as a path", "a path or a URL such as s3://bucket/atlas.zarr")
        url = os.fsdecode(path)
        protocol, rest = (None, url) if isinstance(path, Path) else _split(url)
        if protocol and not rest.strip("/"):
            raise InputError(f"found {url!r} as a path", "a path or a URL such as s3://bucket/atlas.zarr")
        if protocol not in (None, "file", "local"):
            return cls(url.rstrip("/"), dict(storage_options or {}))
        if storage_options:
            raise InputError(
                f"found storage options {sorted(storage_options)} for the local path {url}",
                "a URL, for instance s3://bucket/atlas.zarr",
                "leave storage_options out",
            )
        return cls(os.path.abspath(rest if os.path.lexists(rest) else os.path.expanduser(rest)))

    @property
    def is_local(self) -> bool:
        """Whether the location is a path of this machine; paths are absolute, URLs begin with a protocol."""
        return os.path.isabs(self.url)

    @property
    def path(self) -> Path:
        """The local path; an ``InputError`` for a URL."""
        if not self.is_local:
            raise InputError(f"found the URL {self.url}", "a local path")
        return Path(self.url)

    @property
    def name(self) -> str:
        """The last part: a file's name."""
        if self.is_local:
            return os.path.basename(self.url)
        url = self.url.split("::")[0]
        return posixpath.basename(url.split("?")[0] if url.startswith("http") else url)

    def sibling(self, name: str) -> Location:
        """Return the place of this name in the same folder, or under the same prefix."""
        if self.is_local:
            return Location(os.path.join(os.path.dirname(self.url), name))
        protocol, _, rest = self.url.rstrip("/").partition("://")
        parent = posixpath.dirname(rest)
        return Location(f"{protocol}://{parent}/{name}" if parent else f"{protocol}://{name}", self.storage_options)

    @property
    def is_zip(self) -> bool:
        """Whether the location is one zip file that holds a zarr store."""
        return self.name.lower().endswith(".zip")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, key: str) -> Location:
        return Location(f"{self.url.rstrip('/')}/{key.strip('/')}", self.storage_options)

    def fs(self) -> tuple[Any, str]:
        """Return the fsspec filesystem and the path on it.

        Raises
        ------
        StoreError
            If no filesystem knows the URL's protocol, or its package is not installed.
        """
        if self.is_local:
            return filesystem("file", use_listings_cache=False), self.url
        try:
            fs, path = url_to_fs(self.url, **self.storage_options)
        except FileNotFoundError as err:  # of a chain
            raise _missing(self) from err
        except (ValueError, ImportError) as err:
            raise StoreError(
                f"found the URL {self.url}, which cannot be opened: {err}",
                "one of the protocols s3, gs, az, https, memory or file",
                'pip install "sc-dask[cloud]"',
            ) from err
        fs.invalidate_cache()  # other processes write too, so what was listed before may be wrong
        return fs, path


Place = str | os.PathLike[str] | Location
"""What every reader and writer takes."""


def _split(text: str) -> tuple[str | None, str]:
    """Return protocol and rest of a URL, or None and the path; what exists on this machine is a path."""
    if os.path.lexists(text):
        return None, text
    first, *chained = text.split("::")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", first)
    local = found is not None and found[1].lower() in ("file", "local")
    if chained and not local and (found or first in available_protocols()):
        return found[1] if found else first, text
    return (found[1].lower(), text[found.end() :]) if found else (None, text)


def _info(location: Location) -> dict[str, Any] | None:
    """Return what the filesystem knows of a file or folder, or None when it is not there."""
    fs, path = location.fs()
    try:
        return dict(fs.info(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as err:  # each filesystem has its own: no credentials, no such host, access denied
        text = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise StoreError(f"{location} cannot be reached: {text}", "a readable location", "check the access") from err


def exists(location: Location) -> bool:
    """Return whether anything stands at a location: a file, a folder, or a zarr store on a server without folders."""
    return _info(location) is not None or _has_zarr_keys(location)


def _has_zarr_keys(location: Location) -> bool:
    return any(_info(location / key) is not None for key in ZARR_KEYS)


def fingerprint(location: Location, key: str = "") -> str:
    """Return a text that changes when the file at a location (or under it, by key) is written again.

    Sources carry it, so that what a process has cached of a file is not used for its successor.
    """
    if key and location.is_zip:
        key = ""
    info = _info(location / key if key else location) or {}
    names = ["ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "created", "md5Hash", "size"]
    if location.is_local:
        names = ["mtime", "size"]  # the other times differ between machines that share a disk
    return ",".join(str(info[n]) for n in names if n in info)


def same_place(a: Location, b: Location) -> bool:
    """Tell whether two locations are one place, under whatever names: links are followed."""
    if a.is_local != b.is_local:
        return False
    if not a.is_local:
        return a.url.rstrip("/") == b.url.rstrip("/")
    if os.path.realpath(a.path) == os.path.realpath(b.path):
        return True
    try:
        return os.path.samefile(a.path, b.path)
    except OSError:  # one of them is not there
        return False


def inside(a: Location, b: Location) -> bool:
    """Tell whether ``a`` is somewhere under ``b``."""
    if a.is_local != b.is_local:
        return False
    inner, outer = (os.path.realpath(p.path) if p.is_local else p.url.rstrip("/") for p in (a, b))
    return inner.startswith(f"{outer}/")


@dataclass
class Revision:
    """The state of a store's tables when it was read, or last written by us; changes with every update.

    ``owner`` names the AnnData: an update of its own that was interrupted is no news to it.
    """

    text: str
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)


def revision_of(location: Location) -> str:
    """Return a text that changes when results are written into a store."""
    keys = [f"{group}{key}" for group in ("", "obs/", "var/") for key in ("zarr.json", ".zattrs", ".zmetadata")]
    if location.is_zip:
        return fingerprint(location)
    return ";".join(fingerprint(location, key) for key in keys)


def _missing(location: Location) -> StoreError:
    return NothingThereError(
        f"there is no file or store at {location}", "an existing path or URL", "check the spelling"
    )


def zarr_store(location: Location, mode: str = "r") -> Store:
    """Return the zarr store at a location: a folder, a zip, or any fsspec URL."""
    read_only = mode == "r"
    if location.is_local:
        if location.is_zip:
            return zarr.storage.ZipStore(location.path, mode="r" if read_only else "w", read_only=read_only)
        return zarr.storage.LocalStore(location.path, read_only=read_only)
    url, options = location.url, dict(location.storage_options)
    if location.is_zip and not url.startswith("zip::"):
        if not read_only:
            raise StoreError(f"{location} cannot be written in place", "a .zarr folder or a local zip")
        if not reads_zip_behind_url():
            raise StoreError(
                f"{location} is a zip behind a URL, which fsspec {fsspec_version} cannot read",
                f"fsspec {READS_ZIP_BEHIND_URL} or later, a .zarr folder or a local zip",
                f'pip install "fsspec>={READS_ZIP_BEHIND_URL}"',
            )
        protocol = split_protocol(url)[0]
        url, options = f"zip::{url}", {str(protocol): options}
    location.fs()  # says in plain words what is wrong with the URL
    store = BucketStore.from_url(url, storage_options=options, read_only=read_only)
    store.fs.invalidate_cache()
    return store


def open_group(location: Location, mode: Literal["r", "r+", "a", "w", "w-"] = "r", **kwargs: Any) -> zarr.Group:
    """Open the root group of a zarr store (v2 or v3, consolidated or not).

    Parameters
    ----------
    location
        A folder, a ``.zip`` (read, or written whole), or an fsspec URL.
    mode
        As ``zarr.open_group``.
    kwargs
        For ``zarr.open_group``, for instance ``zarr_format=3``.

    Raises
    ------
    StoreError
        If nothing stands there.
    FormatError
        If what stands there is not a zarr group.
    """
    if mode == "r" and location.is_local and not location.path.exists():
        raise _missing(location)
    try:
        return zarr.open_group(zarr_store(location, mode), mode=mode, **kwargs)
    except (FileNotFoundError, KeyError, zipfile.BadZipFile, zarr.errors.NodeTypeValidationError) as err:
        if mode != "r":
            raise
        if not exists(location):
            raise _missing(location) from err
        raise FormatError(
            f"{location} holds no zarr group", "a zarr.json or .zgroup at its root", "check that it was copied whole"
        ) from err
    except (ValueError, TypeError, AttributeError) as err:
        if mode != "r":
            raise
        raise FormatError(f"{location} has damaged zarr metadata: {err}", "zarr v2 or v3 metadata") from err


def open_file(location: Location) -> BinaryIO:
    """Open a file for random reading.

    Raises
    ------
    StoreError
        If it is missing, or its server cannot give parts of files.
    """
    if location.is_local:
        if not location.path.is_file():
            raise _missing(location)
        return location.path.open("rb")
    fs, path = location.fs()
    try:
        f: BinaryIO = fs.open(path, "rb", block_size=2**20, cache_type="blockcache")
    except FileNotFoundError as err:
        raise _missing(location) from err
    if not f.seekable():
        f.close()
        raise StoreError(
            f"the server of {location} cannot give parts of a file",
            "one that answers range requests",
            "download the file",
        )
    return f


def sniff(location: Location) -> Kind:
    """Return what kind of data stands at a location, by its content; names decide only between texts.

    Raises
    ------
    StoreError
        If nothing stands there.
    FormatError
        If it is of no kind that is read or converted; says what was found.
    """
    location.fs()  # says in plain words what is wrong with the URL
    info = None if location.name.lower().endswith(".zarr") and not location.is_local else _info(location)
    if info is None or info["type"] == "directory":
        return _sniff_folder(location, found=info is not None)
    with open_file(location) as f:
        head = f.read(512)
        if any(_magic_at(f, offset) for offset in (0, 512, 1024, 2048)):
            return _sniff_hdf5(location)
        if head.startswith(b"PK\x03\x04"):
            return _sniff_zip(location, f)
    if head.startswith((b"\x1f\x8b", b"BZh")):
        head = _decompressed_head(location, head)
    if head[:14].lower() == b"%%matrixmarket":
        return "mtx"
    name = location.name.lower().removesuffix(".gz").removesuffix(".bz2")
    kind = _TEXT_KINDS.get(os.path.splitext(name)[1])
    if kind == "mtx" or (kind and b"\0" in head):
        raise FormatError(f"{location} does not hold what its name says", "text" if kind != "mtx" else "%%MatrixMarket")
    if kind:
        return kind  # type: ignore[return-value]
    if not location.is_local and _has_zarr_keys(location):
        return "zarr"
    raise _unknown(location, "not HDF5, zarr, MatrixMarket, csv or tsv")


def _unknown(location: Location, found: str) -> FormatError:
    return FormatError(
        f"{location} is of an unknown kind: {found}", "AnnData zarr or h5ad, 10x h5 or mtx, loom, csv, tsv", None
    )


def _magic_at(f: BinaryIO, offset: int) -> bool:
    f.seek(offset)
    return f.read(len(HDF5_MAGIC)) == HDF5_MAGIC


def _decompressed_head(location: Location, head: bytes) -> bytes:
    name, opened = ("gzip", gzip.open) if head.startswith(b"\x1f\x8b") else ("bzip2", bz2.open)
    with open_file(location) as f, contextlib.suppress(EOFError, OSError), opened(f) as text:
        return text.read(512)
    raise FormatError(f"{location} is a damaged {name} file", f"a whole {name} file", "fetch it again")


def _sniff_folder(location: Location, found: bool) -> Kind:
    if _has_zarr_keys(location):
        return "zarr"
    if not found:
        if _info(location) is None:
            raise _missing(location)
        raise FormatError(f"{location} holds no zarr store", "a zarr.json or .zgroup in it")
    fs, path = location.fs()
    names = sorted(posixpath.basename(str(p).rstrip("/")) for p in fs.ls(path, detail=False))
    if any(n.endswith(("matrix.mtx", "matrix.mtx.gz")) for n in names):
        return "10x-mtx"
    raise _unknown(location, f"a folder of {', '.join(names[:5]) or 'nothing'}")


def _sniff_zip(location: Location, f: BinaryIO) -> Kind:
    f.seek(0)
    try:
        names = zipfile.ZipFile(f).namelist()
    except zipfile.BadZipFile as err:
        raise FormatError(f"{location} is a damaged zip file", "a whole zip file", "fetch it again") from err
    if any(n.strip("/") in ZARR_KEYS for n in names):
        return "zarr"
    if any(n.startswith("xl/") for n in names):
        raise FormatError(f"{location} is an Excel workbook", "a table as csv or tsv", "save it as csv")
    raise _unknown(location, f"a zip of {', '.join(names[:5]) or 'nothing'}")


def _sniff_hdf5(location: Location) -> Kind:
    import h5py

    try:
        with open_h5(location) as f:
            keys = set(f)
            if "mod" in keys:
                raise FormatError(f"{location} is a MuData file", "one AnnData", "write one modality with anndata")
            if {"obs", "var"} <= keys:
                return "h5ad"
            if "matrix" in keys and isinstance(f["matrix"], h5py.Dataset):
                return "loom"
            if "X" in keys:
                return "h5ad"
            if any(isinstance(f[k], h5py.Group) and {"barcodes", "indptr"} <= set(f[k]) for k in keys):
                return "10x-h5"
    except OSError as err:
        raise FormatError(f"{location} is a damaged HDF5 file: {err}", "a whole file", "fetch it again") from err
    raise _unknown(location, f"an HDF5 file of {', '.join(sorted(keys)[:5]) or 'nothing'}")


def open_h5(location: Location) -> Any:
    """Open an HDF5 file with h5py for reading, local or remote.

    Raises
    ------
    StoreError
        If it is missing.
    FormatError
        If it is damaged or not HDF5.
    """
    import h5py

    f: str | BinaryIO = location.url
    if location.is_local:
        if not location.path.is_file():
            raise _missing(location)
    else:
        f = open_file(location)
    try:
        return h5py.File(f, "r")
    except OSError as err:
        if isinstance(err, BlockingIOError) or "unable to lock" in str(err):
            raise StoreError(
                f"{location} is locked: another program has it open for writing",
                "a file that nobody writes",
                "close it there, or set HDF5_USE_FILE_LOCKING=FALSE if the disk's locks do not work",
            ) from err
        raise FormatError(f"{location} is no whole HDF5 file: {err}", "a whole file", "fetch it again") from err


def read_ranges(location: Location, starts: list[int], stops: list[int]) -> list[bytes]:
    """Return bytes ``start:stop`` of a remote file for each pair, fetched concurrently where the filesystem can.

    Raises
    ------
    StoreError
        If a range cannot be read whole.
    """
    fs, path = location.fs()
    try:
        parts: list[bytes] = fs.cat_ranges([path] * len(starts), starts, stops, on_error="raise")
    except FileNotFoundError as err:
        raise _missing(location) from err
    if any(len(part) != stop - start for part, start, stop in zip(parts, starts, stops, strict=True)):
        raise StoreError(
            f"{location} gave fewer bytes than it was asked for",
            "a whole file on a server with range requests",
            "fetch it again",
        )
    return parts
