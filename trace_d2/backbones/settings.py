"""Which backbone, and how it is run."""

from __future__ import annotations

from dataclasses import dataclass

from trace_d2.settings import NodeSettings, one_of, within


@dataclass(frozen=True)
class BackboneSettings(NodeSettings, node="MODEL.TRACE.BACKBONE"):
    """Which network, and how it is run."""

    name: str = "sd35-large"
    weights: str = ""
    revision: str = ""
    dtype: str = one_of("auto", "float32", "float16", "bfloat16", default="auto")
    variant: str = ""
    denoiser: str = ""
    quantize: str = one_of("", "nf4", "int8", default="")
    offload: str = one_of("none", "model", "group", default="none")
    cpu_offload: bool = False
    compile: bool = False
    null_prompt: str = one_of("encoded", "zeros", "pipeline", default="encoded")
    prompts: str = ""
    guidance: float = within(0.0, default=1.0)
    resolution: int = within(0, default=0)
    aspect: str = one_of("square", "keep", default="square")

    @property
    def offloading(self) -> str:
        """OFFLOAD; "model" was CPU_OFFLOAD before there was the key."""
        return "model" if self.cpu_offload and self.offload == "none" else self.offload

    def check_without_diffusion(self) -> None:
        """Raise a ValueError that names the keys which a network without diffusion cannot have."""
        keys = {"DENOISER": self.denoiser, "QUANTIZE": self.quantize, "PROMPTS": self.prompts}
        wrong = [f"MODEL.TRACE.BACKBONE.{key} {value}" for key, value in keys.items() if value]
        if self.offloading != "none":
            wrong.append(f"MODEL.TRACE.BACKBONE.OFFLOAD {self.offloading}")
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}: these keys are of diffusion models, and {self.name} is none:"
                " leave them at their defaults (DTYPE bfloat16 halves the memory of float32)"
            )


@dataclass(frozen=True)
class PassSettings(NodeSettings, node="MODEL.TRACE.EDGES"):
    """How many images are looked at in one pass."""

    batch: int = within(0, default=0)
