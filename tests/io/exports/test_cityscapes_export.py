from __future__ import annotations

import numpy as np
import pytest

from trace_d2.io.categories import Category
from trace_d2.io.exports.cityscapes import class_ids, instance_maps, label_table
from trace_d2.io.exports.shapes import Shape, shape_of

ROAD, CAR, CAT = (
    Category(7, "road", False, (1, 2, 3)),
    Category(26, "car", True, (4, 5, 6)),
    Category(90, "cat", True, (7, 8, 9)),
)


def box(category_id: int, top: int, left: int, bottom: int, right: int, **more) -> Shape:
    return Shape(category_id, left, top, np.ones((bottom - top, right - left), bool), **more)


def maps(shapes, ids=None, height=6, width=8):
    ids = ids or {7: 7, 26: 26}
    return instance_maps(shapes, ids, frozenset({26, 90}), height, width)


def test_ids_are_kept_where_they_fit():
    assert class_ids((ROAD, CAR)) == {7: 7, 26: 26}
    # 90 times 1000 is beyond 16 bits, and 0 is void.
    assert class_ids((ROAD, CAR, CAT)) == {26: 1, 90: 2, 7: 3}
    zero = Category(0, "ground", False, (0, 0, 0))
    assert class_ids((zero, CAR)) == {26: 1, 0: 2}


def test_more_classes_than_fit_are_refused():
    many = [Category(number, f"c{number}", True, (0, 0, 0)) for number in range(65)]
    with pytest.raises(ValueError, match=r"65 classes of things and 0 of stuff .* --classes"):
        class_ids(many)
    assert max(class_ids(many[:64]).values()) == 64


def test_the_definition_reads_back_what_was_written():
    shapes = [box(7, 3, 0, 6, 8), box(26, 0, 0, 3, 2), box(26, 0, 3, 2, 8)]
    instances, labels, lost = maps(shapes)
    assert instances.dtype == np.uint16
    assert labels.dtype == np.uint8
    assert not +lost
    classes = np.where(instances >= 1000, instances // 1000, instances)
    np.testing.assert_array_equal(classes, labels)
    np.testing.assert_array_equal(labels == 7, np.arange(48).reshape(6, 8) >= 24)
    # The larger object has number 0; void is 0 in both.
    assert np.unique(instances).tolist() == [0, 7, 26000, 26001]
    assert np.count_nonzero(instances == 26000) == 10
    assert labels[0, 2] == 0


def test_what_overlaps_is_painted_by_score_and_counted():
    low, high = box(26, 0, 0, 4, 4, score=0.2), box(26, 0, 0, 3, 3, score=0.9)
    instances, _, lost = maps([high, low])
    assert +lost == {"covered": 9}
    assert np.count_nonzero(instances == 26000) == 9
    assert np.count_nonzero(instances == 26001) == 7
    small, large = box(26, 1, 1, 2, 2), box(26, 0, 0, 4, 4)
    instances, _, lost = maps([small, large])
    assert instances[1, 1] == 26001
    assert lost["covered"] == 1
    _, _, lost = maps([box(26, 0, 0, 2, 2, score=0.1), box(26, 0, 0, 4, 4, score=0.8)])
    assert lost["hidden"] == 1


def test_groups_have_the_id_of_their_class():
    instances, labels, _ = maps([box(26, 0, 0, 4, 4, crowd=True), box(26, 0, 0, 2, 2)])
    assert np.unique(instances).tolist() == [0, 26, 26000]
    assert instances[3, 3] == 26 == labels[3, 3]


def test_the_thousand_and_first_object_joins_a_group():
    shapes = [
        box(26, row, column, row + 1, column + 1) for row in range(26) for column in range(40)
    ]
    shapes += [box(26, 30, 0, 34, 40)]
    instances, _, lost = maps(shapes, height=40, width=40)
    assert lost["grouped"] == 41
    assert instances.max() == 26999
    assert (instances[30:34] == 26000).all()  # the largest keeps its number
    assert np.count_nonzero(instances == 26) == 41


def test_the_table_names_what_labels_py_of_cityscapes_does():
    table = label_table((CAT, ROAD), {90: 1, 7: 2})
    assert [row["name"] for row in table] == ["unlabeled", "cat", "road"]
    assert [row["trainId"] for row in table] == [255, 0, 1]
    assert [row["hasInstances"] for row in table] == [False, True, False]
    assert table[1]["id"] == 1
    assert table[1]["categoryIdBefore"] == 90


def test_a_shape_is_cut_to_its_box():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3] = mask[4, 3:7] = True
    shape = shape_of(mask, 1)
    assert (shape.left, shape.top, shape.mask.shape, shape.area) == (3, 2, (3, 4), 6)
    assert shape_of(np.zeros((3, 3), bool), 1) is None
