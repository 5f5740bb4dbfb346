"""Failures are grouped by what went wrong, whatever the names, places and numbers."""

from __future__ import annotations

import traceback

import numpy as np
import pytest

from trace_d2.jobs.failures import Kind, Kinds, count_kinds, gist, kind_of
from trace_d2.jobs.journal import FAILED, Record

SETTINGS = {"images": "/data/my photos", "edges": "teacher", "semantic": "/data/masks/", "seed": 3}
FOLDERS = ("/data/my photos", "/data/masks")


def failed(reason: str, file_name: str = "n01/IMG 7.jpg", stem: str = "n01/IMG 7") -> Record:
    return Record(stem, file_name, FAILED, reason)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (
            "/data/my photos/n01/IMG 7.jpg cannot be read (it is cut short): repair it",
            "… cannot be read (it is cut short): repair it",
        ),
        ("no image at /data/my photos/n01/IMG 7.jpg: repair it", "no image at …: repair it"),
        (
            "/data/masks/n01/IMG 7.png is 31x24 pixels, but the image /data/my photos/n01/IMG 7.jpg"
            " is 32x24: make it",
            "… is NxN pixels, but the image … is NxN: make it",
        ),
        (
            "no edge file at out/edges/n01/IMG 7.png (nor IMG 7.npy): write one",
            "no edge file at … (nor …): write one",
        ),
        (
            "/data/masks/n01/IMG 7.png has class values [9, 12] that the categories (/x/c.json)"
            " lack: add them there, or write 255",
            "… has class values [N] that the categories (…) lack: add them there, or write N",
        ),
        ("s3://bucket/a%20b/IMG 7.jpg, of 1,234 bytes", "…, of N bytes"),
        ("values in -0.25..1e+05, 16 bits, int8", "values in N..N, N bits, int8"),
        ("KeyError: 'segments' and/or 24/7", "KeyError: 'segments' and/or N/N"),
        ("at 0x7f3a00c1 of GPU 1: 20.00 MiB", "at N of GPU N: N MiB"),
        ("the folder /data/masks holds ~/x y.png, out/a.json.", "the folder … holds … y.png, ….")
    ],
)  # fmt: skip
def test_what_differs_from_image_to_image_is_left_out(reason: str, kind: str) -> None:
    assert kind_of(failed(reason), FOLDERS) == kind


def test_images_that_fail_alike_are_of_one_kind() -> None:
    reason = "/data/my photos/{} is {}x{} pixels, but the mask {} is {}: look into it"
    rng = np.random.default_rng(0)
    names = ("a", "is", "0", "x/y z", "7.5", "mask", "it(1)", "ü", "c++", "n/01.tar")
    records = [
        failed(
            reason.format(f"{n}.jpg", *rng.integers(1, 9999, 2), f"/m/{n}.png", n), f"{n}.jpg", n
        )
        for n in names
    ]
    plain = [failed(r.reason.replace(f" is {r.stem}:", ":"), r.file_name, r.stem) for r in records]
    assert {kind_of(record, FOLDERS) for record in plain} == {
        "… is NxN pixels, but the mask …: look into it"
    }


def test_of_a_traceback_its_error_counts() -> None:
    try:
        np.zeros(3).reshape(2)
    except ValueError as error:
        text = "".join(traceback.format_exception(error)).strip()
    assert gist(text) == "ValueError: cannot reshape array of size 3 into shape (2,)"
    assert kind_of(failed(text)) == "ValueError: cannot reshape array of size N into shape (N,)"
    several = text.replace("shape (2,)", "shape:\nmore of it\n  and more")
    assert gist(several) == "ValueError: cannot reshape array of size 3 into shape:"
    assert gist("first\nsecond") == "first"
    assert gist("") == ""
    assert kind_of(failed("")) == "no reason"


def test_kinds_are_counted_the_most_frequent_first() -> None:
    records = [
        failed("odd 1", "a.png", "a"),
        *(failed(f"/data/masks/{i}.png is 4x{i}", f"{i}.png", str(i)) for i in range(1200)),
        failed("odd 2\nmore", "b.png", "b"),
        failed("alone", "c.png", "c"),
    ]
    kinds = count_kinds(records, SETTINGS)
    assert kinds == [
        Kind("… is NxN", 1200, "0.png", "/data/masks/0.png is 4x0"),
        Kind("odd N", 2, "a.png", "odd 1"),
        Kind("alone", 1, "c.png", "alone"),
    ]
    assert str(kinds[0]) == "0.png: /data/masks/0.png is 4x0 (and 1,199 like it)"
    assert str(kinds[1]) == "a.png: odd 1 (and 1 like it)"
    assert str(kinds[2]) == "c.png: alone"
    assert str(Kind("odd N", 7)) == "odd N"  # no example is known


def test_the_first_of_a_kind_stands_as_it_is() -> None:
    reason = "/data/masks/{0}.png has values {1} to {2}, but must be 0 to 255: divide by 257"
    ranges = {"a": (0, 65535), "b": (3, 999), "c": (1, 4000)}
    records = [failed(reason.format(s, *ends), f"{s}.png", s) for s, ends in ranges.items()]
    records.append(failed("e.png " + "is odd " * 40, "e.png", "e"))  # cut in the kind
    kinds = count_kinds(records, SETTINGS)
    assert [kind.text for kind in kinds] == [
        "… has values N to N, but must be N to N: divide by N",
        ("… " + "is odd " * 40)[:200],
    ]
    assert [str(kind) for kind in kinds] == [
        f"a.png: {reason.format('a', 0, 65535)} (and 2 like it)",
        f"e.png: {records[-1].reason.strip()}",
    ]


def test_memory_is_bounded_whatever_reasons_there_are() -> None:
    kinds = Kinds({})
    letters = "abcdefghij"
    for number in range(1100):
        kinds.number(failed(" ".join(letters[int(d)] for d in str(number)) + "x" * 1000))
    assert len(kinds.texts) == 1001
    assert kinds.texts[-1] == "other reasons"
    assert max(map(len, kinds.texts)) == 200
