"""The contract of a backbone: an image in, self-attention to be read in one forward pass."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor, nn

from trace_d2.attention import AttentionLayout
from trace_d2.attention.watching import CAN_WATCH_COMPILED

# Beyond this ratio of the sides "keep" squeezes the image: denoisers are trained up to about 4.
MAX_ASPECT_RATIO = 4.0
# Of PixArt and SD3, for which diffusers names none; of vision transformers.
_REPEATED_BLOCKS = (
    *("BasicTransformerBlock", "JointTransformerBlock"),
    *("ViTLayer", "Dinov2Layer", "Dinov2WithRegistersLayer", "DINOv3ViTLayer"),
    *("CLIPEncoderLayer", "LlamaDecoderLayer", "Qwen2_5_VLVisionBlock"),
    *("Block", "EvaBlock", "EvaBlockPostNorm"),
)


class ReadImage(NamedTuple):
    """An image as the CPU leaves it to the device; see ``AttentionBackbone.read``.

    ``pixels`` are (h, w, 3) uint8 RGB of the size that the network reads. ``noise`` is what
    ``prepare`` takes: (1, c, h', w') float32, or (seed, key). Both are in pinned memory where the
    network runs on CUDA. ``prompt`` is what the network is told of it; empty: nothing.
    """

    pixels: Tensor
    noise: Tensor | tuple[int, str]
    prompt: str = ""


class AttentionBackbone(nn.Module, ABC):
    """A frozen network whose self-attention a ``SelfAttentionReader`` sees while ``run`` runs.

    Attributes:
        name: the registered name or the folder, for messages.
        resolution: side in pixels of the square that images are resized to.
        aspect: "square", or "keep" for the image's own aspect ratio at equal area.
        quantization: how the network's weights are quantised ("nf4", ...); empty: not at all.
        commit: of the hub's repository that the weights are of; None: they are of a folder.
        conditions: what the network is told besides the image, by names of keys. A student is used
            with those that it was trained with.
        timesteps: where the network can be read, ascending. Empty: it knows no noise, so there is
            no trajectory to search, and ABDiv of one forward pass is all.
    """

    # Diffusers pipelines whose folders this family reads, where it reads any, and the model types
    # of folders without components.
    pipeline_names: ClassVar[tuple[str, ...]] = ()
    model_types: ClassVar[tuple[str, ...]] = ()

    name: str
    resolution: int
    aspect: str
    quantization: str = ""
    commit: str | None = None
    conditions: Mapping[str, Any] = MappingProxyType({})
    timesteps: Sequence[int] = ()

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode) -> AttentionBackbone:
        """The backbone that ``cfg.MODEL.TRACE.BACKBONE`` names, on ``cfg.MODEL.TRACE.DEVICE``."""

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Image sides in pixels must be multiples of this."""

    @abstractmethod
    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        """The self-attention sequences of a pass over images of ``size`` (h, w) in pixels."""

    @abstractmethod
    def run(self, prepared: Any, timesteps: Sequence[float]) -> Tensor:
        """One forward pass, which shows the self-attention.

        Args:
            prepared: what ``prepare`` gives, of B images.
            timesteps: n of them, at each of which every image is run; none where none exist.

        Returns:
            What the network says, raw: of B n passes, image by image.
        """

    def compile_network(self) -> None:
        """Compile the network for inference; see ``compile_network``."""
        compile_network(self.network)

    def scheduled_timesteps(self, steps: int, size: tuple[int, int]) -> tuple[float, ...]:
        """The timesteps that drawing an image of ``size`` (h, w) in ``steps`` steps visits.

        They ascend, and are fractions where a scheduler shifts them.
        """
        raise ValueError(
            f"{self.name} has no scheduler: set MODEL.TRACE.EMERGENCE.SPACING to uniform"
        )

    @property
    def network(self) -> Any:
        """The part that is read and that takes a student's adapters."""
        return self

    def prepare(self, pixels: Tensor, noise: Tensor | tuple[int, str] | None = None) -> Any:
        """What ``run`` takes for ``pixels`` (B, 3, h, w); here the pixels themselves.

        ``noise`` is what a network that takes some gets, or (seed, key) that fix it; None draws it.
        """
        return pixels

    def prompt_of(self, key: str) -> str:
        """What the network is told of the image ``key`` (a file stem); here nothing."""
        return ""

    def with_prompts(self, prepared: Any, prompts: Sequence[str]) -> Any:
        """``prepared`` with what the network is told of each image, as ``prompt_of`` gives it."""
        if any(prompts):
            raise ValueError(f"{self.name} is told of no prompts: leave them empty")
        return prepared

    def reconstruct(self, prepared: Any, output: Tensor) -> tuple[Tensor, Tensor]:
        """What was prepared without noise, and what the ``output`` at timestep 0 makes of it."""
        raise ValueError(f"{self.name} reconstructs no image, so no student is trained on it")

    def size_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The size (h, w) in pixels that an image of ``image_size`` (H, W) is resized to."""
        return target_size(image_size, self.resolution, self.size_multiple, self.aspect)

    def read(self, image: np.ndarray, noise: tuple[int, str], key: str | None = None) -> ReadImage:
        """The CPU's share of what is done before ``run``; any thread may do it ahead.

        Args:
            image: see ``to_pixels``.
            noise: (seed, key) that fix it.
            key: of the image, by which its prompt is found; None: that of the noise.
        """
        pixels = self.resize(image)
        drawn = self.draw_noise((pixels.shape[0], pixels.shape[1]), *noise)
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
            drawn = drawn.pin_memory() if isinstance(drawn, Tensor) else drawn
        return ReadImage(pixels, drawn, self.prompt_of(noise[1] if key is None else key))

    def draw_noise(self, size: tuple[int, int], seed: int, key: str) -> Tensor | tuple[int, str]:
        """What ``prepare`` takes as noise for an image of ``size`` (h, w) in pixels, on the CPU.

        Here (seed, key), by which ``prepare`` draws for one image; no two images share a pass then.
        """
        return seed, key

    def place(self, images: Sequence[ReadImage]) -> tuple[Tensor, Tensor | tuple[int, str]]:
        """What ``prepare`` takes for images of one size, on ``device``, without a wait for it.

        Returns:
            Pixels (B, 3, h, w) float32 in -1..1, and the noise.
        """
        pixels = self._scaled([image.pixels for image in images])
        drawn = [image.noise for image in images if isinstance(image.noise, Tensor)]
        if not drawn:
            return pixels, images[0].noise
        placed = [noise.to(self.device, non_blocking=True) for noise in drawn]
        return pixels, placed[0] if len(placed) == 1 else torch.cat(placed)

    def to_pixels(self, image: np.ndarray) -> Tensor:
        """Resize an image to the size the network reads, and scale it.

        Args:
            image: (H, W, 3) uint8 RGB, of any size from 1 x 1.

        Returns:
            (1, 3, h, w) float32 in -1..1 on ``device``; h, w are multiples of ``size_multiple``.
        """
        return self._scaled([self.resize(image)])

    def resize(self, image: np.ndarray) -> Tensor:
        """``image``, see ``to_pixels``, as (h, w, 3) uint8 on the CPU."""
        if image.shape[2:] != (3,) or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(
                f"an image must be (H, W, 3) uint8 RGB; got {image.shape} {image.dtype}"
            )
        return torch.tensor(resize_image(image, self.size_of((image.shape[0], image.shape[1]))))

    def _scaled(self, images: Sequence[Tensor]) -> Tensor:
        # Bytes travel, a quarter of what floats would be.
        placed = [x.to(self.device, non_blocking=True).permute(2, 0, 1) for x in images]
        pixels = placed[0][None] if len(placed) == 1 else torch.stack(placed)
        return pixels.float() / 127.5 - 1

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's activations, and of its weights unless they are quantised."""
        weights = self.network.parameters()
        return next(weight.dtype for weight in weights if weight.is_floating_point())


