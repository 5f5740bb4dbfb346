"""What all families of diffusion models share: denoiser, VAE, scheduler and the null prompt.

They come from one diffusers folder. Latents are float32 of shape (B, c, h, w); only the denoiser
and the VAE run in ``dtype``.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from typing_extensions import Self

from trace_d2.attention.settings import AttentionSettings
from trace_d2.devices import pick_device

from . import loading, offloading, quantization
from .backbone import AttentionBackbone
from .group_norm import widen_group_norms
from .model_files import ModelSource
from .noise_levels import clean_estimate, signal_and_noise_levels
from .null_prompt import NullPrompt, TextEncoding, load_null_prompt
from .prompt_texts import asked_prompts
from .prompts import Prompts, load_prompts
from .registry import REGISTERED_MODELS, family_of, other_kind, source_of
from .settings import BackboneSettings


class Noising(NamedTuple):
    """What images become at any timestep: X_t = alpha_t X_0 + sigma_t eps.

    ``latent`` is X_0 and ``noise`` eps, both (B, c, h, w) float32. ``prompts`` are the texts of the
    B images, empty ones for the null prompt; none at all: that for all.
    """

    latent: Tensor
    noise: Tensor
    prompts: tuple[str, ...] = ()


class DiffusionBackbone(AttentionBackbone):
    """A frozen diffusion model that is asked for one forward pass at a time, on the null prompt.

    Timesteps are 0..999 of ``scheduler.config.num_train_timesteps``; 0 is the clean end. Families
    subclass this and say how their denoiser is called; nothing here knows a family.
    """

    timesteps = range(1000)
    denoiser_class: ClassVar[Any]
    denoiser_subfolder: ClassVar[str]
    text_encoding: ClassVar[TextEncoding]

    denoiser: Any
    vae: Any

    def __init__(
        self,
        settings: BackboneSettings,
        *,
        denoiser: Any,
        vae: Any,
        scheduler: Any,
        null_prompt: NullPrompt,
        prompts: Prompts | None = None,
        native_resolution: int | None = None,
        device: torch.device | str = "cpu",
        kernels: str = "auto",
    ) -> None:
        """
        Args:
            settings: name, resolution, aspect, guidance and offloading.
            denoiser, vae, scheduler: of the family's diffusers classes.
            null_prompt: the encoded empty string, of batch size 1.
            prompts: what images are told instead; None: all of them the null prompt.
            native_resolution: side in pixels that the model was trained at; None reads it from
                the model's configuration.
            device: where the models run.
            kernels: "auto" or "plain": what makes the VAE's group norms on a GPU.

        Raises:
            ValueError: the denoiser does not take the VAE's latents, or the null prompt does not
                fit the denoiser.
        """
        super().__init__()
        self.name, self.aspect = settings.name, settings.aspect
        self.guidance = settings.guidance
        self.conditions = {"null_prompt": settings.null_prompt, "guidance": settings.guidance}
        self._prompts, self._told = prompts, dict[str, Tensor]()
        if prompts is not None:
            self.conditions["prompts"] = prompts.texts.kind
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        widen_group_norms(self.vae.encoder, kernels)
        self.scheduler = scheduler
        given, taken = self.vae.config.latent_channels, self.denoiser_latent_channels
        if given != taken:
            raise ValueError(
                f"{self.name}: the denoiser takes {taken} latent channels and the VAE gives"
                f" {given}; inpainting, editing and depth variants cannot serve as a backbone"
            )
        null_prompt.check(self.prompt_shapes(denoiser.config), self.name)
        # Buffers follow .to(device); they are no weights, so no state dict holds them.
        for key, tensor in null_prompt.tensors.items():
            self.register_buffer(f"_null_{key}", tensor, persistent=False)
        self.native_resolution = native_resolution or self.configured_resolution()
        self.resolution = settings.resolution or self.native_resolution
        self._offload_device: torch.device | None = None
        self.quantization = quantization.name_of(denoiser)
        self._place(torch.device(device), settings.offloading)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Self:
        settings = BackboneSettings.from_config(cfg)
        device = pick_device(cfg)
        dtype = loading.pick_dtype(settings.dtype, device)
        source = source_of(settings)
        registered = REGISTERED_MODELS.get(settings.name)
        if family_of(source) is not cls:
            raise other_kind(source, settings.name, cls.pipeline_names)
        # Where weights come to when they are loaded, and where text encoders run.
        first = torch.device("cpu") if settings.offloading != "none" else device
        texts = asked_prompts(settings.prompts) if settings.prompts else None
        # The text encoders come and go before the denoiser is loaded, so that both never meet.
        null_prompt = load_null_prompt(
            source,
            cls.text_encoding,
            shapes=lambda: cls._configured_shapes(source),
            zeros=settings.null_prompt == "zeros"
            or (settings.null_prompt == "pipeline" and cls.guides_away_from_zeros(source)),
            dtype=dtype,
            device=first,
        )
        prompts = None
        if texts is not None:
            shapes = {key: tuple(tensor.shape) for key, tensor in null_prompt.tensors.items()}
            prompts = load_prompts(texts, source, cls.text_encoding, shapes, dtype, first)
        backbone = cls(
            settings,
            denoiser=loading.load_denoiser(
                source, cls.denoiser_class, cls.denoiser_subfolder, dtype, settings, first
            ),
            vae=loading.load_vae(source, dtype),
            scheduler=loading.load_scheduler(source),
            null_prompt=null_prompt,
            prompts=prompts,
            native_resolution=registered.native_resolution if registered else None,
            device=device,
            kernels="plain" if AttentionSettings.from_config(cfg).kernels == "plain" else "auto",
        )
        backbone.commit = source.revision
        return backbone

    @staticmethod
    def guides_away_from_zeros(source: ModelSource) -> bool:
        """Whether the pipeline of ``source`` takes zeros where no negative prompt is given.

        Others encode the empty string.
        """
        return False

    @classmethod
    def _configured_shapes(cls, source: ModelSource) -> dict[str, tuple[int, ...]]:
        config = loading.load_config(source, cls.denoiser_subfolder)
        try:
            return cls.prompt_shapes(config, source.pipeline_name)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the configuration of {source}'s {cls.denoiser_subfolder} does not say how large"
                f" its prompt is ({error}): copy or download the model again"
            ) from error

    @staticmethod
    @abstractmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        """Shapes of the null prompt's tensors by diffusers' names, for a denoiser's ``config``."""

    @abstractmethod
    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        """The denoiser's output (B, c, h, w) for inputs already on its device and in its dtype."""

    def configured_resolution(self) -> int:
        """Side in pixels of the square the model was trained on, from its configuration."""
        return self.denoiser.config.sample_size * self.vae_reduction

    @property
    def denoiser_latent_channels(self) -> int:
        """Latent channels that the denoiser takes."""
        return self.denoiser.config.in_channels

    def prepare(self, pixels: Tensor, noise: Tensor | tuple[int, str] | None = None) -> Noising:
        latent = self.encode(pixels)
        if noise is None:
            return Noising(latent, torch.randn_like(latent))
        return Noising(latent, noise if isinstance(noise, Tensor) else self.noise(latent, *noise))

    def draw_noise(self, size: tuple[int, int], seed: int, key: str) -> Tensor:
        shape = 1, self.denoiser_latent_channels, *self.latent_size(size)
        return _gaussian(shape, seed, key)

    def prompt_of(self, key: str) -> str:
        return "" if self._prompts is None else self._prompts.texts.of(key)

    def with_prompts(self, prepared: Noising, prompts: Sequence[str]) -> Noising:
        if self._prompts is None:
            return super().with_prompts(prepared, prompts)
        return prepared._replace(prompts=tuple(prompts))

    def run(self, prepared: Noising, timesteps: Sequence[float]) -> Tensor:
        latent, noise = (_repeated(tensor, len(timesteps)) for tensor in prepared[:2])
        steps, signal, spread = self._levels(tuple(timesteps) * len(prepared.latent))
        with self._telling(prepared.prompts, len(timesteps)):
            return self(signal * latent + spread * noise, steps)

    @contextlib.contextmanager
    def _telling(self, prompts: Sequence[str], times: int) -> Iterator[None]:
        """Within the block ``null_prompt_tensor`` gives ``prompts``, each so many times."""
        if any(prompts) and self._prompts is not None:
            told = [self._prompts.of(text).tensors if text else None for text in prompts]
            for key in self._prompts.shapes:
                one = self.null_prompt_tensor(key, 1)
                each = [one if own is None else own[key].to(one.device, one.dtype) for own in told]
                self._told[key] = _repeated(torch.cat(each), times)
        try:
            yield
        finally:
            self._told = {}

    def reconstruct(self, prepared: Noising, output: Tensor) -> tuple[Tensor, Tensor]:
        latent, noise = prepared[:2]
        _, signal, spread = self._levels((0,))
        # On the CPU, where a look at it costs nothing.
        zero = torch.zeros(len(latent), dtype=torch.int64)
        noised, levels = signal * latent + spread * noise, (signal, spread)
        return latent, clean_estimate(self.scheduler, noised, output, zero, levels)

    def scheduled_timesteps(self, steps: int, size: tuple[int, int]) -> tuple[float, ...]:
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        try:
            scheduler.set_timesteps(**self.schedule_options(steps, size))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.name}: its {type(scheduler).__name__} gives no timesteps ({error}): set"
                " MODEL.TRACE.EMERGENCE.SPACING to uniform"
            ) from error
        visited = sorted(set(scheduler.timesteps.tolist()))  # some are visited twice
        return tuple(int(t) if float(t).is_integer() else t for t in visited)

    def schedule_options(self, steps: int, size: tuple[int, int]) -> dict[str, Any]:
        """What the family's pipeline tells ``set_timesteps`` of its scheduler."""
        return {"num_inference_steps": steps}

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """The VAE's latent X_0 of pixels (B, 3, h, w): its posterior's mode, shifted and scaled.

        It is (B, c, h / f, w / f) float32 on ``device``, f the VAE's reduction.
        """
        config = self.vae.config
        pixels = pixels.to(self.device, self.vae.dtype)
        latent = self.vae.encode(pixels).latent_dist.mode().float()
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (
                self.numbers(values, torch.float32).view(1, -1, 1, 1)
                for values in (config.latents_mean, config.latents_std)
            )
            return (latent - mean) * (config.scaling_factor / std)
        return (latent - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def noise(self, latent: Tensor, seed: int, key: str) -> Tensor:
        """Gaussian noise of the shape of ``latent``, float32, fixed by (seed, key) and shape alone.

        It is drawn on the CPU in float32, so neither device, dtype nor earlier draws change it.
        """
        return _gaussian(latent.shape, seed, key).to(latent.device)

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """X_t = alpha_t X_0 + sigma_t eps with the scheduler's own alpha and sigma.

        X_0 and eps are (B, c, h, w), or (1, c, h, w) for all of the (B,) timesteps in 0..999.
        """
        levels = signal_and_noise_levels(self.scheduler, timesteps)
        signal, spread = (level.to(latent).view(-1, 1, 1, 1) for level in levels)
        return signal * latent + spread * noise.to(latent)

    def _levels(self, timesteps: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """``timesteps`` (B,), and alpha and sigma there (B, 1, 1, 1), see ``constant``."""
        steps = torch.tensor(timesteps)

        def levels() -> Tensor:
            both = signal_and_noise_levels(self.scheduler, steps)
            return torch.stack(both).view(2, -1, 1, 1, 1)

        key = self.scheduler, timesteps, steps.dtype
        signal, spread = self.constant(torch.float32, levels, "levels", *key)
        return self.constant(steps.dtype, lambda: steps, "timesteps", *key), signal, spread

    def forward(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        """One pass of the denoiser with the null prompt.

        Args:
            noised: X_t (B, c, h, w), any float dtype and device.
            timesteps: (B,), 0..999; they may differ within the batch.

        Returns:
            The denoiser's raw prediction (B, c, h, w) in ``dtype``: noise, velocity or v, as the
            model was trained.
        """
        timesteps = timesteps.to(self.device)
        if timesteps.shape != noised.shape[:1]:
            raise ValueError(
                f"timesteps {tuple(timesteps.shape)} must hold one entry for each of the"
                f" {noised.shape[0]} latents"
            )
        try:
            return self.predict(noised.to(self.device, self.dtype), timesteps)
        except BaseException:  # a reader that stops early, for one
            if self._offload_device is not None:
                offloading.end_pass(self.denoiser)
            raise

    def null_prompt_tensor(self, key: str, batch: int) -> Tensor:
        """A tensor of the null prompt for a batch, floats in the denoiser's dtype.

        Or of the prompts of the images that ``run`` runs, where they have any.
        """
        if key in self._told:
            return self._told[key]
        stored = getattr(self, f"_null_{key}")
        dtype = self.dtype if stored.is_floating_point() else stored.dtype
        tensor = self.constant(dtype, lambda: stored, key)
        return tensor.expand(batch, *tensor.shape[1:])

    def constant(self, dtype: torch.dtype, make: Callable[[], Tensor], *key: Any) -> Tensor:
        """What ``make`` gives, on ``device`` in ``dtype``: made once for each ``key``, and kept.

        A copy from main memory in every pass would make the host wait for the device.
        """
        whole = (*key, self.device, dtype)
        if whole not in self._constants:
            with torch.inference_mode(False):  # what is trained later may need it
                self._constants[whole] = make().to(self.device, dtype)
        return self._constants[whole]

    def numbers(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        """(1, n) on ``device``; see ``constant``."""
        return self.constant(dtype, lambda: torch.tensor([values]), "numbers", *values)

    @property
    def network(self) -> Any:
        return self.denoiser

    @property
    def device(self) -> torch.device:
        """Where the models run (under CPU offload they rest elsewhere)."""
        return self._offload_device or super().device

    @property
    def vae_reduction(self) -> int:
        """Pixels a latent cell, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the latent of images of ``size`` in pixels."""
        return size[0] // self.vae_reduction, size[1] // self.vae_reduction

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; the VAE stays in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        return self

    def _place(self, device: torch.device, offload: str) -> None:
        if offload == "none":
            self.to(device)
            return
        self._offload_device = device = offloading.concrete(device)
        if offload == "model":
            offloading.offload_models(self.vae, self.denoiser, device)
        else:
            self.vae.to(device)
            offloading.offload_groups(self.denoiser, device)


def _repeated(tensor: Tensor, times: int) -> Tensor:
    """Each of (B, ...) so many times, (B times, ...); of one, no copy is made."""
    return tensor.unsqueeze(1).expand(-1, times, *tensor.shape[1:]).flatten(0, 1)


def _gaussian(shape: Sequence[int], seed: int, key: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)
