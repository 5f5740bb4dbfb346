from __future__ import annotations

import json
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from trace_d2.io import coco_panoptic as panoptic
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category, parse_categories

CATEGORIES = (
    Category(1, "cat", True, (9, 0, 0)),
    Category(0, "grass", False, (0, 9, 0)),
)
# Segment 5 is a cat in two pieces, 300 grass, 70000 another cat, 0 void.
SEGMENT_IDS = np.array(
    [
        [5, 5, 300, 0],
        [300, 300, 300, 70000],
        [5, 300, 300, 70000],
    ],
    dtype=np.int32,
)
CATEGORY_IDS = {5: 1, 300: 0, 70000: 1}


def test_bytes_of_an_id():
    ids = np.array([[1, 256, 65536, 1 + 2 * 256 + 3 * 65536, 2**24 - 1]])
    rgb = [[[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3], [255, 255, 255]]]
    np.testing.assert_array_equal(panoptic.id2rgb(ids), rgb)
    back = panoptic.rgb2id(np.array(rgb, dtype=np.uint8))
    np.testing.assert_array_equal(back, ids)
    assert back.dtype == np.int32


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3))))
def test_rgb_round_trip(rgb):
    np.testing.assert_array_equal(panoptic.id2rgb(panoptic.rgb2id(rgb)), rgb)


@pytest.mark.parametrize("ids", [[[-1]], [[2**24]], [[2**40]]])
def test_ids_that_three_bytes_cannot_hold(ids):
    with pytest.raises(ValueError, match=r"0\.\.16777215"):
        panoptic.id2rgb(np.array(ids))


def test_png_round_trip(tmp_path):
    panoptic.write_panoptic_png(tmp_path / "a.png", SEGMENT_IDS)
    np.testing.assert_array_equal(panoptic.read_panoptic_png(tmp_path / "a.png"), SEGMENT_IDS)


def test_bad_pngs_are_named(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        panoptic.read_panoptic_png(path)
    path.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        panoptic.read_panoptic_png(path)
    noise = np.random.default_rng(0).integers(0, 2**24, (40, 40))
    panoptic.write_panoptic_png(path, noise)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        panoptic.read_panoptic_png(path)
    Image.new("P", (4, 4)).save(path)
    with pytest.raises(ValueError, match=r"a\.png has mode P; a panoptic PNG is 8-bit RGB"):
        panoptic.read_panoptic_png(path)


def test_segments_info_by_hand():
    info = panoptic.segments_info(SEGMENT_IDS, CATEGORY_IDS, crowd={70000})
    assert info == [
        {"id": 5, "category_id": 1, "area": 3, "bbox": [0, 0, 2, 3], "iscrowd": 0},
        {"id": 300, "category_id": 0, "area": 6, "bbox": [0, 0, 3, 3], "iscrowd": 0},
        {"id": 70000, "category_id": 1, "area": 2, "bbox": [3, 1, 1, 2], "iscrowd": 1},
    ]
    json.dumps(info)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ({5: 1, 300: 0}, r"without a category: \[70000\]"),
        (CATEGORY_IDS | {6: 1}, r"without a pixel: \[6\]"),
    ],
)
def test_segments_and_categories_must_agree(categories, message):
    with pytest.raises(ValueError, match=message):
        panoptic.segments_info(SEGMENT_IDS, categories)


def test_instances_are_read_back_by_pycocotools(tmp_path, capsys):
    info = panoptic.segments_info(SEGMENT_IDS, CATEGORY_IDS)
    instances = panoptic.instance_annotations(SEGMENT_IDS, info, CATEGORIES, 17, first_id=4)
    assert [a["id"] for a in instances] == [4, 5]
    images = [panoptic.image_entry(17, "a.jpg", 3, 4)]
    path = tmp_path / "instances.json"
    write_json(path, panoptic.coco_dataset(images, instances, CATEGORIES, "made by hand"))
    coco = COCO(str(path))
    for annotation, segment in zip(coco.loadAnns([4, 5]), (5, 70000), strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), segment == SEGMENT_IDS)
        rle = annotation["segmentation"]
        assert rle["counts"].isascii()
        assert rle["size"] == [3, 4]
        assert annotation["area"] == coco_mask.area(rle)
        assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
        assert (annotation["category_id"], annotation["iscrowd"]) == (1, 0)


