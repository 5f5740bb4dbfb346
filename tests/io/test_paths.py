from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from trace_d2.io.hints import nearest_path
from trace_d2.io.listing import list_images
from trace_d2.io.paths import check_output, check_output_file, file_below, relative_name


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


def test_outputs_that_are_inputs_are_refused(tmp_path):
    given = tmp_path / "labels.json"
    given.write_text("{}")
    (tmp_path / "link.json").symlink_to(given)
    (tmp_path / "folder").symlink_to(tmp_path)
    for output in (
        given,
        str(given),
        tmp_path / "link.json",
        tmp_path / "folder" / "labels.json",
        tmp_path / "folder" / ".." / tmp_path.name / "labels.json",
    ):
        with pytest.raises(ValueError, match=r"is --the-labels as well, .* lost: give the output"):
            check_output(output, other=None, the_labels=given)
    check_output(tmp_path / "new.json", the_labels=given, other=tmp_path / "absent.json")
    check_output(None, the_labels=given)
    with pytest.raises(ValueError, match="is --absent as well"):
        check_output(tmp_path / "folder" / "absent.json", absent=tmp_path / "absent.json")


def test_output_files_need_a_folder(tmp_path):
    check_output_file(tmp_path / "new.json")
    check_output_file(None)
    with pytest.raises(FileNotFoundError, match=r"no folder .*results for the output x\.json"):
        check_output_file(tmp_path / "results" / "x.json")
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        check_output_file(tmp_path)
    with pytest.raises(ValueError, match="is --given as well"):
        check_output_file(tmp_path / "x.json", given=tmp_path / "x.json")


@pytest.mark.parametrize("given", ["s3://bucket/x", Path("s3://bucket/x"), "gs://bucket/x"])
def test_addresses_are_called_what_they_are(given):
    scheme = str(given)[:2]
    assert nearest_path(given) == (
        f" ({scheme}://bucket/x is an address, and only files of this machine are read here: "
        "mount it, or copy it)"
    )
    with pytest.raises(NotADirectoryError, match=rf"no folder of images at .*{scheme}://bucket/x"):
        list_images(Path(given))  # of which Python has lost a slash
    assert "address" not in nearest_path("C:/images")


def test_what_is_there_of_another_kind_is_told_as_what_it_is(tmp_path: Path) -> None:
    image = tmp_path / "some.jpg"
    image.touch()
    assert nearest_path(image) == f" (it is a file; its folder is {tmp_path})"
    assert nearest_path(tmp_path) == " (it is a folder)"
    assert nearest_path("") == ""
    assert nearest_path(tmp_path / "some.jpeg") == f" (did you mean {image}?)"
    with pytest.raises(NotADirectoryError, match=r"some\.jpg \(it is a file; its folder is /"):
        list_images(image)
