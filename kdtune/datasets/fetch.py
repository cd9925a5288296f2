"""Fetches a dataset whose terms allow it: download that goes on where it stopped, checksum, unpack, move in place."""

import hashlib
import http.client
import os
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from filelock import FileLock, Timeout

from kdtune import __version__
from kdtune.base import RunError, SegmentationDataset, Split, UserError
from kdtune.datasets.bar import bar, megabytes
from kdtune.datasets.files import Archive, FolderDataset, says_its_place

TIMEOUT_SECONDS = 30
CHUNK = 1 << 20
SPLITS: tuple[Split, ...] = ("train", "val")
UNPACKING = ".kdtune-unpacking-"
LOCK = ".kdtune-fetch.lock"


def fetch(dataset: SegmentationDataset, root: Path, *, url: str | None = None, keep_archive: bool = False) -> list[str]:
    """Makes the dataset's own folder hold the dataset; says what it did, as lines.

    Args:
        dataset: one with an archive.
        root: its own folder, made if it is not there.
        url: another address of the same archive.
        keep_archive: leave the archive in ``root``.

    Raises:
        UserError: it cannot be fetched, something else is there, no room, not the published archive.
        RunError: the connection failed; what has come is kept.
    """
    archive = dataset.archive if isinstance(dataset, FolderDataset) else None
    if says_its_place(dataset):
        raise UserError(f"dataset '{dataset.name}' is a folder of your own, which is fetched from nowhere")
    if archive is None or not isinstance(dataset, FolderDataset):
        raise UserError(
            f"{dataset.name} cannot be fetched by kdtune: {dataset.obtain} into {root}, "
            f"then run: kdtune data check {dataset.name} --root {root}"
        )
    if url is not None and not re.match(r"https?://[^/\s]+\S*$", url):
        raise UserError(f"--url {url}: is no address like http://host/{archive.name}")
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / LOCK, timeout=0):
            return _fetch(dataset, archive, root, url or archive.url, keep_archive)
    except Timeout:
        raise UserError(f"{root}: another 'kdtune data fetch' is at work here: wait until it has ended") from None
    except OSError as error:
        raise UserError(f"{root}: cannot be written: {error.strerror or error}") from error


