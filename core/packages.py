"""Versions of the packages on which results depend, for the records of grids and stage runs."""

import platform
from functools import cache
from importlib.metadata import version

_RECORDED = (
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "safetensors",
    "open_clip_torch",
    "timm",
    "mlflow",
    "numpy",
)


@cache
def package_versions() -> dict[str, str]:
    """Return name -> version of the recorded packages and of Python.

    They are not part of an address: upgrades would otherwise repeat all trainings.
    """
    return {"python": platform.python_version()} | {name: version(name) for name in _RECORDED}
