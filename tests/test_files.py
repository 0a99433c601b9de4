"""Text files are whole or not there."""

import pytest

from scansynth.files import write_text


def test_the_text_stands_there_as_it_is(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    write_text(path, "ᾱ,°\n1,2\r\n")
    assert path.read_bytes() == "ᾱ,°\n1,2\r\n".encode()
    write_text(path, "short")
    assert path.read_bytes() == b"short"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")  # half a character: writing fails on the way
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
