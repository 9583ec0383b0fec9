"""GPUs known to the planner: memory, speed of dense 16-bit matrix products, bandwidth.

The numbers are from the data sheets (peaks without sparsity); memory is what a process sees.
"""

import dataclasses

from core.errors import ConfigError, unknown_name

ACHIEVED = 0.33, 0.42
"""Lowest and highest share of the peak that a step of a large model is assumed to reach, not a
measurement (`benchmarks/gpu_step` measures it). torchtitan publishes 33 % (eager) and 39 %
(compiled) for Llama-3.1-8B on 8 H100 (benchmarks/llama3_h100_202412_torchtitan.md)."""
FLOAT8_GAIN = 1.10, 1.28
"""Lowest and highest factor by which a step in float8 is assumed to be faster, published for 8B
Llamas on 8 H100: by torchao for one scale per row, and by torchtitan for one scale per tensor, with
weights gathered in float8 (which `models.language.float8` does not do)."""
_LARGE = 2048
"""Narrower models underuse a GPU; their share is assumed to shrink with the width."""
_SCALING = 0.95
"""Assumed scaling efficiency when several GPUs share a stage."""
GIB = float(2**30)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TimeSpan:
    """Assumed time of a computation: with the highest and with the lowest share of the peak."""

    shortest_s: float = 0.0
    longest_s: float = 0.0

    def plus(self, other: "TimeSpan", *, factor: float = 1.0) -> "TimeSpan":
        """Return the sum with another span, of which a factor is counted."""
        return TimeSpan(
            shortest_s=self.shortest_s + factor * other.shortest_s,
            longest_s=self.longest_s + factor * other.longest_s,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One kind of GPU."""

    memory_gib: float
    peak_flops: float
    bandwidth: float
    """Bytes per second."""
    has_float8: bool = True
    """Whether it has float8 products (compute capability 8.9 or more)."""

    def time(
        self,
        flops: float,
        read_bytes: float,
        *,
        hidden_size: int,
        count: int,
        uses_float8: bool = False,
    ) -> TimeSpan:
        """Return the assumed time of `count` GPUs that share a stage.

        Raises:
            ConfigError: If the stage uses float8, which the GPU does not have.
        """
        if uses_float8 and not self.has_float8:
            raise ConfigError(
                "trainer.precision=float8-mixed needs a GPU with float8 products: "
                f"--gpu {', '.join(name for name, gpu in GPUS.items() if gpu.has_float8)}"
            )
        share = min(1.0, hidden_size / _LARGE) * (_SCALING if count > 1 else 1.0)
        peak_s = flops / (count * self.peak_flops * share)
        read_s = read_bytes / self.bandwidth
        least, most = FLOAT8_GAIN if uses_float8 else (1.0, 1.0)
        lowest, highest = ACHIEVED[0] * least, ACHIEVED[1] * most
        return TimeSpan(shortest_s=peak_s / highest + read_s, longest_s=peak_s / lowest + read_s)


def _gpu(
    memory_gib: float, tflops: float, terabytes_per_s: float, *, has_float8: bool = True
) -> Gpu:
    return Gpu(
        memory_gib=memory_gib,
        peak_flops=tflops * 1e12,
        bandwidth=terabytes_per_s * 1e12,
        has_float8=has_float8,
    )


GPUS = {
    "h100": _gpu(79.2, 989, 3.35),
    "h200": _gpu(139.8, 989, 4.8),
    "b200": _gpu(178.4, 2250, 8.0),
    "a100-80": _gpu(79.2, 312, 2.04, has_float8=False),
    "a100-40": _gpu(39.4, 312, 1.56, has_float8=False),
    "l40s": _gpu(44.5, 362, 0.86),
    "rtx4090": _gpu(23.5, 165, 1.01),
    "rtx3090": _gpu(23.5, 71, 0.94, has_float8=False),
}


def get_gpu(name: str) -> Gpu:
    """Return the kind of GPU with a name.

    Raises:
        ConfigError: If the name is unknown; the message suggests the nearest one.
    """
    if name not in GPUS:
        raise ConfigError(unknown_name("GPU", name, GPUS, fix="Name one with --gpu."))
    return GPUS[name]
