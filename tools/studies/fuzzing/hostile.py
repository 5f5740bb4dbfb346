"""Files of 1 KB to 1 MB that would fill the memory or take minutes if they were decoded first.

Each takes the place of a sound file of a reader; sizes it tells are far beyond it, or compressed.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import resource
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import PeakMemory

from . import files
from .mutations import Spoiled
from .readers import Reader
from .trials import Bench

MOST_SECONDS, MOST_BYTES = 2.0, 300 * 2**20
"""What refusing a file may take."""

_MEMORY = 4 * 2**30  # of a process that tries one, so that none takes the machine with it
_WITHIN, _BEYOND = 16_000, 30_000  # sides of images: below 2^28 pixels, and above


@dataclass(frozen=True)
class Hostile:
    """A hostile file in the place of a sound one.

    Attributes:
        name: what it is.
        reader: the name of the reader.
        file: the sound file below the reader's folder whose place it takes.
        data: gives its content.
    """

    name: str
    reader: str
    file: str
    data: Callable[[], bytes]


@dataclass(frozen=True)
class Refusal:
    """What refusing one took.

    Attributes:
        size: bytes of the file.
        memory: bytes at the peak above what the process held before.
        answer: the exit status, or what went wrong, and the first words.
        refused: whether it was told of at all, and not by a traceback.
    """

    size: int
    seconds: float
    memory: int
    answer: str
    refused: bool

    @property
    def held(self) -> bool:
        """Whether it was refused within the limits."""
        return self.refused and self.seconds <= MOST_SECONDS and self.memory <= MOST_BYTES


def refuse(hostile: Hostile, reader: Reader) -> Refusal:
    """Let a process of its own read ``hostile``."""
    context = multiprocessing.get_context("fork")  # all is imported: no seconds for each of them
    ours, theirs = context.Pipe()
    data = hostile.data()
    process = context.Process(target=_read, args=(theirs, hostile, reader, data))
    process.start()
    theirs.close()
    try:
        found: Refusal = ours.recv()
    except EOFError:
        found = Refusal(len(data), 0.0, 0, "the process died", False)
    process.join()
    return found


def _read(pipe: Any, hostile: Hostile, reader: Reader, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(reader, Path(folder) / reader.name)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        spoiled = Spoiled(hostile.file, hostile.name, "all of it", data, True)
        memory, start = PeakMemory(), time.perf_counter()
        reading = bench.answer(spoiled)
        seconds, peak = time.perf_counter() - start, memory.growth()
    new = [line for line in reading.words.splitlines() if line not in bench.undisturbed.words]
    words = reading.error.strip().splitlines()[-1:] or new
    refused = not reading.error and (reading.status != 0 or bool(new))
    answer = f"{reading.status}: {' '.join(words)[:200]}"
    pipe.send(Refusal(len(data), seconds, peak, answer, refused))


def png(side: int, channels: int = 1, bits: int = 8, chunks: tuple[bytes, ...] = ()) -> bytes:
    """A black PNG of ``side`` x ``side``, which compresses to almost nothing."""
    kind = {1: 0, 3: 2}[channels]
    head = struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0)
    body = _zeros(side * (1 + side * channels * bits // 8))
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache(maxsize=4)
def _zeros(count: int) -> bytes:
    """So many zero bytes, compressed."""
    packer, parts, block = zlib.compressobj(9), [], bytes(2**22)
    for start in range(0, count, len(block)):
        parts.append(packer.compress(block[: count - start]))
    return b"".join([*parts, packer.flush()])


def _lying_png() -> bytes:
    data = bytearray(png(64))
    data[8:33] = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0))
    return bytes(data)


def _text_bomb(kind: bytes) -> bytes:
    packed = _zeros(900_000_000)
    heads = {b"zTXt": b"a\0\0", b"iCCP": b"a\0\0", b"iTXt": b"a\0\1\0\0\0"}
    return png(64, 3, chunks=(chunk(kind, heads[kind] + packed),))


def _tiff(side: int) -> bytes:
    """One strip, compressed by deflate."""
    data = _zeros(side * side)
    tags = [
        (256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8),
        (277, 3, 1), (278, 4, side), (279, 4, len(data)),
    ]  # fmt: skip
    folder = struct.pack("<H", len(tags))
    for tag, kind, value in tags:
        folder += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
    at = 8 + len(data)
    return b"II*\0" + struct.pack("<I", at) + data + folder + bytes(4)


def _jpeg(side: int) -> bytes:
    """The header of a JPEG of another size than the scan that follows."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def _resized(kind: str, old: bytes, new: bytes) -> bytes:
    """A small image of ``kind`` whose header tells another size."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, kind)
    data = buffer.getvalue()
    if old not in data:
        raise RuntimeError(f"no size in the header of {kind}")
    return data.replace(old, new, 1)


def _npy(shape: str, kind: str = "<f4", version: int = 1, length: int | None = None) -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    form = "<H" if version == 1 else "<I"
    size = struct.pack(form, len(head) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + head + bytes(1000)


def _zip(member: str) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as file,
    ):
        for _ in range(200):
            file.write(bytes(2**22))
    return buffer.getvalue()


def _mat() -> bytes:
    """A .mat file with a compressed element of 900 MB."""
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    packer = zlib.compressobj()
    inner = struct.pack("<II", 14, 900_000_000) + struct.pack("<IIII", 6, 8, 9, 0)
    inner += struct.pack("<IIii", 5, 8, 30_000, 30_000) + struct.pack("<HH4s", 1, 6, b"GTin")
    inner += struct.pack("<II", 2, 900_000_000 - 64)
    parts = [packer.compress(inner)]
    parts += [packer.compress(bytes(2**22)) for _ in range(214)]
    packed = b"".join([*parts, packer.flush()])
    return head + struct.pack("<II", 15, len(packed)) + packed


def _instances(change: Callable[[dict[str, Any]], None]) -> bytes:
    """COCO instances with one change."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        files.write_instances(path)
        content = json.loads(path.read_text())
    change(content)
    return json.dumps(content).encode()


