from __future__ import annotations

import unicodedata

import pytest

from trace_d2.io.paths import file_below, relative_name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.png", "a.png"), ("x\\y\\a.png", "x/y/a.png"), ("./x//a.png", "x/a.png")],
)
def test_relative_names(name, wanted):
    assert relative_name(name) == wanted


@pytest.mark.parametrize(
    "name", ["../a", "x/../../a", "/etc/passwd", "C:\\a", "c:a", "..\\a", "", ".", "a\0b", None, 3]
)
def test_names_that_lead_out_or_are_none(name):
    with pytest.raises(ValueError, match="file name"):
        relative_name(name)


@pytest.mark.parametrize(("there", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_the_same_text_in_another_unicode_form(tmp_path, there, asked):
    name = "café.png"
    path = tmp_path / unicodedata.normalize(there, name)
    path.touch()
    assert file_below(tmp_path, unicodedata.normalize(asked, name)) == path


def test_a_file_that_is_not_there(tmp_path):
    assert file_below(tmp_path, "é.png") == tmp_path / "é.png"
