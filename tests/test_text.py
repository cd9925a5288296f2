"""What others wrote, on its way to a screen: nothing in it is obeyed."""

import pytest

from kdtune.text import DIRECTIONS, printable, shown


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("plain ± τ 道路", "plain ± τ 道路"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # one character that begins a sequence
        ("a\rb\x08", r"a\rb\x08"),
        ("one\ntwo\t", r"one\ntwo\t"),
        ("\udcff", r"\udcff"),  # a file's name that is no text
        ("\u202egpj.exe", r"\u202egpj.exe"),
    ],
)
def test_what_a_screen_would_obey_is_written_out(given: str, written: str) -> None:
    assert printable(given) == written
    written.encode()


def test_every_control_character() -> None:
    for character in [*map(chr, range(32)), *map(chr, range(127, 160)), *DIRECTIONS]:
        assert character not in printable(f"a{character}b"), hex(ord(character))
        assert (character in printable(f"a{character}b", lines=True)) == (character in "\n\t")


def test_a_screen_sees_no_password() -> None:
    assert shown("cluster http://me:s3cr@t@head: \x1b[1m") == r"cluster http://head: \x1b[1m"
