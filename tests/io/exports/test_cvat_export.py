from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from trace_d2.io.categories import Category
from trace_d2.io.exports.cvat import (
    check_text,
    image_element,
    label_entries,
    mask_elements,
    opening,
    run_lengths,
)
from trace_d2.io.exports.shapes import shape_of

CATEGORIES = (
    Category(3, 'a "cat" & <b>', True, (255, 0, 16)),
    Category(9, "sky", False, (0, 1, 2)),
)
NAMES = {category.id: category.name for category in CATEGORIES}


def read_mask(element: ElementTree.Element, height: int, width: int) -> np.ndarray:
    """The mask of a ``<mask>``, by the definition: runs of 0, 1, 0, ... in the rows of a box."""
    left, top, wide, high = (int(element.get(key)) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in element.get("rle").split(",")]
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    assert values.size == wide * high
    canvas = np.zeros((height, width), bool)
    canvas[top : top + high, left : left + wide] = values.reshape(high, wide)
    return canvas


def test_run_lengths_begin_with_what_is_outside():
    assert run_lengths(np.array([[1, 1], [0, 1]], bool)) == [0, 2, 1, 1]
    assert run_lengths(np.array([[0, 1, 1], [1, 0, 0]], bool)) == [1, 3, 2]
    assert run_lengths(np.ones((2, 3), bool)) == [0, 6]


def test_masks_of_every_form_come_back_to_the_pixel():
    rng = np.random.default_rng(3)
    masks = [rng.random((17, 23)) < share for share in (0.02, 0.3, 0.7, 1.1)]
    masks = [mask for mask in masks if mask.any()]
    shapes = [shape_of(mask, (3, 9)[rank % 2]) for rank, mask in enumerate(masks)]
    body = image_element(0, "a/b&c.jpg", 17, 23, mask_elements(shapes, NAMES))
    root = ElementTree.fromstring(opening(CATEGORIES, 1) + body + "</annotations>")
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == [*NAMES.values()]
    image = root.find("image")
    assert image.attrib == {"id": "0", "name": "a/b&c.jpg", "width": "23", "height": "17"}
    found = sorted(image, key=lambda element: int(element.get("z_order")))
    areas = [np.count_nonzero(read_mask(element, 17, 23)) for element in found]
    assert areas == sorted(areas, reverse=True)  # small ones on top
    for mask, shape in zip(masks, shapes, strict=True):
        own = [e for e in found if e.get("label") == NAMES[shape.category_id]]
        assert any(np.array_equal(read_mask(element, 17, 23), mask) for element in own)


def test_labels_of_a_task():
    entry = {"name": "sky", "color": "#000102", "type": "mask", "attributes": []}
    assert label_entries(CATEGORIES)[1] == entry


def test_text_that_xml_cannot_hold_is_refused():
    check_text("Bär \U0001f43b\t", "the category")
    with pytest.raises(ValueError, match=r"the category a\\x07 has a character that XML"):
        check_text("a\x07", "the category")
