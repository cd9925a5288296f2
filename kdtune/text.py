"""Text of others on its way to a screen, a log or a file of ours.

Names, errors, paths and addresses come out of files that somebody else made. A terminal obeys control characters in
them, a log takes a line break for its next line, and an address may hold a password.
"""

import difflib
import re
import textwrap
import unicodedata
from collections.abc import Iterable

# Unicode's own: they let a text look like another one. U+2028 and U+2029 are line breaks to some programs
DIRECTIONS = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_ASCII = re.compile(r"[\x20-\x7e]*")
# What stands before the last @ of an address, if it can be a user and a password: a password may hold an @ or a /,
# but a number up to the next / is a port.
_USER = re.compile(r"(\w://)[^/\s?#:@'\"]*:(?!\d*(?:[/?#]|$))[^\s'\"]*@|(\bhttps?://)[^/\s?#'\"]*@")
_KEY = re.compile(r"(?i)([?&][\w-]*(?:access|secret|session|password|token|sig|key|auth)[\w-]*=)[^&\s'\"]*")


def shown(text: str, *, lines: bool = False) -> str:
    """What a screen or a log is given: see ``printable`` and ``without_credentials``."""
    return printable(without_credentials(text), lines=lines)


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with every character that a screen would obey written out, as ``\x1b``. ``lines``: it may have some."""
    if _ASCII.fullmatch(text):
        return text
    return "".join(each if _is_shown(each) or (lines and each in "\n\t") else _written(each) for each in text)


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in DIRECTIONS


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()


def without_credentials(text: str) -> str:
    """The text without what its addresses tell of users, passwords and keys."""
    return _KEY.sub(r"\1...", _USER.sub(r"\1\2", text))


def filled(text: str, indent: int = 0, more: int = 4) -> list[str]:
    """The text as indented lines of at most 120 characters, broken between words; those after the first ``more`` so."""
    first, rest = " " * indent, " " * (indent + more)
    return textwrap.wrap(
        text, 120, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""
