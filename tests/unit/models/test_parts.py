"""Connector, fusion, loss and weights files."""

import errno
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from core.chat.tokens import IGNORE_INDEX
from core.errors import CheckpointError, DataError
from core.samples import MicroBatch, find_placeholders
from models.connector import ConnectorConfig, build_connector
from models.fusion import fuse
from models.loss import summed_cross_entropy
from models.weights import list_parts, load_weights, save_weights

IMAGE = 9


# --- connector ---


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_a_connector_depends_on_its_seed_only(kind: str) -> None:
    config = ConnectorConfig(kind=kind)
    build = [build_connector(config, vision_width=6, model_width=8, seed=s) for s in (3, 3, 4)]
    torch.manual_seed(99)
    features_NPE = torch.randn(2, 5, 6)
    first, same, other = (connector(features_NPE) for connector in build)
    assert first.shape == (2, 5, 8)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_building_a_connector_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    connector = build_connector(ConnectorConfig(), vision_width=6, model_width=8, seed=0)
    torch.set_rng_state(state)
    assert torch.equal(torch.rand(1), expected)
    assert connector.proj.weight.abs().max() <= 6**-0.5
    assert connector.proj.weight.std() > 0.1


# --- fusion ---


def test_fuse_fills_placeholders_in_row_major_order() -> None:
    input_ids_BT = torch.tensor([[1, IMAGE, IMAGE, 2], [IMAGE, IMAGE, 3, 4]])
    token_embeds_BTD = torch.zeros(2, 4, 3)
    image_embeds_NPD = torch.arange(1.0, 13.0).view(2, 2, 3)
    positions_M = find_placeholders(input_ids_BT, IMAGE)
    fused = fuse(token_embeds_BTD, image_embeds_NPD, positions_M)
    assert torch.equal(fused[0, 1:3], image_embeds_NPD[0])
    assert torch.equal(fused[1, 0:2], image_embeds_NPD[1])
    assert fused[0, 0].abs().sum() == fused[1, 2:].abs().sum() == 0
    assert token_embeds_BTD.abs().sum() == 0


def test_fusion_and_loss_equal_boolean_indexing_bitwise() -> None:
    """Positions that are counted on the CPU replaced masks; no value or gradient may change."""
    torch.manual_seed(3)
    input_ids_BT = torch.randint(0, 9, (3, 8))
    input_ids_BT[0, 2:4] = input_ids_BT[2, 5:7] = IMAGE
    labels_BT = torch.randint(0, 11, (3, 8)).masked_fill(torch.rand(3, 8) < 0.4, IGNORE_INDEX)
    images_NPD, layer = torch.randn(2, 2, 4), nn.Linear(4, 11)
    found = []
    for is_counted in (True, False):
        embed, visual = nn.Embedding(10, 4), images_NPD.clone().requires_grad_()
        nn.init.constant_(embed.weight, 0.1)
        layer.zero_grad()
        if is_counted:
            fused = fuse(embed(input_ids_BT), visual, find_placeholders(input_ids_BT, IMAGE))
            loss = summed_cross_entropy(fused, labels_BT, positions_of(labels_BT), layer).loss_sum
        else:
            is_image_BT1 = (input_ids_BT == IMAGE).unsqueeze(-1)
            fused = embed(input_ids_BT).masked_scatter(is_image_BT1, visual)
            has_loss_BT = labels_BT[:, 1:] != IGNORE_INDEX
            logits_KV = layer(fused[:, :-1][has_loss_BT])
            loss = nn.functional.cross_entropy(
                logits_KV, labels_BT[:, 1:][has_loss_BT], reduction="sum"
            )
        loss.backward()
        found.append([fused, loss, visual.grad, embed.weight.grad, layer.weight.grad])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_fuse_reports_both_counts_of_a_mismatch(num_images: int) -> None:
    positions_M = find_placeholders(torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE]]), IMAGE)
    with pytest.raises(DataError, match=rf"4 placeholders.*{2 * num_images} visual tokens"):
        fuse(torch.zeros(1, 5, 3), torch.zeros(num_images, 2, 3), positions_M)


def test_fuse_rejects_different_widths() -> None:
    with pytest.raises(ValueError, match="width 3, visual embeddings 4"):
        fuse(torch.zeros(1, 2, 3), torch.zeros(1, 1, 4), torch.tensor([1]))


# --- loss ---


def positions_of(labels_BT: torch.Tensor) -> torch.Tensor:
    rows = torch.zeros_like(labels_BT)
    return MicroBatch.of_rows(
        input_ids_BT=rows,
        labels_BT=labels_BT,
        position_ids_BT=rows,
        document_ids_BT=rows,
        branch_ids_BT=rows,
        image_token_id=IMAGE,
    ).loss_positions_K


def test_loss_equals_cross_entropy_over_all_positions() -> None:
    torch.manual_seed(0)
    hidden_BTD, layer = torch.randn(3, 7, 4), nn.Linear(4, 11)
    labels_BT = torch.randint(0, 11, (3, 7))
    labels_BT[torch.rand(3, 7) < 0.5] = IGNORE_INDEX
    ours = summed_cross_entropy(hidden_BTD, labels_BT, positions_of(labels_BT), layer)
    full = layer(hidden_BTD)[:, :-1].flatten(0, 1)
    expected = nn.functional.cross_entropy(full, labels_BT[:, 1:].flatten(), reduction="sum")
    assert torch.allclose(ours.loss_sum, expected, rtol=1e-6)
    assert ours.num_loss_tokens == (labels_BT[:, 1:] != IGNORE_INDEX).sum()


