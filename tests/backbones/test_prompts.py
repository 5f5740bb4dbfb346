"""Prompts of images: their texts, their cache, and what they change."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from trace_d2.backbones import null_prompt
from trace_d2.backbones.prompt_texts import photo_of, read_prompts
from trace_d2.config import get_trace_cfg
from trace_d2.edges.detector import AttentionView, EdgeDetector
from trace_d2.edges.settings import EmergenceSettings
from trace_d2.jobs.kinds.edge_job import deciding_keys

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (40, 56, 3), np.uint8)
ONE_STEP = EmergenceSettings(fixed_timestep=300)
FAMILIES = ("sd15", "sdxl", "pixart", "sd3", "flux")


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def instances(*annotations, **more):
    """COCO of a.jpg, with ``annotations`` as image, category and crowd flag, and others without."""
    rows = [{"image_id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in annotations]
    names = {1: "train/a.jpg", 2: "train/b.jpg", 3: "c.jpg"}
    return {
        "images": [{"id": key, "file_name": name} for key, name in names.items()],
        "categories": [
            {"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 7, "name": "hot dog"},
        ],
        "annotations": rows, **more,
    }  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def texts(tmp_path):
    return write(tmp_path / "texts.json", {"a": "a red cup", "b": "two dogs, running", "c": ""})


def looked_at(backbone, *keys):
    """(B, N, N) attention of one photograph under each of ``keys``, in one pass, same noise."""
    detector = EdgeDetector(backbone, ONE_STEP, batch=len(keys))
    noise = detector.ready(PHOTO, "c").read.noise
    read = [detector.ready(PHOTO, key).read._replace(noise=noise) for key in keys]
    return AttentionView(backbone, read)([300])


def test_texts_of_instances(tmp_path):
    path = write(
        tmp_path / "a.json",
        instances((1, 1, 0), (1, 18, 0), (1, 18, 0), (2, 7, 0), (2, 1, 1), (1, 7, 0)),
    )
    found = read_prompts(path)
    assert found.kind == "annotations"
    assert dict(found.texts) == {
        "a": "A photo of 2 dog, 1 person and 1 hot dog",
        "b": "A photo of 1 hot dog",  # a crowd of persons has no number
        "c": "",
    }
    assert photo_of({"dog": 2, "person": 1}) == "A photo of 2 dog and 1 person"
    with pytest.raises(ValueError, match=r"a\.json has no image other: give .*PROMPTS a file of"):
        found.of("other")
    with pytest.raises(ValueError, match="has no image a 0 512"):  # no tile, but an image's name
        found.of("a 0 512")


def test_texts_of_panoptic_truth_are_of_things(tmp_path):
    panoptic = {
        "images": [{"id": 1, "file_name": "a.b.png"}],
        "categories": [
            {"id": 0, "name": "sky", "isthing": 0}, {"id": 5, "name": "cat", "isthing": 1},
        ],
        "annotations": [
            {
                "image_id": 1, "file_name": "a.png",
                "segments_info": [
                    {"id": n, "category_id": c, "iscrowd": 0} for n, c in ((1, 5), (2, 0), (3, 5))
                ],
            }
        ],
    }  # fmt: skip
    found = read_prompts(write(tmp_path / "p.json", panoptic))
    assert dict(found.texts) == {"a.b": "A photo of 2 cat"}
    assert found.of("a.b") == "A photo of 2 cat"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], r"holds \[\]: correct MODEL\.TRACE\.BACKBONE\.PROMPTS"),
        ({"a": 3}, "the text of a is 3"),
        (instances((1, 99, 0)), r"is no COCO annotations \(KeyError\(99\)\)"),
        (instances(categories=[]), 'has no "categories"'),
        (instances(categories=[{"id": 1}]), "a category lacks id or name"),
        (instances(images=[]), 'lists no "images"'),
        (
            instances((1, 1, 0), images=[{"id": k, "file_name": f"{k}/a.jpg"} for k in (1, 2)]),
            "two images are called a, with different texts",
        ),
    ],
)
def test_files_that_are_none_are_named(tmp_path, content, named):
    with pytest.raises(ValueError, match=named):
        read_prompts(write(tmp_path / "a.json", content))


def test_an_image_that_is_named_twice_is_refused(tmp_path):
    path = tmp_path / "texts.json"
    path.write_text('{"a": "a cup", "b": "", "a": "a dog"}')
    with pytest.raises(ValueError, match=r"texts\.json is not valid JSON \(it has 'a' twice\)"):
        read_prompts(str(path))


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_texts_that_are_cut_are_counted_once(family, build_tiny, cache, tmp_path, caplog):
    long = {key: f"{key} cup " * 600 for key in "ab"}
    build_tiny(family, PROMPTS=write(tmp_path / "long.json", {**long, "c": "a dog"}))
    (cut,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert cut.startswith("2 of 3 prompts are longer than a tokenizer of ")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_changes_attention_and_a_batch_nothing(family, build_tiny, cache, texts):
    plain, told = build_tiny(family), build_tiny(family, PROMPTS=texts)
    null = looked_at(plain, "c")
    assert torch.equal(looked_at(told, "c"), null)  # the null prompt, bit for bit
    first, second, third = looked_at(told, "a", "b", "c")
    assert not torch.equal(first, null[0])
    assert not torch.equal(first, second)
    for key, own in (("a", first), ("b", second), ("c", third)):
        torch.testing.assert_close(looked_at(told, key)[0], own, rtol=1e-4, atol=1e-7)
    assert torch.equal(looked_at(told, "c"), null)  # what was told is forgotten again


@pytest.mark.parametrize("family", ["sdxl", "pixart"])
def test_it_is_what_the_pipeline_encodes(family, build_tiny, tiny_pipeline, cache, texts):
    pipeline, _ = tiny_pipeline(family)
    told = build_tiny(family, PROMPTS=texts)
    outputs = type(told).text_encoding.outputs
    expected = null_prompt.encode_text(pipeline, "a red cup", outputs, torch.device("cpu"))
    found = told._prompts.of("a red cup").tensors
    assert found.keys() == expected.tensors.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, expected.tensors[key])


def test_two_timesteps_and_two_images_of_a_pass(build_tiny, cache, texts):
    backbone = build_tiny("sd3", PROMPTS=texts)
    detector = EdgeDetector(backbone, ONE_STEP, batch=2)
    read = [detector.ready(PHOTO, key).read for key in ("a", "b")]
    both = AttentionView(backbone, read)([100, 300])
    for rank, own in enumerate(read):
        alone = AttentionView(backbone, [own])([100, 300])
        torch.testing.assert_close(both[2 * rank : 2 * rank + 2], alone, rtol=1e-4, atol=1e-7)


def test_tiles_are_told_what_their_image_is_and_have_noise_of_their_own(build_tiny, cache, texts):
    detector = EdgeDetector(build_tiny("sd15", PROMPTS=texts), ONE_STEP)
    tile, image = (detector.ready(PHOTO, "a", tile).read for tile in (" 0 7", ""))
    assert tile.prompt == image.prompt == "a red cup"
    size = (tile.pixels.shape[0], tile.pixels.shape[1])
    assert torch.equal(tile.noise, detector.backbone.draw_noise(size, 0, "a 0 7"))
    with pytest.raises(ValueError, match="has no image a 0 7"):
        detector.ready(PHOTO, "a 0 7")


def test_the_cache_is_used_instead_of_the_encoders(
    build_tiny, cache, texts, tmp_path, monkeypatch, caplog
):
    with caplog.at_level(logging.INFO):
        first = build_tiny("flux", PROMPTS=texts)._prompts.of("a red cup")
    assert "1 of 3 images have nothing to be told of: they get the null prompt" in caplog.text
    assert "2 prompts take" in caplog.text
    (folder,) = cache.iterdir()
    assert len(list(folder.iterdir())) == 2
    encoded = []
    encode = null_prompt.encode_text

    def count(pipeline, text, *rest):
        encoded.append(text)
        return encode(pipeline, text, *rest)

    monkeypatch.setattr(null_prompt, "encode_text", count)
    monkeypatch.setattr(null_prompt, "_encode", lambda *_: pytest.fail("encoders were loaded"))
    again = build_tiny("flux", PROMPTS=texts)._prompts.of("a red cup")
    assert encoded == []
    assert torch.equal(again.tensors["prompt_embeds"], first.tensors["prompt_embeds"])
    more = write(tmp_path / "more.json", {"a": "a red cup", "b": "a third"})
    build_tiny("flux", PROMPTS=more)
    assert encoded == ["a third"]


def test_a_damaged_file_of_the_cache_names_it(build_tiny, cache, texts):
    backbone = build_tiny("flux", PROMPTS=texts)
    for path in cache.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"'a red cup': .* not a whole .*: remove .*, run again"):
        looked_at(backbone, "a")


def test_a_null_prompt_of_another_length_is_refused(
    build_tiny, tiny_folder, cache, tmp_path, texts
):
    folder = shutil.copytree(tiny_folder("flux"), tmp_path / "flux")
    tensors = {"prompt_embeds": torch.zeros(1, 1, 16), "pooled_prompt_embeds": torch.zeros(1, 16)}
    null_prompt.NullPrompt(tensors).save(folder / "null_prompt.safetensors")
    with pytest.raises(ValueError, match=r"\(1, 512, 16\), that of the null prompt \(1, 1, 16\)"):
        build_tiny(folder, PROMPTS=texts)


def test_a_cache_that_cannot_be_written_is_named(build_tiny, tmp_path, texts, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="set TRACE_D2_CACHE to a folder that can"):
        build_tiny("sd15", PROMPTS=texts)


def test_backbones_without_text_refuse(build_tiny, tiny_vit_folder, texts):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME, cfg.MODEL.TRACE.BACKBONE.PROMPTS = "trace-tiny", texts
    from trace_d2.backbones import build_backbone
    from trace_d2.backbones.preflight import check_backbone

    for build in (check_backbone, build_backbone):
        with pytest.raises(ValueError, match="has no text encoders, so it takes no prompts"):
            build(cfg)
    with pytest.raises(ValueError, match=r"BACKBONE\.PROMPTS .*: these keys are of diffusion"):
        build_tiny(tiny_vit_folder("vit"), PROMPTS=texts)


def test_the_content_of_the_file_decides_results(texts, tmp_path):
    cfg = get_trace_cfg()
    key = "MODEL.TRACE.BACKBONE.PROMPTS"
    assert key not in deciding_keys(cfg, ("BACKBONE",))
    cfg.MODEL.TRACE.BACKBONE.PROMPTS = texts
    first = deciding_keys(cfg, ("BACKBONE",))[key]
    copy = tmp_path / "copy.json"
    copy.write_bytes((tmp_path / "texts.json").read_bytes())
    cfg.MODEL.TRACE.BACKBONE.PROMPTS = str(copy)
    assert deciding_keys(cfg, ("BACKBONE",))[key] == first
    copy.write_text('{"a": "another"}')
    assert deciding_keys(cfg, ("BACKBONE",))[key] != first


def test_a_job_tells_the_model_by_the_stems_of_its_images(
    load_tool, tiny_folder, cache, tmp_path, capsys
):
    images = tmp_path / "images"
    (images / "train").mkdir(parents=True)
    for name in ("train/a.png", "b.png", "other.png"):
        Image.fromarray(PHOTO).save(images / name)
    texts = write(tmp_path / "coco.json", instances((1, 18, 0)))

    def run(output, *pairs):
        places = ["--images", str(images), "--output", str(tmp_path / output)]
        own = ["MODEL.TRACE.BACKBONE.NAME", str(tiny_folder("sd15")), "MODEL.TRACE.DEVICE", "cpu"]
        own += ["MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP", "300"]
        return load_tool("make_pseudo_edges").main([*places, "--quiet", *own, *pairs])

    def edges(output, stem):
        return (tmp_path / output / f"pseudo_edges/{stem}.png").read_bytes()

    key = "MODEL.TRACE.BACKBONE.PROMPTS"
    assert run("plain") == 0
    assert run("told", key, texts) == 3  # one failed
    said = capsys.readouterr().err
    assert "coco.json has no text of 1 of the 3 images, which will fail, as other.png" in said
    assert "coco.json has no image other" in said
    assert edges("told", "train/a") != edges("plain", "train/a")
    assert edges("told", "b") == edges("plain", "b")  # it shows nothing that is counted
    own = write(tmp_path / "own.json", {"a": "", "b": "a first text", "other": "one of no image"})
    kept = set(cache.rglob("*.safetensors"))
    assert run("some", key, own, "--limit", "1") == 0  # b.png
    assert len(set(cache.rglob("*.safetensors")) - kept) == 1
    write(tmp_path / "coco.json", instances((1, 1, 0)))
    assert run("told", key, texts) == 2
    assert key in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.jpg", "sub/b.png"])
def test_a_job_of_no_image_that_the_file_names_does_not_begin(
    load_tool, tiny_folder, tmp_path, name, capsys
):
    images = tmp_path / "images"
    images.mkdir()
    for stem in ("a", "b"):
        Image.fromarray(PHOTO).save(images / f"{stem}.png")
    texts = write(tmp_path / "texts.json", {name: "a red cup"})
    command = ["--images", str(images), "--output", str(tmp_path / "out")]
    command += ["MODEL.TRACE.BACKBONE.NAME", str(tiny_folder("sd15"))]
    assert (
        load_tool("make_pseudo_edges").main([*command, "MODEL.TRACE.BACKBONE.PROMPTS", texts]) == 2
    )
    said = capsys.readouterr().err
    assert "names none of the 2 images: a.png is looked for by its stem, 'a'" in said
    assert not (tmp_path / "out").exists()
