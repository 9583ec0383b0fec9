"""MixtureDataModule: checks before the first step, budgets, and resuming with Lightning."""

import dataclasses
import json
import resource
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer

from callbacks.bad_sample_budget import BadSampleBudget
from core.chat.format import PromptStyle
from core.config import dump_config, load_config
from core.errors import CheckpointError, ConfigError, DataError
from core.process.machine import SharedMemory
from core.samples import BadSample, StepBatch
from datamodules import mixture_datamodule
from datamodules.mixture.config import ComponentConfig, MixtureConfig, Phase, ShareOf
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from tests.support.doubles import (
    caption_record,
    fake_transform,
    make_captions,
    make_chat,
    make_parallel,
    make_texts,
    write_shard,
    write_source,
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datamodule")
    base, target = make_parallel(folder, "cap", shard_sizes=(5, 3, 7))
    return {"en": str(base), "eu": str(target), "text": str(make_texts(folder, "text"))}


def make_config(paths, share=0.4, seed=1, **changes):
    cap = ComponentConfig(
        base=paths["en"], target=paths["eu"], target_share=share, samples_per_step=6.5
    )
    text = ComponentConfig(base=paths["text"], samples_per_step=3.5)
    mixture = MixtureConfig(components={"cap": cap, "text": text}, seed=seed)
    config = StreamConfig(mixture=mixture, micro_batch_tokens=128, row_tokens=64)
    return dataclasses.replace(config, **changes)


def make_module(paths, tmp_path, *, config=None, **kwargs):
    defaults = {"chat": make_chat(), "num_steps": 8, "transform": fake_transform}
    config = config or make_config(paths)
    return MixtureDataModule(config, cache_dir=tmp_path, **{**defaults, **kwargs})


def test_loader_without_trainer_gives_all_steps(paths, tmp_path):
    module = make_module(paths, tmp_path)
    module.prepare_data()
    module.setup("fit")
    assert [step.step for step in module.train_dataloader()] == list(range(8))


def test_a_loader_with_workers_checks_the_memory_of_its_node(paths, tmp_path, monkeypatch):
    tiny = SharedMemory(total=4096, free=4096)
    monkeypatch.setattr(mixture_datamodule, "read_shared_memory", lambda: tiny)
    config = make_config(paths, num_workers=2)
    with pytest.raises(ConfigError, match=r"2 workers .* --shm-size=2g"):
        make_module(paths, tmp_path, config=config).train_dataloader()
    make_module(paths, tmp_path).train_dataloader()


def test_a_loader_with_workers_raises_the_limit_of_open_files(paths, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        make_module(paths, tmp_path, config=make_config(paths, num_workers=1)).train_dataloader()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_configuration_round_trip(paths, tmp_path):
    config = make_config(paths, prompt_style=PromptStyle.PLAIN)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(StreamConfig, path) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_tokens": 256}, r"row_tokens=256, expected 1\.\.micro_batch_tokens=128"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"feature_noise_std": -0.5}, "feature_noise_std=-0.5"),
        ({"max_bad_fraction": 1.0}, "max_bad_fraction=1.0"),
    ],
)
def test_invalid_values_are_rejected(paths, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_config(paths, **changes)


def test_setup_checks_epochs_and_lengths(paths, tmp_path):
    config = make_config(paths)
    text = dataclasses.replace(config.mixture.components["text"], max_epochs=1)
    components = {**config.mixture.components, "text": text}
    tight = dataclasses.replace(config, mixture=MixtureConfig(components=components))
    with pytest.raises(ConfigError, match=r"'text' .* would be repeated 4.67 times in 8 steps"):
        make_module(paths, tmp_path, config=tight).setup()
    short = dataclasses.replace(config, row_tokens=20)
    with pytest.raises(DataError, match=r"'text': 6 of 6 .* longer than row_tokens=20, .* raise"):
        make_module(paths, tmp_path, config=short).setup()


def test_sources_with_too_long_samples_are_reported_together(paths, tmp_path):
    short = dataclasses.replace(make_config(paths), row_tokens=5)
    with pytest.raises(DataError) as error:
        make_module(paths, tmp_path, config=short).setup()
    for name in ("text", "cap_en", "cap_eu"):
        assert f"source '{name}': " in str(error.value)


def test_setup_checks_images(paths, tmp_path):
    with pytest.raises(ConfigError, match=r"pass a feature cache or a transform"):
        make_module(paths, tmp_path, transform=None).setup()
    noisy = make_config(paths, feature_noise_std=0.1)
    with pytest.raises(ConfigError, match=r"feature_noise_std=0.1 needs a feature cache"):
        make_module(paths, tmp_path, config=noisy).setup()


def test_setup_rejects_a_source_with_too_many_bad_samples(tmp_path):
    path = make_captions(tmp_path, "a", text=lambda i: "" if i < 2 else "bai")
    components = {"a": ComponentConfig(base=str(path), samples_per_step=2)}
    config = StreamConfig(mixture=MixtureConfig(components=components))
    with pytest.raises(
        DataError, match=r"source 'a': 2 of 8 samples are bad.*the first error is: a/a-0"
    ):
        make_module({}, tmp_path, config=config).setup()
    tolerant = dataclasses.replace(config, max_bad_fraction=0.25)
    make_module({}, tmp_path, config=tolerant).setup()


def test_two_sources_with_the_same_name_are_rejected(tmp_path):
    one = make_captions(tmp_path / "x", "a")
    two = make_captions(tmp_path / "y", "a", shard_sizes=(2,))
    components = {
        name: ComponentConfig(base=str(path), samples_per_step=1)
        for name, path in (("x", one), ("y", two))
    }
    config = StreamConfig(mixture=MixtureConfig(components=components))
    with pytest.raises(ConfigError, match=r"both name their source 'a'"):
        make_module({}, tmp_path, config=config).setup()


def step_with_bad(step, num_bad):
    bad = tuple(
        BadSample(
            position=10 * step + i,
            source="cap_en",
            key=f"k{i}",
            fault="broken",
            reason=f"cap_en/k{i}: broken",
        )
        for i in range(num_bad)
    )
    return StepBatch(step=step, micro_batches=(), bad_samples=bad)


def test_bad_samples_are_counted_against_a_budget(paths, tmp_path):
    module = make_module(paths, tmp_path)
    for step in module.train_dataloader():
        module.accounts.record(step)
    assert module.accounts.bad_counts == {}
    module.accounts.record(step_with_bad(0, 10))
    assert module.accounts.bad_counts == {"cap_en": 10}
    with pytest.raises(DataError, match=r"'cap_en': 11 of .* were bad.*cap_en/k0: broken"):
        module.accounts.record(step_with_bad(1, 1))
    strict = make_module(paths, tmp_path, config=make_config(paths, max_bad_fraction=0.0))
    with pytest.raises(DataError, match=r"max_bad_fraction=0 allows"):
        strict.accounts.record(step_with_bad(0, 1))


def test_counts_are_restored_and_not_recomputed(paths, tmp_path, monkeypatch):
    module = make_module(paths, tmp_path)
    module.trainer = SimpleNamespace(global_step=5, global_rank=0, world_size=1)
    state = json.loads(json.dumps(module.state_dict()))
    resumed = make_module(paths, tmp_path)
    resumed.load_state_dict(state)
    monkeypatch.setattr("datamodules.batches.accounting.PlannedCounts._count", None)
    assert resumed.accounts.realised_shares(5) == module.accounts.realised_shares(5)
    monkeypatch.undo()
    assert resumed.accounts.realised_shares(8) == make_module(
        paths, tmp_path
    ).accounts.realised_shares(8)


def test_realised_shares_match_the_batches(paths, tmp_path):
    module = make_module(paths, tmp_path)
    samples, targets = {}, {}
    for step in module.train_dataloader():
        for ref in (ref for mb in step.micro_batches for ref in mb.samples):
            samples[ref.source] = samples.get(ref.source, 0) + 1
            targets[ref.source] = targets.get(ref.source, 0) + ref.num_loss_tokens
        realised = module.accounts.realised_shares(step.step + 1)
        assert {name: share.num_samples for name, share in realised.items()} == samples
        assert {name: share.num_loss_tokens for name, share in realised.items()} == targets
    assert sum(s.num_samples for s in module.accounts.realised_shares(2).values()) == 20


def test_a_checkpoint_of_another_stream_is_rejected(paths, tmp_path):
    state = json.loads(json.dumps(make_module(paths, tmp_path).state_dict()))
    make_module(paths, tmp_path).load_state_dict(state)
    other = make_module(paths, tmp_path, config=make_config(paths, share=0.2, seed=5))
    with pytest.raises(CheckpointError, match=r"cap\.target_share: 0\.4 -> 0\.2; seed: 1 -> 5"):
        other.load_state_dict(state)
    config = make_config(paths, prompt_style=PromptStyle.PLAIN)
    plain = make_module(paths, tmp_path, config=config)
    with pytest.raises(CheckpointError, match=r"prompt_style: 'chat' -> 'plain'"):
        plain.load_state_dict(state)
    budget = make_config(paths, micro_batch_tokens=256, num_workers=1)
    make_module(paths, tmp_path, config=budget).load_state_dict(state)


def test_allow_data_change_accepts_another_stream(paths, tmp_path, caplog):
    state = json.loads(json.dumps(make_module(paths, tmp_path).state_dict()))
    config = make_config(paths, share=0.2, seed=5)
    other = make_module(paths, tmp_path, config=config, allow_data_change=True)
    other.load_state_dict(state)
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert record.levelname == "WARNING"
    assert "cap.target_share: 0.4 -> 0.2; seed: 1 -> 5" in record.getMessage()
    caplog.clear()
    make_module(paths, tmp_path, allow_data_change=True).load_state_dict(state)
    assert not caplog.records


def make_long(folder):
    """Write parallel captions that are three times as long in the target language."""
    raw = [
        (
            f"k{i}",
            {"caption": {"en": caption_record("a" * 10), "eu": caption_record("b" * 32)}},
            b"image",
        )
        for i in range(40)
    ]
    entries = [write_shard(folder / "long-000000.tar", raw)]
    return [
        str(write_source(folder, f"long_{tag}", entries, language=tag, record=f"caption.{tag}"))
        for tag in ("en", "eu")
    ]


def test_shares_of_loss_tokens_depend_on_the_lengths(tmp_path):
    base, target = make_long(tmp_path)
    component = ComponentConfig(
        base=base,
        target=target,
        target_share=0.5,
        samples_per_step=10,
        share_of=ShareOf.LOSS_TOKENS,
    )
    config = StreamConfig(mixture=MixtureConfig(components={"long": component}))
    module = make_module({}, tmp_path, config=config)
    module.prepare_data()
    targets = {"long_en": 0, "long_eu": 0}
    for step in module.train_dataloader():
        module.accounts.record(step)
        for ref in (ref for mb in step.micro_batches for ref in mb.samples):
            targets[ref.source] += ref.num_loss_tokens
    # Each answer has one more token, its end. 10 x 33 of 10 x 33 + 30 x 11 tokens are half.
    assert module.stream.components[0].num_target_samples == (10,)
    assert targets == {"long_en": 2 * 30 * 11, "long_eu": 2 * 10 * 33}
    described = module.state_dict()["order"]["components"]["long"]
    assert (described["share_of"], described["num_target_samples"]) == ("loss_tokens", [10])


def test_a_curriculum_runs_to_its_end(paths, tmp_path):
    config = make_config(paths)
    cap, text = config.mixture.components["cap"], config.mixture.components["text"]
    phases = [Phase(from_step=3, samples_per_step=10, target_share=1.0)]
    rest = [Phase(from_step=3, samples_per_step=0)]
    components = {
        "cap": dataclasses.replace(cap, phases=phases),
        "text": dataclasses.replace(text, phases=rest),
    }
    config = dataclasses.replace(config, mixture=MixtureConfig(components=components))
    module = make_module(paths, tmp_path, config=config)
    for step in module.train_dataloader():
        module.accounts.record(step)
        sources = {ref.source for mb in step.micro_batches for ref in mb.samples}
        assert sources == {"cap_eu"} if step.step >= 3 else {"cap_en", "cap_eu", "text"} >= sources
    with pytest.raises(ConfigError, match=r"phase from step 3 never begins in 3 steps"):
        make_module(paths, tmp_path, config=config, num_steps=3).setup()


def test_a_loader_that_loses_samples_is_detected(paths, tmp_path):
    module = make_module(paths, tmp_path)
    *others, last = module.train_dataloader()
    for step in others:
        module.accounts.record(step)
    with pytest.raises(RuntimeError, match=r"in steps 0\.\.7, the stream has"):
        module.accounts.record(dataclasses.replace(last, micro_batches=last.micro_batches[1:]))
    resumed = make_module(paths, tmp_path)
    resumed.accounts.record(others[-1])
    resumed.accounts.record(last)


# --- Lightning ---


class Recorder(LightningModule):
    """Module with manual optimization over micro-batches that records the samples it receives."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.layer.weight)
        self.seen, self.batch_indices = [], []

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for micro_batch in batch.micro_batches:
            values = micro_batch.position_ids_BT.float().mean().reshape(1, 1)
            self.manual_backward(self.layer(values).sum())
        optimizer.step()
        refs = [ref for mb in batch.micro_batches for ref in mb.samples]
        self.seen.append((batch.step, sorted((r.position, r.key) for r in refs)))
        self.batch_indices.append(batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, datamodule, max_steps, **kwargs):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        max_epochs=-1,
        logger=False,
        callbacks=[BadSampleBudget()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=datamodule, weights_only=True, **kwargs)
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [(0, 0), (0, 2), (1, 0)])
def test_resume_continues_with_the_next_batches(paths, tmp_path, workers):
    whole = Recorder()
    fit(whole, make_module(paths, tmp_path), max_steps=8)
    assert [step for step, _ in whole.seen] == list(range(8))

    configs = [make_config(paths, num_workers=n) for n in workers]
    first, second = Recorder(), Recorder()
    trainer = fit(first, make_module(paths, tmp_path, config=configs[0]), max_steps=3)
    checkpoint = tmp_path / "step3.ckpt"
    trainer.save_checkpoint(checkpoint)
    resumed = make_module(paths, tmp_path, config=configs[1])
    end = fit(second, resumed, max_steps=8, ckpt_path=checkpoint)

    assert end.global_step == 8
    assert first.seen + second.seen == whole.seen
    assert first.batch_indices + second.batch_indices == whole.batch_indices
    assert torch.equal(second.layer.weight, whole.layer.weight)


@pytest.mark.filterwarnings("ignore")
def test_resume_with_another_mixture_is_rejected(paths, tmp_path):
    trainer = fit(Recorder(), make_module(paths, tmp_path), max_steps=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = make_module(paths, tmp_path, config=make_config(paths, share=0.2))
    with pytest.raises(CheckpointError, match=r"target_share: 0\.4 -> 0\.2"):
        fit(Recorder(), other, max_steps=2, ckpt_path=tmp_path / "one.ckpt")


@pytest.mark.filterwarnings("ignore")
def test_resume_with_another_mixture_on_request(paths, tmp_path, caplog):
    trainer = fit(Recorder(), make_module(paths, tmp_path), max_steps=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    config = make_config(paths, share=0.2)
    other = make_module(paths, tmp_path, config=config, allow_data_change=True)
    recorder = Recorder()
    fit(recorder, other, max_steps=8, ckpt_path=tmp_path / "one.ckpt")
    assert [step for step, _ in recorder.seen] == list(range(1, 8))
    assert any("target_share: 0.4 -> 0.2" in text for text in caplog.messages)


def test_the_budget_continues_after_a_resume(paths, tmp_path):
    """Nine bad samples before the kill and two after it exceed a budget of ten."""
    ledger = tmp_path / "ledger"
    first = make_module(paths, tmp_path, ledger_dir=ledger)
    first.train_dataloader()
    first.accounts.record(step_with_bad(0, 9))
    first.accounts.record(step_with_bad(1, 1))
    resumed = make_module(paths, tmp_path, ledger_dir=ledger)
    resumed.trainer = SimpleNamespace(global_step=1, global_rank=0, world_size=1)
    resumed.train_dataloader()
    assert resumed.accounts.bad_counts == {"cap_en": 9}
    resumed.accounts.record(step_with_bad(1, 1))
    assert resumed.accounts.fault_counts(2) == {"cap_en": {"broken": 10}}
    with pytest.raises(DataError, match=r"'cap_en': 11 of \d+ samples were bad"):
        resumed.accounts.record(step_with_bad(2, 1))