def test_instances_refuse_an_unknown_category():
    info = panoptic.segments_info(SEGMENT_IDS, CATEGORY_IDS | {5: 8})
    with pytest.raises(ValueError, match="segment 5 has unknown"):
        panoptic.instance_annotations(SEGMENT_IDS, info, CATEGORIES, 17)


def test_panoptic_json_round_trip(tmp_path):
    info = panoptic.segments_info(SEGMENT_IDS, CATEGORY_IDS)
    annotation = panoptic.panoptic_annotation(17, "a.png", info)
    image = panoptic.image_entry(17, "a.jpg", 3, 4)
    path = tmp_path / "panoptic.json"
    write_json(path, panoptic.coco_dataset([image], [annotation], CATEGORIES))
    loaded = panoptic.load_panoptic_json(path)
    assert loaded.images == (image,)
    assert loaded.annotations == {17: annotation}
    assert loaded.categories == CATEGORIES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid JSON"),
        ("[]", 'no list "annotations"'),
        ('{"annotations": [{"image_id": 1}]}', "lacks one of image_id, file_name"),
        ('{"annotations": [{"image_id": 1, "segmentation": []}]}', "looks like COCO instances"),
        (
            '{"annotations": [{"image_id": 1, "file_name": "a", "segments_info": []},'
            ' {"image_id": 1, "file_name": "b", "segments_info": []}]}',
            "two annotations of image 1",
        ),
    ],
)
def test_bad_panoptic_json_is_named(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        panoptic.load_panoptic_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"id": 1}], "image 3: a segment is {'id': 1}: give it id and category_id"),
        ([{"id": 1, "category_id": 1}, {"id": 1, "category_id": 2}], "id 1 appears twice"),
        ([{"id": 0, "category_id": 1}], "segment id 0; ids are 1..16777215, 0 is void"),
        ([{"id": 2**24, "category_id": 1}], "segment id 16777216"),
    ],
)
def test_bad_segments_are_named(tmp_path, segments, message):
    annotation = {"image_id": 3, "file_name": "a.png", "segments_info": segments}
    write_json(tmp_path / "p.json", {"annotations": [annotation]})
    with pytest.raises(ValueError, match=message):
        panoptic.load_panoptic_json(tmp_path / "p.json")


def test_missing_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"p\.json"):
        panoptic.load_panoptic_json(tmp_path / "p.json")


def load_mutated(folder, **fields):
    """The set of one image whose annotation, segment, image entry or file has other fields."""
    segment = {"id": 5, "category_id": 1, "area": 4, "bbox": [0, 0, 2, 2], "iscrowd": 0}
    segment |= fields.pop("segment", {})
    annotation = {"image_id": 3, "file_name": "a.png", "segments_info": [segment]}
    annotation |= fields.pop("annotation", {})
    image = {"id": 3, "file_name": "a.jpg", "height": 3, "width": 4} | fields.pop("image", {})
    categories = [{"id": 1, "name": "cat", "isthing": 1}]
    content = {"images": [image], "annotations": [annotation], "categories": categories} | fields
    (folder / "p.json").write_text(json.dumps(content))
    return panoptic.load_panoptic_json(folder / "p.json")


