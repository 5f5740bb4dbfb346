from __future__ import annotations

import json

import pytest

from trace_d2.io.categories import (
    UNKNOWN,
    category_entries,
    describe_categories,
    load_categories,
    parse_categories,
    parse_category_lines,
)


def test_voc_has_background_last_with_id_zero():
    categories = load_categories("voc")
    assert [c.id for c in categories] == [*range(1, 21), 0]
    assert [c.name for c in categories[:3]] == ["aeroplane", "bicycle", "bird"]
    assert (categories[14].name, categories[19].name) == ("person", "tvmonitor")
    assert categories[-1].name == "background"
    assert [c.isthing for c in categories] == [True] * 20 + [False]


def test_coco_panoptic_is_the_133_categories():
    categories = load_categories("coco-panoptic")
    by_id = {c.id: c for c in categories}
    assert len(by_id) == 133
    assert sum(c.isthing for c in categories) == 80
    assert max(by_id) == 200
    assert by_id[1].name == "person"
    assert by_id[90].name == "toothbrush"
    assert by_id[187].name == "sky-other-merged"
    assert not by_id[92].isthing


@pytest.mark.parametrize("name", ["voc", "coco-panoptic"])
def test_colors_are_distinct_and_stable(name):
    categories = load_categories(name)
    colors = [c.color for c in categories]
    assert len(set(colors)) == len(colors)
    assert colors == [c.color for c in load_categories(name)]
    assert all(0 < max(color) <= 255 and min(color) >= 0 for color in colors)