def _with_mask(segmentation: Any, sides: tuple[int, int] | None = None) -> bytes:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["segmentation"] = segmentation
        if sides:
            content["images"][0]["height"], content["images"][0]["width"] = sides

    return _instances(change)


def _many() -> bytes:
    """Thousands of small masks, each of an image of 256 megapixels."""

    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["height"] = image["width"] = _WITHIN
        rest = _WITHIN * _WITHIN - 2
        mask = {"size": [_WITHIN, _WITHIN], "counts": [1, 1, rest]}
        row = {"image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": mask}
        content["annotations"] = [{"id": n, **row} for n in range(1, 8000)]

    return _instances(change)


def _deep() -> bytes:
    return b"[" * 250_000 + b"]" * 250_000


def _digits() -> bytes:
    return b'{"images": [{"id": ' + b"9" * 1_000_000 + b"}]}"


def _safetensors(length: int) -> bytes:
    return struct.pack("<Q", length) + b"{" + b" " * 1000


def _tensor_of(shape: list[int]) -> bytes:
    count = 4
    for side in shape:
        count *= side
    head = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, count]}}
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + bytes(1000)


_MASKS = {
    "masks": "masks.json", "instances": "truth.json", "instances-coco": "found.json",
    "self-training": "labels.json", "train-instances": "truth.json",
    "prepare-coco": "coco/annotations/instances_val2017.json",
}  # fmt: skip
_PNGS = (
    ("labels", "images/2.png", 3), ("labels", "semantic/1.png", 1),
    ("labels", "edges/1.png", 1),
    ("masks", "images/2.png", 3), ("masks", "edges/1.png", 1), ("panoptic", "truth/2.png", 3),
    ("panoptic", "found/panoptic/2.png", 3), ("edges", "edges/1.png", 1),
    ("edges", "truth/1.png", 3), ("oracle", "truth/1.png", 3),
    ("train-panoptic", "out/panoptic/2.png", 3),
    ("train-panoptic", "out/semantic/2.png", 1), ("train-semantic", "semantic/2.png", 1),
    ("train-semantic", "edges/1.png", 1), ("train-edges", "pseudo_edges/2.png", 1),
    ("train-instances", "images/2.png", 3), ("train-edges", "images/2.png", 3),
    ("prepare-voc", "VOC2012/SegmentationObject/2007_000001.png", 1),
)  # fmt: skip
_JSON = {
    "labels": "categories.json", "labels-merge": "out/settings.json",
    "labels-again": "out/journal.jsonl", "masks-merge": "refined.json.work/annotations/1.json",
    "train-panoptic": "out/panoptic.json", "panoptic": "truth.json", "edges": "truth.json",
    "oracle": "truth.json", "student": "student.json", "masks-list": "images.json",
    "prepare-sa1b": "sa1b/images/sa_1.json",
    "prepare-coco-2014": "coco/annotations/panoptic_val2017.json", **_MASKS,
}  # fmt: skip


def hostile_files() -> Iterator[Hostile]:
    """One after the other; those of one content stand together."""
    for side in (_WITHIN, _BEYOND):
        for channels in (1, 3):
            for reader, file, own in _PNGS:
                if own == channels:
                    yield Hostile(f"PNG of {side} x {side}", reader, file, partial(png, side, own))
    yield from (Hostile("PNG that tells 2^31", r, f, _lying_png) for r, f, _ in _PNGS)
    for kind in (b"zTXt", b"iCCP", b"iTXt"):
        for reader, file, _ in _PNGS:
            if file.startswith(("images", "semantic", "truth", "pseudo")) or "edges/1" in file:
                yield Hostile(f"{kind.decode()} of 900 MB", reader, file, partial(_text_bomb, kind))
    yield from _photographs()
    yield from _arrays()
    for reader, file in _MASKS.items():
        yield from _masks(reader, file)
    for reader, file in _JSON.items():
        yield Hostile("JSON 250,000 deep", reader, file, _deep)
        yield Hostile("a number of a million digits", reader, file, _digits)
    for name in ("decoder.safetensors", "lora/pytorch_lora_weights.safetensors"):
        yield Hostile("header of 2^60 bytes", "student", name, lambda: _safetensors(2**60))
        yield Hostile("header of 90 MB", "student", name, lambda: _safetensors(90_000_000))
        yield Hostile("tensor of 2^60", "student", name, lambda: _tensor_of([2**30, 2**30]))
    for name in ("out/model_0000001.pth", "weights.pkl"):
        yield Hostile("zip of 800 MB", "checkpoints", name, lambda: _zip("archive/data.pkl"))