@pytest.mark.parametrize(
    ("fields", "segment"),
    [
        ({"segment": {"area": None, "iscrowd": None}}, {"iscrowd": 0, "category_id": 1}),
        ({"segment": {"id": 5.0, "category_id": 1.0, "iscrowd": True}}, {"id": 5, "iscrowd": 1}),
        ({"images": None, "categories": None}, {"id": 5, "area": 4}),
        ({"annotation": {"image_id": 3.0}, "image": {"id": 3.0, "height": 3.0}}, {"id": 5}),
    ],
)
def test_other_spellings_are_read(tmp_path, fields, segment):
    loaded = load_mutated(tmp_path, **fields)
    assert list(loaded.annotations) == [3]
    found = loaded.annotations[3]["segments_info"][0]
    assert {key: found[key] for key in segment} == segment
    assert all(type(found[key]) is int for key in ("id", "category_id", "iscrowd"))
    assert "area" not in found or found["area"] is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"annotation": {"segments_info": None}}, '"segments_info" is None: write a list'),
        ({"annotation": {"segments_info": {"1": 2}}}, "write a list"),
        ({"annotation": {"file_name": None}}, "the file name is None"),
        ({"annotation": {"file_name": 7}}, "the file name is 7"),
        ({"annotation": {"file_name": "../a.png"}}, "leads out of its folder"),
        ({"annotation": {"file_name": "/etc/a.png"}}, "leads out of its folder"),
        ({"annotation": {"file_name": "C:\\a.png"}}, "leads out of its folder"),
        ({"annotation": {"image_id": None}}, '"image_id" is None'),
        ({"annotation": {"image_id": [3]}}, r'"image_id" is \[3\]'),
        ({"annotation": {"image_id": {}}}, '"image_id" is {}'),
        ({"annotation": {"image_id": True}}, '"image_id" is True'),
        ({"annotation": {"image_id": 3.5}}, '"image_id" is 3.5'),
        ({"segment": {"id": True}}, 'image 3: a segment: "id" is True'),
        ({"segment": {"id": "5"}}, "\"id\" is '5'"),
        ({"segment": {"id": 0.5}}, '"id" is 0.5'),
        ({"segment": {"id": None}}, '"id" is None'),
        ({"segment": {"category_id": "1"}}, "segment id 5: \"category_id\" is '1'"),
        ({"segment": {"category_id": [1]}}, r'"category_id" is \[1\]'),
        ({"segment": {"iscrowd": [0]}}, r'"iscrowd" is \[0\], neither 0 nor 1'),
        ({"segment": {"iscrowd": {}}}, '"iscrowd" is {}'),
        ({"segment": {"iscrowd": 1e308}}, r'"iscrowd" is 1e\+308'),
        ({"segment": {"iscrowd": "0"}}, "\"iscrowd\" is '0'"),
        ({"segment": {"area": "4.0"}}, "\"area\" is '4.0', not a finite number"),
        ({"segment": {"area": float("nan")}}, '"area" is nan'),
        ({"images": {"3": 1}}, '"images" is .*: write a list of images'),
        ({"images": [{"file_name": "a.jpg"}]}, "image 0 of the list is .*write it as {id"),
        ({"images": [{"id": 3}, {"id": 3}]}, "lists image 3 twice"),
        ({"image": {"id": []}}, r'"id" is \[\]'),
        ({"image": {"height": "3"}}, "\"height\" is '3'"),
        ({"image": {"width": 0}}, '"width" is 0, not a number of pixels'),
        ({"image": {"file_name": 7}}, '"file_name" is 7'),
        ({"categories": [{"id": 1.5, "name": "x", "isthing": 1}]}, "category 0 .* has id 1.5"),
        ({"categories": [{"id": 1, "name": "x", "isthing": None}]}, "isthing None; it must be"),
        ({"categories": [{"id": 1, "name": "x", "isthing": [1]}]}, r"isthing \[1\]"),
        ({"annotations": [5]}, "annotation 0 lacks one of"),
    ],
)
def test_what_a_field_cannot_hold_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_mutated(tmp_path, **fields)
    assert "p.json" in str(caught.value)


def test_a_png_of_another_image_is_refused(tmp_path):
    annotations = [
        {"image_id": 1, "file_name": "apple.png", "segments_info": []},
        {"image_id": 2, "file_name": "bear.png", "segments_info": []},
    ]
    images = [{"id": 1, "file_name": "x/bear.jpg"}, {"id": 2, "file_name": "x/apple.jpg"}]
    write_json(tmp_path / "p.json", {"images": images, "annotations": annotations})
    with pytest.raises(ValueError, match=r"image 1 is x/bear\.jpg, but its annotation names apple"):
        panoptic.load_panoptic_json(tmp_path / "p.json")
    annotations[1]["file_name"] = "apple.png"
    write_json(tmp_path / "p.json", {"images": images, "annotations": annotations})
    with pytest.raises(ValueError, match=r"images 1 and 2 both have the PNG apple\.png"):
        panoptic.load_panoptic_json(tmp_path / "p.json")


def test_float_ids_of_categories_are_integers():
    entries = [{"id": 2.0, "name": "cat", "isthing": 1.0}]
    assert parse_categories(entries, "list") == (Category(2, "cat", True, ANY),)
    assert type(parse_categories(entries, "list")[0].id) is int


def test_a_part_is_encoded_as_the_whole_mask_is():
    rng = np.random.default_rng(0)
    for _ in range(60):
        size = rng.integers(1, 8, 2)
        mask = np.zeros(size, bool)
        top, left = rng.integers(0, size)
        box = np.s_[top : top + rng.integers(1, 8), left : left + rng.integers(1, 8)]
        mask[box] = rng.random(mask[box].shape) < 0.7
        whole = panoptic.encode_mask(mask)
        assert panoptic.encode_part(mask[box], (top, left), mask.shape) == whole
