"""Unpacking a data set's archive, RAR or ZIP, into a folder.

The rarfile package reads the RAR archive and has a program decompress it: unrar, unar, 7z or
bsdtar, whichever it finds. (libarchive's bindings would need none, but refuse solid archives and
the filters of RAR 3.) Members that are merely stored need no program.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

import rarfile

from training.files import replacing
from training.progress import Progress

_PROGRAMS = "unrar, unar, 7z or bsdtar"
_ZIP_ENCRYPTED = 0x1

Archive: TypeAlias = "rarfile.RarFile | zipfile.ZipFile"
Member: TypeAlias = "rarfile.RarInfo | zipfile.ZipInfo"


class UnpackError(RuntimeError):
    """The archive could not be unpacked; the message says why and what helps."""


def require_unpacker() -> None:
    """Make sure that RAR archives can be unpacked here, before one is fetched for nothing.

    Raises:
        UnpackError: none of the programs is installed.
    """
    try:
        rarfile.tool_setup(force=True)
    except rarfile.RarCannotExec:
        raise UnpackError(
            f"there is no program here to unpack RAR archives: install {_PROGRAMS} "
            "(Debian and Ubuntu: apt install unar; macOS: brew install unar) and give the command "
            "once more"
        ) from None


def unpack(archive: Path, folder: Path) -> int:
    """Unpack every file of an archive; those that are there already, whole, are left alone.

    Returns:
        How many files the archive has.

    Raises:
        UnpackError: no RAR or ZIP archive, a damaged, solid or encrypted one, one that would
            write outside `folder`, or no program to unpack it.
        OSError: the disk cannot be written.
    """
    try:
        with _opened(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check(archive, opened, members)
            targets = [_target(archive, member, folder) for member in members]
            with Progress(total=len(members), title="unpacking", unit="files") as progress:
                for member, target in zip(members, targets, strict=True):
                    if not target.exists() or target.stat().st_size != member.file_size:
                        _extract(opened, member, target)
                    progress.advance(1)
    except NotImplementedError as error:  # a method of compression that zipfile does not know
        raise UnpackError(f"{archive} cannot be unpacked here: {error}") from error
    except (rarfile.Error, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UnpackError(
            f"{archive} is damaged or cut off ({error}): remove it and fetch it anew"
        ) from error
    return len(members)


def _opened(archive: Path) -> Archive:
    if rarfile.is_rarfile(archive):
        return rarfile.RarFile(archive, errors="strict")
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    with archive.open("rb") as file:
        head = file.read(40)
    raise UnpackError(f"{archive} is neither a RAR nor a ZIP archive: it begins with {head!r}")


def _check(archive: Path, opened: Archive, members: Sequence[Member]) -> None:
    if isinstance(opened, zipfile.ZipFile):
        if any(member.flag_bits & _ZIP_ENCRYPTED for member in members):
            raise UnpackError(f"{archive} is encrypted")
        return
    if opened.needs_password():
        raise UnpackError(f"{archive} is encrypted")
    if all(member.compress_type == rarfile.RAR_M0 for member in members):
        return
    require_unpacker()
    if opened.is_solid():
        # Each member would be decompressed together with all before it.
        raise UnpackError(
            f"{archive} is a solid archive, which is quick to unpack only in one go: do that with "
            f"one of {_PROGRAMS}, for example: unar -o {archive.parent} {archive}"
        )


def _target(archive: Path, member: Member, folder: Path) -> Path:
    name = str(member.filename).replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or not path.parts:
        raise UnpackError(f"{archive} holds {name!r}, which would be written outside {folder}")
    link = (
        stat.S_ISLNK(member.external_attr >> 16)
        if isinstance(member, zipfile.ZipInfo)
        else member.is_symlink()
    )
    if link:
        raise UnpackError(f"{archive} holds the link {name!r}: no data set needs one")
    return folder / path


def _extract(opened: Archive, member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part, opened.open(member) as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
