"""Fetch a public data set and unpack it.

    python -m training.download ucf50 --to data/

UCF50 has 3.2 GB, UCF101 6.9 GB, as RAR archives on the site of UCF's Center for Research in
Computer Vision; unpacking takes as much again. Broken off, the same command goes on where it was.
Beside the archive lies <archive>.json with its address, size and sha256: the site publishes no
checksum, so the first fetch is the one that others can be compared with (--sha256).
"""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from training.arguments import command_parser
from training.data.digests import file_digest
from training.data.fetch import DownloadError, fetch
from training.data.unpack import UnpackError, require_unpacker, unpack
from training.errors import DataError
from training.files import write_text
from training.locking import locked


@dataclass(frozen=True, slots=True)
class PublicDataSet:
    """Where a data set's archive is, and which folder of class folders it unpacks to."""

    url: str
    folder: str


DATA_SETS: Mapping[str, PublicDataSet] = MappingProxyType(
    {
        "ucf50": PublicDataSet("https://www.crcv.ucf.edu/data/UCF50.rar", "UCF50"),
        "ucf101": PublicDataSet("https://www.crcv.ucf.edu/data/UCF101/UCF101.rar", "UCF-101"),
    }
)


def download(
    data_set: PublicDataSet,
    folder: Path,
    *,
    sha256: str | None = None,
    context: ssl.SSLContext | None = None,
    pause_s: float = 1.0,
) -> Path:
    """Fetch and unpack a data set below `folder`.

    Args:
        data_set: what to fetch.
        folder: made if it is not there.
        sha256: what the archive's must be, in hexadecimal; not compared if None.
        context: how to check the server's certificate.
        pause_s: seconds before a second try to reach the server.

    Returns:
        The folder of class folders, for --data.

    Raises:
        DownloadError: the archive could not be fetched, or has another sha256.
        UnpackError: it could not be unpacked.
        DataError: another process downloads to the folder.
        OSError: the disk cannot be written.
    """
    # Two that append to one archive would spoil it.
    with locked(folder, file_name=".download.lock", doing="downloads"):
        archive = folder / PurePosixPath(unquote(urlsplit(data_set.url).path)).name
        if archive.suffix.lower() == ".rar":
            require_unpacker()
        fetched = not archive.exists()
        if not fetched:
            print(f"{archive} is there already")
        else:
            fetch(data_set.url, archive, context=context, pause_s=pause_s)
        digest = file_digest(archive)
        print(f"sha256 {digest}  {archive}")
        if sha256 and digest != sha256.lower():
            raise DownloadError(f"the sha256 of {archive} is {digest}, not {sha256}: remove it")
        record = {"bytes": archive.stat().st_size, "sha256": digest}
        if fetched:  # where else it is from is not known
            record = {"url": data_set.url, **record}
        beside = archive.with_name(f"{archive.name}.json")
        if fetched or not beside.exists():
            write_text(beside, json.dumps(record, indent=2) + "\n")
        files = unpack(archive, folder)
        print(f"{files} files in {folder / data_set.folder}; {archive} is needed no more")
        return folder / data_set.folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on standard error."""
    parser = command_parser(
        "download",
        "Fetch a public data set and unpack it. Broken off, the same command goes on.",
    )
    parser.add_argument("data_set", choices=sorted(DATA_SETS), help="which")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument("--url", help="another address of the archive, RAR or ZIP")
    parser.add_argument("--sha256", help="refuse an archive that has another")
    parser.add_argument(
        "--insecure", action="store_true", help="do not verify the server's certificate"
    )
    options = parser.parse_args(arguments)
    named = DATA_SETS[options.data_set]
    context = None
    if options.insecure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        folder = download(
            PublicDataSet(options.url or named.url, named.folder),
            options.to,
            sha256=options.sha256,
            context=context,
        )
    except (DownloadError, UnpackError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"see it with: python -m training.data {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
