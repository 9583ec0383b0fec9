"""Amounts and exposures of target-language data in a fake grid."""

from collections.abc import Mapping
from pathlib import Path

from datamodules.batches.target_data import DataAmount, Exposures, TargetData, save_target_data

NAMES = {"txakurra": 0, "etxea": 2, "zuhaitza": 4, "sagarra": 8}
"""Answers of the fake benchmark and their exposures."""


def write_data(
    root: Path,
    kind: str,
    with_image: Mapping[str, int],
    without_image: Mapping[str, int],
) -> None:
    """Write amounts and exposures into every result of a kind of stage."""
    amount = DataAmount(num_samples=1440, num_different=304, num_loss_tokens=61_240)
    data = TargetData(
        language="eu", target_images=amount, base_images=amount, target_texts=DataAmount()
    )
    counts = Exposures(language="eu", with_image=with_image, without_image=without_image)
    for result in root.glob(f"store/{kind}/*/result"):
        save_target_data(result, data, counts)