def _fetch(dataset: FolderDataset, archive: Archive, root: Path, url: str, keep_archive: bool) -> list[str]:
    for abandoned in root.glob(f"{UNPACKING}*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    if _complete(dataset, root, root / archive.folder):
        return [f"{root}: the dataset is there already, nothing to do"]
    path = root / archive.name
    given = path.exists()
    if given:
        _verify(path, path, archive)
    else:
        print(f"terms of use: {archive.terms}", file=sys.stderr)
        _download(url, path, archive)
    _unpack(path, root, archive)
    lines = [f"{root / archive.folder}: unpacked; now run: kdtune data check {dataset.name} --root {root}"]
    if given and not keep_archive:
        lines.append(f"{path}: was there before and stays; it is no longer needed")
    elif not keep_archive:
        path.unlink()
    return lines


def _complete(dataset: FolderDataset, root: Path, folder: Path) -> bool:
    """Whether both splits are there; part of them is an error, since what is there is never touched."""
    advice = "move it away and run again"
    try:
        counts = {split: len(dataset.samples(split, root)) for split in SPLITS}
    except UserError as error:
        if folder.exists():
            raise UserError(f"{folder}: is there but not complete, {advice}: {error}") from None
        return False
    if counts != dict(dataset.published_counts):
        here, published = (" and ".join(map(str, each.values())) for each in (counts, dataset.published_counts))
        raise UserError(f"{root}: holds {here} images (train, val), but published are {published}: {advice}")
    return True


def _download(url: str, path: Path, archive: Archive) -> None:
    """Fetches to ``<archive>.part``, on from what is there, and renames once the checksum is right."""
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.exists() else 0
    try:
        with _open(url, have) as response:
            begin, total = _range(response)
            if begin not in (0, have):
                advice = "name another address of the same archive with --url"
                raise UserError(f"{url}: the server sent other bytes than those from {have} on: {advice}")
            if total:  # unpacked, images are about as large as their archive
                expect_room(path.parent, 2 * total - begin, "the archive and what is in it")
            _receive(response, part, begin, total)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise _refused(url, error) from None
        # there is nothing after what we have: it is complete, or not what the server has; the checksum decides
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__
        raise RunError(f"{url}: the connection failed ({reason}); {_kept(part)}") from None
    _verify(part, path, archive)


def _open(url: str, have: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"kdtune/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _range(response: http.client.HTTPResponse) -> tuple[int, int]:
    """First byte of an answer and size of the whole file; 0 if the server does not say."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", response.headers.get("Content-Range", ""))
        return (int(found[1]), int(found[2].replace("*", "0"))) if found else (-1, 0)
    return 0, int(response.headers.get("Content-Length") or 0)


def _receive(response: http.client.HTTPResponse, part: Path, begin: int, total: int) -> None:
    done = begin
    try:
        file = part.open("ab" if begin else "wb", buffering=0)
    except OSError as error:
        raise UserError(f"{part}: cannot be written: {error.strerror}") from None
    with file, bar(f"fetching {part.stem}", total, megabytes) as watch:
        while chunk := response.read1(CHUNK):  # what has come, so that a cut loses nothing of it
            try:
                file.write(chunk)
            except OSError as error:
                raise UserError(f"{part}: cannot be written: {error.strerror}; make room and run again") from None
            done += len(chunk)
            watch(done)
    if done < total:
        raise RunError(f"{response.url}: the connection was lost; {_kept(part)} of {megabytes(total)}")


def _kept(part: Path) -> str:
    return f"kept so far: {megabytes(part.stat().st_size if part.exists() else 0)}"


def _refused(url: str, error: urllib.error.HTTPError) -> Exception:
    said = f"{url}: the server answers {error.code} {error.reason}"
    if error.code >= 500:
        return RunError(said)
    return UserError(f"{said}: name another address of the same archive with --url")


def _verify(here: Path, path: Path, archive: Archive) -> None:
    """Compares the checksum; a download that has another is removed, a file that a person put there is not."""
    kind, digest = archive.checksum()
    with here.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found == digest:
        here.rename(path)
        return
    advice = "remove it and run again"
    if here != path:
        here.unlink()
        advice = "the download is removed, run again or name another address with --url"
    raise UserError(f"{here}: {kind} is {found}, but published is {digest}: {advice}")


def _unpack(path: Path, root: Path, archive: Archive) -> None:
    """Unpacks beside the final place and renames, so that half a dataset is never taken for one."""
    partial = Path(tempfile.mkdtemp(prefix=UNPACKING, dir=root))
    partial.chmod(0o755)
    try:
        try:
            (_untar if tarfile.is_tarfile(path) else _unzip)(path, partial)
            _refuse_links(path, partial)
        except tarfile.FilterError as error:
            raise UserError(f"{path}: {error}: not the published archive, nothing was unpacked") from None
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path}: cannot be unpacked ({error}): remove it and run again") from None
        if not (partial / archive.folder).is_dir():
            raise UserError(f"{path}: has no folder {archive.folder} in it: not the published archive")
        (partial / archive.folder).rename(root / archive.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _untar(path: Path, where: Path) -> None:
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        for member in members:
            _refuse_member(path, member.name, None if member.isfile() or member.isdir() else "is no file")
        total = sum(member.size for member in members)
        expect_room(where, total, "what is in the archive")
        with bar(f"unpacking {path.name}", total, megabytes) as watch:
            done = 0
            for member in members:
                tar.extract(member, where, filter="data")
                done += member.size
                watch(done)


def _unzip(path: Path, where: Path) -> None:
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        for member in members:
            _refuse_member(path, member.filename, "is a link" if stat.S_ISLNK(member.external_attr >> 16) else None)
        total = sum(member.file_size for member in members)
        expect_room(where, total, "what is in the archive")
        with bar(f"unpacking {path.name}", total, megabytes) as watch:
            done = 0
            for member in members:
                file.extract(member, where)
                done += member.file_size
                watch(done)


def _refuse_member(path: Path, name: str, reason: str | None) -> None:
    """Nothing but files and folders below their own place: the datasets' archives hold nothing else.

    Pythons without the patch for CVE-2025-4517 let links and long paths through the filter ``data``.
    """
    parts = name.replace("\\", "/").split("/")
    if reason is None and (".." in parts or not parts[0] or ":" in parts[0]):
        reason = "would leave the folder"
    if reason is not None:
        raise UserError(f"{path}: its member {name!r} {reason}: not the published archive, nothing was unpacked")


def _refuse_links(path: Path, unpacked: Path) -> None:
    """Whatever the archive said of itself: what was written are files, each where its path says."""
    for folder, folders, files in os.walk(unpacked):
        for name in (*folders, *files):
            if Path(folder, name).is_symlink():
                raise UserError(f"{path}: holds a link ({name!r}): not the published archive, nothing was unpacked")


def expect_room(where: Path, needed: int, what: str) -> None:
    """Refuses to begin what cannot end.

    Raises:
        UserError: fewer than ``needed`` bytes are free.
    """
    free = shutil.disk_usage(where).free
    if free < needed:
        raise UserError(
            f"{where}: {what} need {megabytes(needed)}, but only {megabytes(free)} are free: "
            "make room or name another folder with --root"
        )
