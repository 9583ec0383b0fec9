"""One rank of the elastic benchmark: the real dataset and loader, with a record of their samples.

A rank does the work of a training process without a model: it consumes a step, waits for the other
ranks, and commits a checkpoint every few steps.
"""

import json
import os
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader

from benchmarks.elastic.world import (
    CHECKPOINT_EVERY_N_STEPS,
    NUM_STEPS,
    SAMPLES_PER_STEP,
    TARGET_SHARE,
    Job,
)
from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import EMBEDDED
from core.io.files import atomic_write_text
from core.samples import StepBatch
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from models.towers.image_transform import ImageTransform

_TOKENIZER = Path(__file__).parents[2] / "data" / "embedded" / "models" / "lm_general"
_NUM_IMAGE_TOKENS = 4
_TIMEOUT_S = 60.0
_COMPUTE_S = 0.002
"""Sleep in place of forward and backward, long enough for a kill to hit a step in flight."""


def run_rank(job: Job, rank: int, barrier: Barrier) -> None:
    """Resume at the checkpoint and run until the last step or the kill."""
    # A separate group, so that one signal ends the rank together with its loader workers.
    os.setsid()
    log = os.open(job.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    torch.set_num_threads(1)
    module = _data_module(job)
    loader = _loader(job, module, rank)
    with job.record(rank).open("ab", buffering=0) as record:
        for batch in loader:
            if batch.step >= job.hold_at:
                time.sleep(_TIMEOUT_S)
                raise TimeoutError(f"rank {rank} was not killed before step {batch.step}")
            time.sleep(_COMPUTE_S)
            module.accounts.record(batch, world_size=job.topology.world_size)
            record.write(_format_record(batch))
            os.fsync(record.fileno())
            # No rank commits a step that another rank has not consumed.
            barrier.wait(_TIMEOUT_S)
            done = module.trainer.global_step = batch.step + 1
            if rank == 0 and (done % CHECKPOINT_EVERY_N_STEPS == 0 or done == NUM_STEPS):
                state = {"step": done, "data": module.state_dict()}
                atomic_write_text(job.checkpoint, json.dumps(state))


def _data_module(job: Job) -> MixtureDataModule:
    components = {
        name: ComponentConfig(
            base=str(job.world / f"{name}_{'en' if name == 'images' else 'eu'}.manifest.json"),
            target=str(job.world / "images_eu.manifest.json") if name == "images" else "",
            target_share=TARGET_SHARE if name == "images" else 0.0,
            samples_per_step=samples_per_step,
        )
        for name, samples_per_step in SAMPLES_PER_STEP.items()
    }
    config = StreamConfig(
        mixture=MixtureConfig(components=components, seed=job.seed),
        micro_batch_tokens=192,
        row_tokens=96,
        block_shards=2,
        num_workers=job.topology.num_workers,
    )
    tokenizer = load_tokenizer(_TOKENIZER)
    grey = (0.5, 0.5, 0.5)
    return MixtureDataModule(
        config,
        chat=ChatFormat(tokenizer, EMBEDDED, num_image_tokens=_NUM_IMAGE_TOKENS),
        num_steps=NUM_STEPS,
        cache_dir=job.world / "cache",
        transform=ImageTransform(size=8, mean=grey, std=grey),
    )


def _loader(job: Job, module: MixtureDataModule, rank: int) -> DataLoader[StepBatch]:
    start = 0
    if job.checkpoint.is_file():
        state = json.loads(job.checkpoint.read_text())
        module.load_state_dict(state["data"])
        start = state["step"]
    # Only the trainer attributes that the data module reads.
    world_size = job.topology.world_size
    module.trainer = SimpleNamespace(
        global_step=start, global_rank=rank, world_size=world_size, num_devices=world_size
    )
    return module.train_dataloader()


def _format_record(batch: StepBatch) -> bytes:
    """Return a step as one line: a kill leaves complete lines and at most one truncated line."""
    micro_batches = [
        [
            [ref.position, ref.source, ref.key, ref.num_tokens, ref.num_loss_tokens]
            for ref in mb.samples
        ]
        for mb in batch.micro_batches
    ]
    bad = [[sample.position, sample.source, sample.key] for sample in batch.bad_samples]
    content = {"step": batch.step, "micro_batches": micro_batches, "bad": bad}
    return json.dumps(content).encode() + b"\n"
