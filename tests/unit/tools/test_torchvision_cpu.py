"""torchvision next to a CPU build of torch: importable, and images can be decoded."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.small_world import REPOSITORY

CLIENT = """
import base64, json, runpy, sys

# The installed copy may be older.
sys.meta_path = [one for one in sys.meta_path if type(one).__module__ != "_tv_cpu_shim"]
runpy.run_path(sys.argv[1])
import torch
from torchvision.io import ImageReadMode, decode_image, read_image
from transformers.image_utils import load_image_as_tensor

found = {}
for name in sys.argv[2:]:
    raw = open(name, "rb").read()
    uri = "data:image/png;base64," + base64.b64encode(raw).decode()
    found[name] = {
        "file": load_image_as_tensor(name).tolist(),
        "uri": load_image_as_tensor(uri).tolist(),
        "unchanged": decode_image(torch.frombuffer(bytearray(raw), dtype=torch.uint8)).tolist(),
        "gray": read_image(name, ImageReadMode.GRAY).tolist(),
    }
print(json.dumps(found))
"""


def test_images_are_decoded_as_pillow_does(tmp_path: Path) -> None:
    """transformers decodes files and data URIs with torchvision as soon as it is importable."""
    rng = np.random.default_rng(0)
    images = {
        mode: Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).convert(mode)
        for mode in ("RGB", "RGBA", "L")
    }
    for mode, image in images.items():
        image.save(tmp_path / f"{mode}.png")
    names = [str(tmp_path / f"{mode}.png") for mode in images]
    shim = REPOSITORY / "tools/torchvision_cpu/_tv_cpu_shim.py"
    command = [sys.executable, "-c", CLIENT, str(shim), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for name, image in zip(names, images.values(), strict=True):
        rgb = np.asarray(image.convert("RGB")).transpose(2, 0, 1).tolist()
        assert found[name]["file"] == found[name]["uri"] == rgb
        pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1).tolist()
        assert found[name]["unchanged"] == pixels
        assert found[name]["gray"] == [np.asarray(image.convert("L")).tolist()]