def test_list_and_dict_files_read_alike(tmp_path):
    entries = [
        {"id": 3, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
        {"id": 0, "name": "grass", "isthing": False, "supercategory": "plant"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    (tmp_path / "dict.json").write_text(json.dumps({"categories": entries}))
    categories = load_categories(tmp_path / "list.json")
    assert categories == load_categories(str(tmp_path / "dict.json"))
    assert categories[0].color == (1, 2, 3)
    assert [c.isthing for c in categories] == [True, False]
    assert parse_categories(category_entries(categories), "again") == categories


def test_taken_colors_are_replaced():
    entries = [
        {"id": 1, "name": "a", "isthing": 1},
        {"id": 2, "name": "b", "isthing": 1, "color": [9, 9, 9]},
        {"id": 3, "name": "c", "isthing": 1, "color": [9, 9, 9]},
    ]
    colors = [c.color for c in parse_categories(entries, "list")]
    assert colors[1] == (9, 9, 9)
    assert len(set(colors)) == 3
    # The first colour of the series, given to the second entry, is not the first entry's too.
    entries[1]["color"] = list(colors[0])
    colors = [c.color for c in parse_categories(entries, "list")]
    assert len(set(colors)) == 3


def test_missing_file_names_the_builtin_lists():
    with pytest.raises(FileNotFoundError, match=r"no/such.json.*voc, coco-panoptic"):
        load_categories("no/such.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", 'no "categories" key'),
        ("[]", "non-empty list"),
        ('{"categories": {"1": "cat"}}', "non-empty list"),
        ('["cat"]', "category 0 of the list is 'cat'"),
        ('[{"id": 1, "name": "cat"}]', "lacks isthing; add it .1 for countable"),
        ('[{"id": 255, "name": "cat", "isthing": 1}]', r"must be an integer in 0..254 .255 in a"),
        ('[{"id": -1, "name": "cat", "isthing": 1}]', r"0..254"),
        ('[{"id": true, "name": "cat", "isthing": 1}]', "id True"),
        ('[{"id": "1", "name": "cat", "isthing": 1}]', "id '1'"),
        ('[{"id": 1, "name": "", "isthing": 1}]', "non-empty string"),
        ('[{"id": 1, "name": "cat", "isthing": "yes"}]', "must be 0 or 1"),
        ('[{"id": 1, "name": "cat", "isthing": 1, "color": [1, 2]}]', "color"),
        (
            '[{"id": 1, "name": "cat", "isthing": 1}, {"id": 1, "name": "dog", "isthing": 1}]',
            "'dog'. has id 1, which 'cat' already has; give every category its own id",
        ),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_categories(path)
    assert str(path) in str(caught.value)


def test_all_that_is_wrong_with_a_list_is_said_at_once(tmp_path):
    entries = [{"id": 1}, {"id": 2, "name": "cat", "isthing": 2}, {"id": 3, "name": "cow"}]
    entries += [{"id": 4, "name": name, "isthing": 1} for name in ("dog", "cup")]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="lacks name, isthing") as caught:
        load_categories(tmp_path / "mine.json")
    said = str(caught.value).splitlines()
    assert said[0] == "several things are wrong:"
    assert ["isthing 2" in line for line in said[1:]] == [False, True, False, False]
    assert "lacks isthing" in said[3]
    assert "has id 4" in said[4]
    with pytest.raises(ValueError, match="and 42 more of its categories") as caught:
        parse_categories([{"id": 1}] * 50, "list")
    assert len(str(caught.value).splitlines()) == 10


def test_two_categories_of_one_name_are_refused_where_users_give_them(tmp_path):
    entries = [{"id": rank, "name": name, "isthing": 1} for rank, name in enumerate("abca")]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"mine.json: the categories 0 and 3 .* 'a': rename one"):
        load_categories(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="categories 5 and 7 are both called 'cup'"):
        parse_category_lines(["5 cup", "6 mug", "7 cup"], "classes.txt")
    assert len(parse_categories(entries, "settings of before")) == 4


def test_wide_ids_only_where_no_mask_goes_with_them():
    entries = [{"id": 26001, "name": "car", "isthing": 1}]
    assert parse_categories(entries, "truth", max_id=None)[0].id == 26001
    with pytest.raises(ValueError, match=f"0..{UNKNOWN - 1}"):
        parse_categories(entries, "truth")


LABELME = ["__ignore__", "_background_", "cat"]
CVAT = [
    "# label:color_rgb:parts:actions", "background:0,0,0::", "bus stop:128,0,0:wheel,door:honk",
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["cup", "", "stop sign", "sky stuff"],
            [(0, "cup", 1), (1, "stop sign", 1), (2, "sky", 0)],
        ),
        (["stuff", "Background thing"], [(0, "stuff", 1), (1, "Background", 1)]),
        (LABELME, [(0, "_background_", 0), (1, "cat", 1)]),
        (CVAT, [(0, "background", 0), (1, "bus stop", 1)]),
        (["7: road, 128 64 128, stuff", "3\tcar (thing)"], [(7, "road", 0), (3, "car", 1)]),
        (["0,cup", "1,plate"], [(0, "cup", 1), (1, "plate", 1)]),
        (["3d printer", "route 66"], [(0, "3d printer", 1), (1, "route 66", 1)]),
    ],
)
def test_texts_with_a_name_a_line(lines, expected, tmp_path):
    (tmp_path / "classes.TXT").write_text("\ufeff" + "\r\n".join(lines), "utf-8")
    categories = load_categories(tmp_path / "classes.TXT")
    assert [(c.id, c.name, int(c.isthing)) for c in categories] == expected
    colors = {"road": (128, 64, 128), "bus stop": (128, 0, 0)}
    for category in categories:
        assert category.color == colors.get(category.name, category.color)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("18 wheeler\ncup", "'18 wheeler' begins with a number, 'cup' does not"),
        ("# nothing\n\n", "names no category"),
        ("300 x", "id 300"),
        ("1 x\n1 y", "give every category its own id"),
        ("cup 1,2,300", "color"),
        ('[{"id": 1}]', "rename it to end in .json"),
        (b"\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_texts_that_are_no_list(text, message, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_categories(path)
    with pytest.raises(FileNotFoundError, match="a text with a name a line"):
        load_categories(tmp_path / "none.txt")


def test_categories_are_told_with_their_ids():
    text = describe_categories(parse_category_lines(["background", "cup", "plate"], "f"))
    assert text == "things 1 cup, 2 plate; stuff 0 background"
