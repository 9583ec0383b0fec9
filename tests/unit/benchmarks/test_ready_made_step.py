"""The benchmark of ready-made classes: both sides train the same tokens to the same losses."""

import argparse
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from benchmarks.llava_baseline import Result
from benchmarks.ready_made_step import __main__ as benchmark
from benchmarks.ready_made_step.checkpoints import CLASSES, write_model
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture_datamodule import StreamConfig
from tests.support import small_world as worlds


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_both_sides_train_the_same_losses(name: str, tmp_path: Path) -> None:
    data = worlds.build_world(tmp_path) / "data"
    images = ComponentConfig(
        base=str(data / "instruct_en.manifest.json"),
        target=str(data / "instruct_eu.manifest.json"),
        target_share=0.5,
        samples_per_step=6,
    )
    texts = ComponentConfig(base=str(data / "text_eu.manifest.json"), samples_per_step=2)
    stream = StreamConfig(
        mixture=MixtureConfig(components={"images": images, "texts": texts}), row_tokens=512
    )
    checkpoint = write_model(name, "tiny", tmp_path / "vlm")
    options = argparse.Namespace(steps=1, rounds=1, hf_batch=4)
    found = benchmark.measure(checkpoint, stream, tmp_path, options)
    ours, padded, by_length = found["ours"], found["hf"], found["hf sorted"]
    assert ours["largest_loss_difference"] == 0.0
    assert max(padded["largest_loss_difference"], by_length["largest_loss_difference"]) < 1e-3
    assert ours["loss"][0] != ours["loss"][1]
    assert padded["density"] < by_length["density"] <= 1.0


def test_larger_checkpoints_have_the_subwords_of_the_embedded_tokenizer(tmp_path: Path) -> None:
    folder = write_model("gemma3", "small", tmp_path)
    config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config.text_config.vocab_size == len(tokenizer)
    assert config.text_config.num_hidden_layers == len(config.text_config.layer_types) == 4
    assert len(tokenizer("txakur bat", add_special_tokens=False)["input_ids"]) < len("txakur bat")
    assert tokenizer.convert_tokens_to_ids("<image_soft_token>") == config.image_token_id


def test_the_ratio_is_a_median_within_rounds_and_curves_must_agree() -> None:
    def run(seconds: float, loss: float = 1.0) -> Result:
        return Result(seconds=seconds, losses=[2.0, loss], density=0.5)

    runs = {"ours": [run(1), run(2), run(4)], "hf": [run(2), run(2), run(8)]}
    found = benchmark.summarise(runs, num_tokens=100)
    assert found["ratio"] == 2.0
    assert found["passed"]
    assert found["ours"]["tokens_per_second"] == 50
    assert found["hf"]["ours_is_faster_by"] == [1.0, 2.0, 2.0]
    differs = {**runs, "hf": [run(2, loss=1.1), run(2), run(8)]}
    assert not benchmark.summarise(differs, num_tokens=100)["passed"]
