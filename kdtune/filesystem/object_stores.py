"""File systems that are not a folder of this machine: S3, GCS and what else pyarrow opens by a URI.

Nothing here holds credentials: pyarrow's libraries find them in their usual places, in the process that needs them. A
file system is never sent to another process, for pickled with credentials it would carry them.
"""

import _thread
import errno
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
from pyarrow import fs

from kdtune.errors import UserError
from kdtune.filesystem.patience import StorageError

# Seconds after which a silent S3 server is given up, and the request made again by ``patience``: to connect, and
# without a byte in either direction. The latter is longer than the 10 s at which servers that need time (to put a large
# object together) send a sign of life. curl averages over some seconds, so that a hanging upload takes about 7 s more.
CONNECT_SECONDS, SILENT_SECONDS = 5, 12
GCS_SECONDS = 5  # for which Google's library tries by itself, each request; its own default is minutes

T = TypeVar("T")

SECRET = re.compile(r"key|secret|token|sig|pass|cred|auth", re.IGNORECASE)  # in the name of a URI's option
PLACES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile in ~/.aws, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's service account",
}
PLACES["gcs"] = PLACES["gs"]
ELSEWHERE = "the environment"

DENIED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE|TOO_SKEWED|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT"
    r"|INVALID_CLIENT_TOKEN_ID|EXPIRED|SIGNING_FAILURE|ExpiredToken|InvalidToken|HTTP status 40[13]"
    r"|PERMISSION_DENIED|UNAUTHENTICATED"
)
NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|RESOURCE_NOT_FOUND|HTTP status 404|NOT_FOUND")
FULL = re.compile(r"HTTP status 507|QuotaExceeded|StorageFull")
REPLACED = re.compile(r"HTTP status 416|INVALID_RANGE|InvalidRange|NOT_FOUND|404|Path does not exist|closed file")
# a request that is wrong now is wrong again; 408 and 429 ask for another try
REFUSED = re.compile(r"HTTP status (?!408|429)4\d\d|INVALID_ARGUMENT|INVALID_PARAMETER|VALIDATION|FAILED_PRECONDITION")
# around what a library has to say: "When reading information for key ...: AWS Error X during Y: what" and the like
NOISE = re.compile(
    r"^.*?AWS Error |curlCode: \d+, [^;]*; Details: | ?\(Request ID:.*$|\.$"
    r"|^.*?google::cloud::Status\(|Retry policy exhausted, with a last message of | error_info=.*$"
)


def scheme_of(uri: str) -> str:
    """``s3`` of ``s3://...``; empty for a path."""
    return uri.partition("://")[0].lower() if "://" in uri else ""


def refuse_misspelt(uri: str) -> None:
    """``s3:/bucket`` would be a folder of that name, here.

    Raises:
        UserError: it looks like a URI, and is none.
    """
    scheme, colon, rest = uri.partition(":")
    if colon and scheme.lower() in (*PLACES, "file", "abfs", "abfss", "hdfs") and not rest.startswith("//"):
        meant = f"{scheme.lower()}://{rest.lstrip('/')}"
        raise UserError(f"{uri}: is no URI, which has two slashes: {meant}; a folder of that name is ./{uri}")


def refuse_credentials(uri: str) -> None:
    """A URI is logged, written into files and seen by every user of the machine: it must not hold credentials.

    Raises:
        UserError: it does; the line does not repeat them.
    """
    scheme = scheme_of(uri)
    if not scheme or scheme == "file":
        return
    base, _, query = uri.partition("?")
    place = base.partition("://")[2]
    first = place.partition("/")[0]  # or the part of a secret before its first slash
    user, at, _ = first.rpartition("@")
    # user@host is part of some addresses (abfss://container@account); of a bucket it is not, and neither is a colon
    bucket = scheme in PLACES and (":" in first or (at and user != "anonymous"))
    inside = bucket or ":" in user or (":" in first and "@" in place and not at)
    if inside or any(SECRET.search(name) or "@" in value for name, value in parse_qsl(query, keep_blank_values=True)):
        shown = place if not inside else place.rpartition("@")[2] if "@" in place else "..."
        raise UserError(
            f"{scheme}://{shown}: its URI is given with credentials in it; leave them out: they are taken from "
            f"{PLACES.get(scheme, ELSEWHERE)}"
        )


def root_of(uri: str) -> str:
    """The bucket with the URI's options: what one file system object serves. A local path is its own storage."""
    if not scheme_of(uri):
        return "local"
    base, question, options = uri.partition("?")
    scheme, _, place = base.partition("://")
    return f"{scheme}://{place.partition('/')[0]}{question}{options}"


