"""Files from the web, downloaded once: whole or not at all, and checked where their checksum is known."""

from __future__ import annotations

import ftplib
from pathlib import Path

from sc_dask.errors import FormatError, StoreError
from sc_dask.log import logger

_TIMEOUT_S = 30


def download(url: str, path: Path, sha256: str | None = None, fix: str | None = None) -> Path:
    """Return a file, downloaded if it is not there; one that is there is checked too where ``sha256`` is known.

    Raises
    ------
    StoreError
        It is not there and cannot be downloaded; ``fix`` says what else can be done.
    FormatError
        What came, or what is there, is another file.
    """
    import pooch

    protocol = url.split("://")[0]
    kinds = {"ftp": pooch.FTPDownloader, "sftp": pooch.SFTPDownloader}
    loader = kinds.get(protocol, pooch.HTTPDownloader)(timeout=_TIMEOUT_S)
    if path.is_file() and sha256 is None:
        return path
    if not path.is_file():
        logger.info("downloading %s to %s", url, path)
    try:
        found = pooch.retrieve(
            url,
            known_hash=None if sha256 is None else f"sha256:{sha256}",
            fname=path.name,
            path=path.parent,
            downloader=loader,
        )
    except ValueError as error:  # pooch's word for a wrong checksum
        raise FormatError(
            f"found another file at {url}", f"SHA-256 {sha256}", f"remove {path} and try again"
        ) from error
    except (OSError, ftplib.Error) as error:
        raise StoreError(
            f"could not download {url} ({type(error).__name__})", f"a network, or the file at {path}", fix
        ) from error
    return Path(found)
