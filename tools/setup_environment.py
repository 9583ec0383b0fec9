"""Make torchvision importable if torch is a CPU build, as the last step of the set-up.

The wheels of torchvision are built for CUDA. With a CPU build of torch their import fails, and with
it the imports of lightning, timm and open_clip. The fix is a file in the environment, which is only
installed where it is needed.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SHIM = Path(__file__).parent / "torchvision_cpu"


def main() -> None:
    """Install the shim if torch is a CPU build and torchvision is not."""
    import torch

    torchvision = importlib.metadata.version("torchvision")
    if torch.version.cuda is None and not torchvision.endswith("+cpu"):
        site = Path(sysconfig.get_paths()["purelib"])
        for file in SHIM.iterdir():
            if file.suffix in (".py", ".pth"):
                shutil.copyfile(file, site / file.name)
    # A new interpreter, because this one started without the shim: a broken environment fails
    # here instead of during a run.
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)


if __name__ == "__main__":
    main()
