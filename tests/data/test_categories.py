"""What the classes of models are: by data sets, configs, and where the two disagree."""

from __future__ import annotations

import uuid

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from trace_d2.config import ConfigError, configured_categories
from trace_d2.data.categories import (
    ModelClasses,
    dataset_classes,
    name_classes,
    trained_categories,
    with_categories,
)
from trace_d2.data.registration import register_class_agnostic, register_trace_panoptic
from trace_d2.io.categories import Category, category_entries

DOG, SKY, CAT = (
    Category(7, "dog", True, (20, 60, 220)),
    Category(4, "sky", False, (90, 90, 90)),
    Category(3, "cat", True, (220, 20, 60)),
)


@pytest.fixture
def name():
    """A name of a data set, which is gone afterwards."""
    made = f"categories_{uuid.uuid4()}"
    yield made
    if made in DatasetCatalog:
        DatasetCatalog.remove(made)
    MetadataCatalog.pop(made, None)


def test_ours_tell_their_own(name):
    register_trace_panoptic(name, "/nowhere", "/images", categories=(DOG, SKY, CAT))
    classes = dataset_classes(name)
    assert classes.in_one_range == classes.categories == (DOG, SKY, CAT)
    assert classes.things[0] == classes.stuff[0] == DOG


def test_a_class_agnostic_one_is_of_objects_with_the_id_1(name):
    register_class_agnostic(name, "/nowhere.json", "/images")
    (only,) = dataset_classes(name).in_one_range
    assert (only.id, only.name, only.isthing) == (1, "object", True)


def test_those_of_detectron2():
    instances = dataset_classes("coco_2017_val").in_one_range
    assert [len(instances), instances[79].id, instances[79].name] == [80, 90, "toothbrush"]
    assert instances[0].color == (220, 20, 60)

    whole = dataset_classes("coco_2017_val_panoptic").in_one_range
    assert [len(whole), sum(c.isthing for c in whole), whole[80].id] == [133, 80, 92]

    apart = dataset_classes("coco_2017_val_panoptic_separated")
    assert apart.in_one_range == ()
    assert apart.things[0].name == "person"
    assert (apart.stuff[1].name, apart.stuff[1].id, apart.stuff[1].isthing) == ("banner", 92, False)
    assert 0 not in apart.stuff  # all things in one
    assert len(apart.categories) == 133


def test_nothing_is_told_by_nobody(name):
    assert dataset_classes(name) is None
    DatasetCatalog.register(name, list)
    assert dataset_classes(name) is None


def test_a_training_takes_those_of_its_data(name, make_cfg):
    register_trace_panoptic(name, "/nowhere", "/images", categories=(DOG, SKY, CAT))
    cfg = make_cfg("DATASETS.TRAIN", (name,))
    assert trained_categories(cfg) == (DOG, SKY, CAT)
    told = with_categories(cfg, (DOG, SKY, CAT))
    assert configured_categories(told) == (DOG, SKY, CAT)
    assert trained_categories(told) == (DOG, SKY, CAT)
    assert told.is_frozen()
    assert configured_categories(cfg) == ()

    renamed = with_categories(cfg, (DOG, SKY, Category(3, "lion", True, CAT.color)))
    message = r"CATEGORIES has 3 .* the data set categories_\S+ of DATASETS\.TRAIN has 3; number 2 "
    with pytest.raises(ConfigError, match=message + r"is lion \(id 3, thing\) .* cat \(id 3, th"):
        trained_categories(renamed)
    fewer = with_categories(cfg, (DOG, SKY))
    with pytest.raises(ConfigError, match=r"number 2 is absent in the one and cat \(id 3, thing\)"):
        trained_categories(fewer)

    cfg.INPUT.TRACE.CLASS_AGNOSTIC = True
    assert [c.name for c in trained_categories(cfg)] == ["object"]


def test_a_config_file_keeps_them(make_cfg, tmp_path):
    cfg = with_categories(make_cfg(), (DOG, SKY, CAT))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = make_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert configured_categories(again) == (DOG, SKY, CAT)
    again.MODEL.TRACE.CATEGORIES = [{"id": 1}]
    with pytest.raises(ConfigError, match=r"TRACE\.CATEGORIES: category 0 of the list lacks"):
        configured_categories(again)


def test_data_sets_that_are_not_here_are_told_the_classes(name, make_cfg):
    cfg = make_cfg("DATASETS.TEST", (name,))
    cfg.MODEL.TRACE.CATEGORIES = category_entries((DOG, SKY, CAT))
    name_classes(cfg)
    assert MetadataCatalog.get(name).thing_classes == ["dog", "sky", "cat"]
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {7: 0, 3: 2}
    cfg.MODEL.TRACE.CATEGORIES = category_entries((SKY, DOG))  # another model
    name_classes(cfg)
    assert MetadataCatalog.get(name).thing_classes == ["sky", "dog"]

    register_trace_panoptic(name, "/nowhere", "/images", categories=(CAT,))
    name_classes(cfg)
    assert MetadataCatalog.get(name).thing_classes == ["cat"]


def test_classes_by_number():
    table = ModelClasses.of((DOG, SKY))
    assert table.things is table.stuff
    assert ModelClasses({0: DOG}, {1: SKY}).in_one_range == (DOG, SKY)
    assert ModelClasses({0: DOG}, {0: SKY}).in_one_range == ()
    assert ModelClasses({1: DOG}, {}).in_one_range == ()
