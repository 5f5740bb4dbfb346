"""The rules against what the benchmarks publish."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import (
    ADE20K_SEM_SEG_CATEGORIES,
    CITYSCAPES_CATEGORIES,
    COCO_CATEGORIES,
)

from trace_d2.io.categories import BUILTIN_CATEGORIES, load_categories, parse_categories
from trace_d2.io.semantic_rules import NO_CLASS, RULES, STRANGE, load_rule, plain_rule


def table(rule, end=""):
    (way,) = [way for way in load_rule(rule).truth if way.end == end]
    return way.ranks()


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        ("voc21", 21), ("voc20", 20), ("context60", 60), ("context59", 59), ("stuff171", 171),
        ("object81", 81), ("ade150", 150), ("city19", 19),
    ],
)  # fmt: skip
def test_classes_have_one_value_each(rule, count):
    own = load_rule(rule)
    assert len(own.classes) == count
    for way in own.truth:
        ranks = way.ranks()
        assert sorted(ranks[ranks >= 0].tolist()) == list(range(count))
        assert not way.ignored & set(way.values)
    # Predictions of the list of the same name need no mapping.
    name = {"voc21": "voc"}.get(rule, rule)
    ranks = own.ranks(load_categories(name), name)
    assert ranks[:count].tolist() == list(range(count))
    assert ranks[255] == NO_CLASS
    assert (ranks[count:255] == STRANGE).all()
    assert own.beyond(load_categories(name)) == []


def test_truth_is_shifted_where_the_background_is_no_class():
    for rule in ("voc20", "context59"):
        ranks = table(rule)
        assert ranks[[0, 255, 1, 20]].tolist() == [NO_CLASS, NO_CLASS, 0, 19]
    assert table("voc20")[21] == STRANGE
    assert table("ade150")[[0, 1, 150, 151, 255]].tolist() == [NO_CLASS, 0, 149, STRANGE, STRANGE]
    for rule in ("voc21", "context60", "object81"):
        assert table(rule)[[0, 1, 255]].tolist() == [0, 1, NO_CLASS]
        assert load_rule(rule).background == load_rule(rule).classes[0]


def test_stuffthingmaps_are_the_ids_of_coco_less_one():
    ranks = table("stuff171")
    things = [c for c in COCO_CATEGORIES if c["isthing"]]
    assert [ranks[c["id"] - 1] for c in things] == list(range(80))
    names = [c.name for c in load_rule("stuff171").classes]
    assert names[:80] == [c["name"] for c in things]
    stuff = {c["id"]: c["name"] for c in COCO_CATEGORIES if not c["isthing"] and c["id"] < 183}
    for identity, name in stuff.items():  # those that panoptic COCO has not merged
        assert names[ranks[identity - 1]] == name
    assert sum(ranks[:182] == STRANGE) == 11
    assert [c.name for c in load_rule("object81").classes[1:]] == names[:80]


def test_cityscapes_published_ids_are_those_of_training():
    raw, trained = table("city19", "_gtFine_labelIds"), table("city19", "_gtFine_labelTrainIds")
    assert [int(np.flatnonzero(raw == k)[0]) for k in range(19)] == [
        7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
    ]  # fmt: skip
    assert (raw[:34] != STRANGE).all()
    assert trained[:19].tolist() == list(range(19))
    categories = load_rule("city19").classes
    assert [c.name for c in categories] == [c["name"] for c in CITYSCAPES_CATEGORIES]
    assert [c.isthing for c in categories] == [bool(c["isthing"]) for c in CITYSCAPES_CATEGORIES]


def test_ade_names_are_first_of_the_official_ones():
    same = 0
    for ours, theirs in zip(load_rule("ade150").classes, ADE20K_SEM_SEG_CATEGORIES, strict=True):
        same += ours.name == theirs.partition(",")[0].strip()
    assert same > 135  # the rest have another synonym first, as "ashcan" for "trash can"


def test_classes_are_found_by_name(tmp_path):
    rule = load_rule("voc20")
    names = [c.name for c in rule.classes]
    names[names.index("pottedplant")] = "Potted Plant"
    own = parse_categories(
        [{"id": 100 - k, "name": name, "isthing": 1} for k, name in enumerate(["bg", *names])], "o"
    )
    ranks = rule.ranks(own, "o")
    assert [ranks[99 - k] for k in range(20)] == list(range(20))
    assert (ranks[100], ranks[101]) == (NO_CLASS, STRANGE)
    assert rule.beyond(own) == ["bg"]
    with pytest.raises(ValueError, match=r"o lacks 1 of the 20 classes of voc20: tvmonitor") as e:
        rule.ranks(own[:-1], "o")
    assert "--categories voc20" in str(e.value)


def test_background_may_be_what_is_left_over():
    rule, things = load_rule("voc21"), load_categories("voc20")
    assert rule.leaves_background_over(things)
    ranks = rule.ranks(things, "voc20")
    assert (ranks[255], ranks[0], ranks[19]) == (0, 1, 20)
    assert not rule.leaves_background_over(load_categories("voc"))
    assert rule.ranks(load_categories("voc"), "voc")[255] == NO_CLASS


def test_background_of_scores_is_where_no_class_reaches_the_threshold():
    rule, things, voc = load_rule("voc21"), load_categories("voc20"), load_categories("voc")
    scores = np.zeros((20, 1, 3), np.float32)
    scores[4, 0, 0], scores[7, 0, 1], scores[7, 0, 2] = 0.55, 0.5, 0.9
    assert rule.classes_of_scores(scores, things, (1, 3)).tolist() == [[4, 255, 7]]
    assert rule.classes_of_scores(scores, things, (1, 3), 0.6).tolist() == [[255, 255, 7]]
    assert load_rule("voc20").classes_of_scores(scores, things, (1, 3), 2).tolist() == [[4, 7, 7]]
    own = np.concatenate([scores, np.full((1, 1, 3), 0.7, np.float32)])  # VOC's last is background
    assert rule.classes_of_scores(own, voc, (1, 3), 2).tolist() == [[0, 0, 8]]


def test_without_a_rule_truth_is_written_as_predictions():
    own = parse_categories(
        [{"id": 7, "name": "a", "isthing": 1}, {"id": 3, "name": "b", "isthing": 1}], "o"
    )
    rule = plain_rule(own)
    assert [c.id for c in rule.classes] == [3, 7]
    for ranks in (rule.truth[0].ranks(), rule.ranks(own, "o")):
        assert ranks[[3, 7, 255, 0]].tolist() == [0, 1, NO_CLASS, STRANGE]


def test_names_that_differ_in_signs_and_capitals_alone_are_of_two_classes():
    names = ["Car", "car", "C", "C++", "Straße", "Strasse", "+", "-"]
    own = parse_categories(
        [{"id": 3 * k, "name": name, "isthing": 1} for k, name in enumerate(names)], "o"
    )
    rule = plain_rule(own)
    assert rule.ranks(own, "o")[::3][:8].tolist() == list(range(8))
    assert rule.beyond(own) == []
    with pytest.raises(ValueError, match=r"o lacks 2 of the 8 classes of : Car.*, C\+\+"):
        rule.ranks([one for one in own if one.name not in ("Car", "C++")], "o")


def test_a_class_may_be_spelled_otherwise_where_it_is_one_alone():
    rule = load_rule("voc20")
    car = next(own for own in rule.classes if own.name == "car")
    others = [own for own in rule.classes if own != car]
    large, loud = [replace(car, id=id_, name=name) for id_, name in ((50, "Car"), (60, "CAR"))]
    rank = rule.classes.index(car)
    assert rule.ranks([*others, large], "o")[50] == rank
    ranks = rule.ranks([*others, large, replace(car, id=70), loud], "o")
    assert ranks[[50, 70, 60]].tolist() == [NO_CLASS, rank, NO_CLASS]
    assert rule.beyond([*others, large, car]) == ["Car"]
    with pytest.raises(ValueError, match="o lacks 1 of the 20 classes of voc20: car"):
        rule.ranks([*others, large, loud], "o")


def test_an_unknown_rule_says_which_there_are():
    with pytest.raises(ValueError, match=r"did you mean voc21\?\): choose one of voc21, voc20,"):
        load_rule("VOC21x")
    assert set(RULES) - {"voc21"} <= set(BUILTIN_CATEGORIES)
