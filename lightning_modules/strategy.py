"""Where a stage runs: one device or several, from plain words."""

from lightning.pytorch.strategies import DDPStrategy, Strategy

from core.errors import ConfigError


def build_strategy(accelerator: str, devices: int) -> Strategy | str:
    """A Lightning strategy: the plain one for one device, DDP for several.

    Every micro-batch touches every trained parameter (`VisionLanguageModel.forward` sees to it),
    so DDP needs no search for unused ones.
    """
    if devices < 1:
        raise ConfigError(f"trainer.devices must be at least 1, got {devices}")
    if devices == 1:
        return "auto"
    backend = "gloo" if accelerator == "cpu" else "nccl"
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=False)
