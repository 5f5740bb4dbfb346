"""What a diffusion model is told of each image: a text by its stem (appendix E.1 of the paper).

Texts come from a file: of the user's own, ``{stem: text}``, or from annotations, COCO instances or
panoptic, as "A photo of [n] [class]" for each class of things in the image, in the order of the
categories: "A photo of 2 dog and 1 person". The paper says no more; names stay as they are, without
plurals, and crowd regions, which have no number, are left out.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from trace_d2.io.json_files import paused_collector, quoted, read_json, shown
from trace_d2.io.paths import composed
from trace_d2.io.remote import InputFile, input_file

KEY = "MODEL.TRACE.BACKBONE.PROMPTS"
_REMEDY = f"correct {KEY}, which is a file of COCO annotations or of {{stem: text}}"

_asked: ContextVar[frozenset[str] | None] = ContextVar("stems of images", default=None)


@dataclass(frozen=True)
class PromptTexts:
    """The texts of a file.

    Attributes:
        kind: ``"annotations"`` or ``"texts"``.
        texts: by the stem of the image's file, without folders; empty for the null prompt.
    """

    path: InputFile
    kind: str
    texts: Mapping[str, str]

    def of(self, key: str) -> str:
        """The text of the image ``key`` (a file stem).

        Raises:
            ValueError: the file does not name it.
        """
        name = _stem(key, ending=False)
        if name in self.texts:
            return self.texts[name]
        raise ValueError(
            f"{self.path} has no image {shown(key)}: give {KEY} a file of all images of the job, "
            'or that image the text ""'
        )


@contextlib.contextmanager
def only_of(file_names: Iterable[str]) -> Iterator[None]:
    """Within the block ``asked_prompts`` gives the texts of these images alone.

    Who builds a network knows its images, and what lies between knows neither.
    """
    token = _asked.set(frozenset(map(_stem, file_names)))
    try:
        yield
    finally:
        _asked.reset(token)


def asked_prompts(source: str | InputFile) -> PromptTexts:
    """As ``read_prompts``, of the images of ``only_of``; outside of its block of all."""
    found, asked = read_prompts(source), _asked.get()
    if asked is None:
        return found
    return replace(found, texts={s: text for s, text in found.texts.items() if s in asked})


def check_named(source: str | InputFile, file_names: Sequence[str]) -> str:
    """What is to be known where a file names some of the images alone; empty for nothing.

    Raises:
        ValueError: it names none of them.
    """
    found = read_prompts(source)
    missing = [name for name in file_names if _stem(name) not in found.texts]
    if not missing:
        return ""
    first, total = missing[0], len(file_names)
    if len(missing) < total:
        return (
            f"{found.path} has no text of {len(missing)} of the {total} images, which will fail, as"
            f' {shown(first)}: name them in it, with the text "" for the null prompt'
        )
    raise ValueError(
        f"{found.path} names none of the {total} images: {shown(first)} is looked for by its stem, "
        f"{quoted(_stem(first))}, without folders and ending, and what it names is "
        f"{quoted(next(iter(found.texts)))} and so on: {_REMEDY}"
    )


def read_prompts(source: str | InputFile) -> PromptTexts:
    """The texts of a file, see above.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, names an image twice, or two images of one stem have
            different texts.
    """
    path = input_file(source)
    content = read_json(path, "file of prompts", _REMEDY)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds {quoted(content)}: {_REMEDY}")
    if isinstance(content.get("annotations"), list):
        return PromptTexts(path, "annotations", _described(content, path))
    texts: dict[str, str] = {}
    # Read again, as the check takes its time, and annotations are large.
    for stem, text in read_json(path, unique=True).items():
        if not isinstance(text, str):
            raise ValueError(f"{path}: the text of {shown(stem)} is {quoted(text)}: {_REMEDY}")
        _add(texts, _stem(stem, ending=False), text.strip(), path)
    return PromptTexts(path, "texts", texts)


def refuse_prompts(model: object) -> None:
    """Raise that ``model`` has no text encoders."""
    raise ValueError(f"{model} has no text encoders, so it takes no prompts: leave {KEY} empty")


def prompts_print(source: str | InputFile) -> str:
    """A short text that is equal for equal files."""
    return hashlib.sha256(input_file(source).read_bytes()).hexdigest()[:16]


def photo_of(counts: Mapping[str, int]) -> str:
    """``"A photo of [n] [class]"`` of so many of each class, in their order; empty for none.

    >>> photo_of({"dog": 2, "cat": 1, "person": 1})
    'A photo of 2 dog, 1 cat and 1 person'
    """
    parts = [f"{count} {name}" for name, count in counts.items()]
    if not parts:
        return ""
    joined = ", ".join(parts[:-1])
    return "A photo of " + (f"{joined} and {parts[-1]}" if joined else parts[-1])


@paused_collector()
def _described(content: Mapping[str, Any], path: InputFile) -> dict[str, str]:
    names, things = _categories(content.get("categories"), path)
    counts: dict[Any, Counter[Any]] = {}
    try:
        for annotation in content["annotations"]:
            own = counts.setdefault(annotation["image_id"], Counter())
            for one in annotation.get("segments_info", (annotation,)):
                if not one.get("iscrowd") and things[one["category_id"]]:
                    own[one["category_id"]] += 1
        texts: dict[str, str] = {}
        for image in content.get("images") or ():
            own = counts.get(image["id"], Counter())
            text = photo_of({names[key]: own[key] for key in names if own[key]})
            _add(texts, _stem(_name(image)), text, path)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no COCO annotations ({error!r}): {_REMEDY}") from error
    if not texts:
        raise ValueError(f'{path} lists no "images", whose prompts these would be: {_REMEDY}')
    return texts


def _categories(listed: Any, path: InputFile) -> tuple[dict[Any, str], dict[Any, bool]]:
    """Names by id in the order of the list, and whether they are things, as all are unless said."""
    if not isinstance(listed, list) or not listed:
        raise ValueError(f'{path} has no "categories", whose names a prompt tells: {_REMEDY}')
    try:
        names = {one["id"]: str(one["name"]) for one in listed}
        return names, {one["id"]: bool(one.get("isthing", 1)) for one in listed}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: a category lacks id or name ({error!r}): {_REMEDY}") from error


def _name(image: Mapping[str, Any]) -> str:
    """The file name of an entry of ``images``; LVIS has addresses instead."""
    return str(image["file_name"] if "file_name" in image else urlsplit(image["coco_url"]).path)


def _stem(name: str, ending: bool = True) -> str:
    last = PurePosixPath(composed(name).replace("\\", "/"))
    return last.stem if ending else last.name


def _add(texts: dict[str, str], stem: str, text: str, path: InputFile) -> None:
    if texts.setdefault(stem, text) != text:
        raise ValueError(
            f"{path}: two images are called {shown(stem)}, with different texts: prompts are found "
            "by the stem, so rename one"
        )