def _photographs() -> Iterator[Hostile]:
    for reader, file in (
        ("labels", "images/3.tif"), ("masks", "images/3.tif"), ("train-instances", "images/3.tif"),
        ("train-semantic", "images/3.tif"),
    ):  # fmt: skip
        sides = struct.pack("<HH", 64, 48), struct.pack("<HH", 65535, 65535)
        yield Hostile("TIFF within", reader, file, lambda: _tiff(_WITHIN))
        yield Hostile("TIFF beyond", reader, file, lambda: _tiff(_BEYOND))
        yield Hostile("JPEG within", reader, file, lambda: _jpeg(_WITHIN))
        yield Hostile("JPEG beyond", reader, file, lambda: _jpeg(65535))
        yield Hostile("GIF beyond", reader, file, partial(_resized, "GIF", *sides))
        yield Hostile(
            "BMP beyond", reader, file,
            lambda: _resized("BMP", struct.pack("<ii", 64, 48), struct.pack("<ii", 2**30, 2**30)),
        )  # fmt: skip
        yield Hostile(
            "JPEG 2000 beyond", reader, file,
            lambda: _resized(
                "JPEG2000", struct.pack(">II", 48, 64), struct.pack(">II", 2**30, 2**30)
            ),
        )  # fmt: skip
        yield Hostile("PPM beyond", reader, file, lambda: b"P6 99999 99999 255\n" + bytes(1000))
        yield Hostile("WebP within", reader, file, lambda: _webp(16384))


def _webp(side: int) -> bytes:
    """The extended header of a WebP of another size than its frame."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGBA", (64, 48), (1, 2, 3, 4)).save(buffer, "WEBP", exif=b"Exif\0\0a")
    data = bytearray(buffer.getvalue())
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (side - 1).to_bytes(3, "little") * 2
    return bytes(data)


def _arrays() -> Iterator[Hostile]:
    cases: dict[str, Callable[[], bytes]] = {
        "npy of 10^18": lambda: _npy("(1000000000, 1000000000)"),
        "npy of 20000 x 20000": lambda: _npy("(20000, 20000)"),
        "npy of 2^28": lambda: _npy("(16384, 16384)", "<f2"),
        "npy of 40 sides": lambda: _npy("(" + "48, " * 40 + ")"),
        "npy with a header of 4 GB": lambda: _npy("(48, 64)", version=2, length=2**32 - 1),
        "npy with numbers of 900 kB": lambda: _npy("(" + "9" * 60_000 + ", 1)"),
        "npy of long texts": lambda: _npy("(48, 64)", "<U999999999"),
        "npz of 800 MB": lambda: _zip("arr_0.npy"),
    }
    for name, data in cases.items():
        for reader in ("labels", "masks", "edges", "train-semantic"):
            yield Hostile(name, reader, "edges/2.npy", data)
    yield Hostile(".mat of 900 MB", "prepare-voc", "sbd/inst/2008_000003.mat", _mat)


def _masks(reader: str, file: str) -> Iterator[Hostile]:
    side, wide = 31_623, 10**9
    points = np.random.default_rng(0).integers(0, 64, 200_000).astype(float).tolist()
    wraps = [2**62, 2**62, 2**62, 2**62, files.HEIGHT * files.WIDTH]
    cases: dict[str, Any] = {
        "RLE of 10^9": ({"size": [side, side], "counts": [side * side]}, None),
        "RLE of 10^9, declared": (
            {"size": [side, side], "counts": [9, side * side - 9]}, (side, side)
        ),
        "RLE of 10^18": ({"size": [wide, wide], "counts": [9, wide * wide - 9]}, (wide, wide)),
        "RLE whose sum wraps": ({"size": [files.HEIGHT, files.WIDTH], "counts": wraps}, None),
        "RLE of huge numbers": ({"size": [10**30, 10**30], "counts": [10**60]}, None),
        "compressed RLE of 10^10": ({"size": [10**5, 10**5], "counts": "PPPPPPo0"}, (10**5,) * 2),
        "polygon of 100,000 points": ([points], None),
        "polygon far outside": ([[0, 0, 1e12, 0, 1e12, 1e12]], None),
        "polygon of 10^9": ([[0, 0, 9e8, 0, 9e8, 9e8]], (10**9, 10**9)),
        "polygon of 16000": ([[0, 0, 15e3, 0, 15e3, 15e3]], (_WITHIN, _WITHIN)),
    }  # fmt: skip
    for name, (mask, sides) in cases.items():
        yield Hostile(name, reader, file, partial(_with_mask, mask, sides))
    yield Hostile("8,000 masks of 16000 x 16000", reader, file, _many)
