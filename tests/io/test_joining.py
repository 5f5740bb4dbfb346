"""Images of two files are joined by id only where their names agree."""

import pytest

from trace_d2.io.joining import ImageNames, join_images, same_image

TRUTH = ImageNames("truth.json", {1: "bear.jpg", 2: "apple.jpg"})


def given(names, **options):
    return ImageNames("labels.json", names, **options)


@pytest.mark.parametrize(
    "names",
    [
        {1: "bear.jpg", 2: "apple.jpg"},
        {1: "val2017/bear.png", 2: "val2017\\apple.JPG"},
        {1: None, 2: ""},
        {2: "apple.jpg"},
        {1: "bear", 7: "cherry.jpg"},
    ],
)
def test_ids_count_where_names_agree_or_are_unknown(names, caplog):
    expected = {key: key for key in names if key in TRUTH.names}
    assert join_images(TRUTH, given(names)) == expected
    assert not caplog.records


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({1: "apple.png", 2: "bear.png"}, {1: 2, 2: 1}),  # numbered by rank
        ({7: "apple.png", 8: "bear.png"}, {7: 2, 8: 1}),
        ({1: "bear.jpg", 3: "apple.jpg"}, {1: 1, 3: 2}),
        ({1: "bear.jpg", 2: "cherry.jpg"}, {1: 1}),
    ],
)
def test_names_decide_where_ids_contradict_them(names, expected, caplog):
    assert join_images(TRUTH, given(names)) == expected
    assert "labels.json and truth.json do not mean the same images" in caplog.text


def test_decomposed_names_are_the_same():
    truth = ImageNames("truth.json", {1: "caf\u00e9.jpg"})
    assert join_images(truth, given({1: "cafe\u0301.jpg"})) == {1: 1}


def test_folders_tell_images_of_one_name_apart(caplog):
    truth = ImageNames("truth.json", {1: "a/0001.jpg", 2: "b/0001.jpg"})
    assert join_images(truth, given({1: "x/a/0001.jpg", 2: "x/b/0001.jpg"})) == {1: 1, 2: 2}
    assert not caplog.records
    assert join_images(truth, given({1: "b/0001.png", 2: "a/0001.png"})) == {1: 2, 2: 1}
    with pytest.raises(ValueError, match="no file name is in both"):
        join_images(truth, given({1: "x/b/0001.jpg", 2: "x/a/0001.jpg"}))


def test_endings_that_are_none_stay():
    truth = ImageNames("truth.json", {1: "frame.0001", 2: "frame.0002"})
    assert join_images(truth, given({1: "frame.0002", 2: "frame.0001"})) == {1: 2, 2: 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({1: "x.jpg", 2: "y.jpg"}, "no file name is in both"),
        ({1: "apple.jpg", 2: "apple.jpg"}, "names apple.jpg twice"),
        ({1: "apple.jpg", 2: None}, "no file_name of image 2"),
    ],
)
def test_what_names_cannot_settle_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        join_images(TRUTH, given(names))


def test_names_of_pngs_contradict_only_as_those_of_other_images(caplog):
    truth = ImageNames("truth.json", {1: "bear_left.png", 2: "apple_left.png"})
    assert join_images(truth, given({1: "bear_gt", 2: "apple_gt"}, indirect=True)) == {1: 1, 2: 2}
    assert not caplog.records
    swapped = given({1: "apple_left.png", 2: "bear_left.png"}, indirect=True)
    assert join_images(truth, swapped) == {1: 2, 2: 1}
    assert not same_image(truth, swapped, 1)


def test_text_and_numbers_are_one_id_aloud(caplog):
    assert join_images(TRUTH, given({"1": "bear.jpg", "2": None, "03": None})) == {"1": 1, "2": 2}
    assert "2 image ids are text" in caplog.text
    with pytest.raises(ValueError, match="'1'"):
        join_images(TRUTH, given({1: None, "1": None}))


def test_a_way_to_match_can_be_chosen():
    swapped = given({1: "apple.png", 2: "bear.png"})
    assert join_images(TRUTH, swapped, "id") == {1: 1, 2: 2}
    assert join_images(TRUTH, swapped, "file_name") == {1: 2, 2: 1}
    with pytest.raises(ValueError, match="choose one of"):
        join_images(TRUTH, swapped, "size")