def square_layout(backbone: AttentionBackbone) -> AttentionLayout:
    """The layout for a square image, at the backbone's resolution."""
    return backbone.layout(backbone.size_of((1, 1)))


def compile_network(network: nn.Module, **options: Any) -> None:
    """Let ``torch.compile`` make code of ``network`` at its first pass, or of its repeated blocks.

    Blocks of one kind share the code, so that it is made in a fraction of the time. Attention is
    read of it as before: see ``SelfAttentionReader``.

    Args:
        network: eager, with adapters merged where it has any: they would be compiled as they are.
        options: of ``torch.compile``.

    Raises:
        ValueError: attention of compiled code cannot be read with this PyTorch.
    """
    if not CAN_WATCH_COMPILED:
        raise ValueError(
            f"MODEL.TRACE.BACKBONE.COMPILE needs a newer PyTorch than {torch.__version__}, with "
            "operators that have effects (torch.library.EffectType): install it, or set it to False"
        )
    kinds = getattr(network, "_repeated_blocks", None) or _REPEATED_BLOCKS
    blocks = [module for module in network.modules() if type(module).__name__ in kinds]
    for module in blocks or [network]:
        module.compile(**options)


def target_size(
    size: tuple[int, int], resolution: int, multiple: int, aspect: str
) -> tuple[int, int]:
    """The size (height, width) in pixels that an image is resized to.

    Args:
        size: (height, width) of the image.
        resolution: side of the square, or the square root of the area.
        multiple: both sides are rounded to multiples of this, one multiple at least.
        aspect: "square", or "keep" for the image's own aspect ratio, held within 1:4 to 4:1.
    """
    height = width = float(resolution)
    if aspect == "keep":
        ratio = min(max(size[0] / size[1], 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO)
        height, width = resolution * math.sqrt(ratio), resolution / math.sqrt(ratio)
    return _round_to(height, multiple), _round_to(width, multiple)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to ``size`` (height, width) by Lanczos, as diffusers does.

    Pillow widens the filter when it shrinks, each axis on its own, so nothing aliases.
    """
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.array(resized)


def _round_to(value: float, multiple: int) -> int:
    return max(1, math.floor(value / multiple + 0.5)) * multiple