def opened(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path in it.

    Raises:
        UserError: no such kind of URI, or an option that it does not know.
        StorageError: its server does not answer.
    """
    try:
        if scheme_of(uri) in PLACES:
            place = uri.partition("?")[0].partition("://")[2].strip("/")
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            return _object_store(root_of(uri), endpoint, os.getpid()), unquote(place.removeprefix("anonymous@"))
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
        return found
    except (pa.ArrowInvalid, ValueError) as error:
        raise UserError(f"{uri}: not a folder that can be opened: {error}") from None
    except OSError as error:
        raise told(uri, error) from None


@functools.lru_cache(maxsize=16)
def _object_store(root: str, endpoint: str | None, process: int) -> fs.FileSystem:
    """One per bucket and process: opening it anew costs more than a request. A fork would share its connections."""
    if scheme_of(root) != "s3":
        limit = "" if "retry_limit_seconds=" in root else f"retry_limit_seconds={GCS_SECONDS}"
        return fs.FileSystem.from_uri(root + (("&" if "?" in root else "?") + limit if limit else ""))[0]
    # pyarrow alone knows which options a URI may have, but cannot be given these with one
    found = fs.FileSystem.from_uri(root)[0].__reduce__()[1][0]
    ours = {
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": SILENT_SECONDS,
        "allow_delayed_open": True,  # a small object is one request, not three
        "background_writes": True,  # or a part that fails would not keep the rest from becoming an object
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=1),  # ``patience`` tries again, and says so
    }
    return fs.S3FileSystem(**found | ours)


def ask(uri: str, request: Callable[[fs.FileSystem, str], T]) -> T:
    """The answer to a request.

    What is denied is asked once more: if the clocks of the two differ too much for a signature, the library has learnt
    the server's from its answer.

    Raises:
        OSError: as pyarrow says it.
    """
    system, path = opened(uri)
    try:
        return request(system, path)
    except OSError as error:
        if not DENIED.search(str(error)):
            raise
    return request(system, path)


def told(uri: str, error: OSError) -> StorageError:
    """What pyarrow says of a request that failed, as one line of a kind: away, denied, full, not there, refused."""
    if isinstance(error, StorageError):
        return error
    text = " ".join(str(error).split())
    detail = NOISE.sub("", text)
    where, places = uri.partition("?")[0], PLACES.get(scheme_of(uri), ELSEWHERE)
    if FULL.search(text):
        return StorageError(errno.ENOSPC, f"{where}: no room there: {detail}; free some, or give another --storage")
    if DENIED.search(text):
        return StorageError(errno.EACCES, f"{where}: access denied: {detail}; credentials are taken from {places}")
    if NO_BUCKET.search(text):
        return StorageError(errno.ENOENT, f"{where}: no such bucket; make it first, or give another --storage")
    if REFUSED.search(text):
        return StorageError(errno.EINVAL, f"{where}: refused: {detail}")
    return StorageError(
        errno.EHOSTUNREACH, f"{where}: does not answer: {detail}; see that it can be reached from here, then try again"
    )


def read(system: fs.FileSystem, path: str) -> bytes | None:
    """The content of an object, or none if there is no such one.

    pyarrow asks for the size, then for that many bytes. From S3 an object that is replaced in between comes cut off, or
    with bytes of nothing at its end; so the content must have the checksum, or else the object must still be the same.
    GCS says that the one asked for is gone.

    Raises:
        OSError: no connection, no right; or it was replaced too often.
    """
    for _ in range(5):
        try:
            file = system.open_input_file(path)  # open_input_stream would make a request for each 256 KiB
        except FileNotFoundError:
            return None
        with file:
            try:
                tag = (file.metadata() or {}).get("ETag")
                content: bytes = file.read()
            except (OSError, ValueError) as error:  # a stream that an answer has closed is a ValueError
                if isinstance(error, OSError) and not REPLACED.search(str(error)):
                    raise
                continue
        if tag is None or hashlib.md5(content, usedforsecurity=False).hexdigest() == tag.strip(b'"').decode():
            return content
        try:
            with system.open_input_file(path) as file:  # of several parts, or encrypted: the tag is no checksum
                if file.metadata().get("ETag") == tag:
                    return content
        except FileNotFoundError:
            return None
    raise OSError(errno.EAGAIN, f"{path}: replaced while it was read, again and again")


def exists(system: fs.FileSystem, path: str) -> bool:
    """Whether there is such an object, by one request: ``get_file_info`` would look for a folder of that name, too.

    Raises:
        OSError: no connection, no right.
    """
    try:
        system.open_input_file(path).close()
    except FileNotFoundError:
        return False
    return True


def write(system: fs.FileSystem, path: str, content: bytes) -> None:
    """Makes an object whole or not at all.

    In a thread of its own, where no Ctrl-C can come in between: pyarrow makes an object of whatever was written when a
    stream is closed or dropped, and has no way to give one up. A bare thread: a Ctrl-C while ``threading`` starts one
    can break its locks, so that the process never ends.

    Raises:
        OSError: no connection, no right.
    """
    ended: list[BaseException | None] = []
    done = _thread.allocate_lock()
    done.acquire()

    def whole() -> None:
        try:
            with system.open_output_stream(path) as stream:
                stream.write(content)
            ended.append(None)
        except BaseException as error:
            ended.append(error)
        finally:
            done.release()

    _thread.start_new_thread(whole, ())
    try:
        done.acquire()
    except BaseException:
        while not ended:  # not by the lock, which this thread may hold already
            time.sleep(0.01)
        raise
    if ended[0] is not None:
        raise ended[0]


def folders(system: fs.FileSystem, path: str) -> list[str]:
    """The names of the folders directly in one, where a listing has files only: made from those at any depth."""
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    inner = (info.path.removeprefix(f"{path}/").split("/") for info in found)
    return sorted({parts[0] for parts in inner if len(parts) > 1})