def test_logits_are_computed_at_labels_only() -> None:
    rows = []

    def layer(hidden_KD: torch.Tensor) -> torch.Tensor:
        rows.append(hidden_KD.shape[0])
        return hidden_KD

    labels_BT = torch.full((2, 50), IGNORE_INDEX)
    labels_BT[0, 3], labels_BT[1, 40] = 1, 2
    summed_cross_entropy(torch.randn(2, 50, 4), labels_BT, positions_of(labels_BT), layer)
    assert rows == [2]


def test_no_labels_give_zero_loss_and_zero_gradients() -> None:
    layer, hidden_BTD = nn.Linear(4, 11), torch.randn(2, 3, 4, requires_grad=True)
    no_labels_BT, nowhere_K = torch.full((2, 3), IGNORE_INDEX), torch.zeros(0, dtype=torch.long)
    loss = summed_cross_entropy(hidden_BTD, no_labels_BT, nowhere_K, layer)
    loss.loss_sum.backward()
    assert (loss.loss_sum, loss.num_loss_tokens) == (0.0, 0)
    assert hidden_BTD.grad is not None
    assert layer.weight.grad is not None
    assert hidden_BTD.grad.abs().sum() + layer.weight.grad.abs().sum() == 0


# --- weights ---


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def test_weights_round_trip_bitwise_and_keep_ties(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    one, two = Tied(), Tied()
    connectors = [nn.Linear(2, 3), nn.Linear(2, 3)]
    save_weights(path, {"lm": one, "connector": connectors[0]})
    load_weights(path, {"lm": two, "connector": connectors[1]})
    assert torch.equal(two.embed.weight, one.embed.weight)
    assert two.head.weight is two.embed.weight
    assert torch.equal(connectors[0].weight, connectors[1].weight)
    assert list_parts(path) == ("connector", "lm")


def test_one_part_loads_from_a_file_of_two(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    save_weights(path, {"lm": Tied(), "connector": source}, dtype=torch.float16)
    load_weights(path, {"connector": target})
    assert torch.equal(target.weight, source.weight.half().float())


def test_mismatched_weights_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"connector": nn.Linear(2, 3)})
    target = nn.Linear(2, 4)
    before = target.weight.clone()
    with pytest.raises(CheckpointError, match=r"connector\.bias' is \(3,\), expected \(4,"):
        load_weights(path, {"connector": target})
    assert torch.equal(target.weight, before)
    with pytest.raises(CheckpointError, match=r"1 missing \['lm.weight'\].*parts \['connector'\]"):
        load_weights(path, {"lm": nn.Linear(2, 3, bias=False)})
    with pytest.raises(CheckpointError, match=r"1 unexpected \['connector.bias'\]"):
        load_weights(path, {"connector": nn.Linear(2, 3, bias=False)})


def test_damaged_and_foreign_files_are_rejected(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_weights(path, {"connector": nn.Linear(2, 3)})
    save_weights(path, {"connector": nn.Linear(2, 3)})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(path, {"connector": nn.Linear(2, 3)})
    safetensors.torch.save_file({"connector.weight": torch.zeros(3, 2)}, path)
    with pytest.raises(CheckpointError, match="format 'None'"):
        load_weights(path, {"connector": nn.Linear(2, 3)})


def test_saving_needs_no_second_copy_in_memory(tmp_path: Path) -> None:
    size = 96 << 20
    module = nn.Linear(4096, size // 4096 // 4, bias=False)
    nn.init.ones_(module.weight)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _memory("VmRSS")
    save_weights(tmp_path / "w.safetensors", {"connector": module})
    assert _memory("VmHWM") - before < 0.2 * size
    assert (tmp_path / "w.safetensors").stat().st_size >= size


def _memory(name: str) -> int:
    """Return a value of the process status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_stored_in_the_type_they_were_trained_in(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path, source, target = tmp_path / "w", nn.Linear(2, 3).to(dtype), nn.Linear(2, 3)
    save_weights(path, {"connector": source})
    load_weights(path, {"connector": target})
    assert target.weight.dtype is torch.float32
    assert torch.equal(target.weight, source.weight.float())
    assert path.stat().st_size < (9 * dtype.itemsize) + 400


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_old_file(tmp_path: Path) -> None:
    path, limits = tmp_path / "w", resource.getrlimit(resource.RLIMIT_FSIZE)
    save_weights(path, {"connector": nn.Linear(2, 3)})
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_weights(path, {"connector": nn.Linear(100, 300)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert [file.name for file in tmp_path.iterdir()] == ["w"]
    assert path.read_bytes() == before


def test_saving_makes_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    # The peak of the resident memory of this process, which also sees buffers of the library.
    module = nn.Linear(4096, 4096, bias=False)
    size = module.weight.numel() * module.weight.element_size()
    save_weights(tmp_path / "warm.safetensors", {"connector": nn.Linear(2, 3)})
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _peak_bytes()
    save_weights(tmp_path / "w.safetensors", {"connector": module})
    assert (tmp_path / "w.safetensors").stat().st_size > size
    assert _peak_bytes() - before < size / 4


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10
