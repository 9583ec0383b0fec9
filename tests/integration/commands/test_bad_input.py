"""User errors and damaged files: one clear message, and no saved work is lost."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configuration.trainer import TrainerConfig
from core.errors import CheckpointError, ConfigError, DataError
from core.io.jsonl import read_jsonl
from core.process.stop import EXIT_PREEMPTED
from datamodules.shards.manifest import Modality
from datamodules.shards.reader import ShardReader
from experiments import run
from experiments.cli import request_of
from experiments.run_steps.grid_run import GridRun
from experiments.run_steps.planning import make_plan
from models.weights import load_weights, save_weights
from pipeline.graph import Graph
from pipeline.grid_plan import GridPlan
from pipeline.launchers import worker
from pipeline.launchers.execution import Execution, write_execution
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Store
from pipeline.training_data_checks import check_training_data
from tests.support import small_world as worlds
from tests.support.doubles import write_shard, write_source

ROOT = "results"
FEW_STEPS = ("align.num_steps=12", "instruct.num_steps=12")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.build_world(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def world(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a copy of the world that a test may damage, as the working directory."""
    folder = shutil.copytree(pristine, tmp_path / "world")
    monkeypatch.chdir(folder)
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    yield folder
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and the output of the main command, without line breaks."""
    code = run.main(list(arguments))
    return code, " ".join("".join(capsys.readouterr()).split())


def plan_of(*overrides: str) -> Graph:
    arguments = worlds.grid_arguments(ROOT, "--set", *FEW_STEPS, *overrides)
    return make_plan(request_of(run.build_parser().parse_args(arguments))).graph


def run_stage(graph: Graph, kind: str) -> tuple[int, StageFolder]:
    """Run one stage of a graph in this process."""
    (node,) = (node for node in graph.nodes.values() if node.kind == kind)
    folder = Store(Path(ROOT)).folder(kind, node.address)
    folder.write_stage(node.describe(), node.stage)
    trainer = TrainerConfig(checkpoint_every_n_steps=5, log_every_n_steps=1)
    write_execution(folder, Execution(root=ROOT, num_threads=1, trainer=trainer))
    return worker.run(folder.path), folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--exp", "mix_ablatoin"], ["experiment 'mix_ablatoin'", "'mix_ablation'"]),
        (["--profile", "tinny"], ["profile 'tinny'", "'tiny'"]),
        (["--only", "share41"], ["cell 'share41'", "--only"]),
        (["--only", ""], ["unknown cell ''", "--only"]),
        (["--gpu", "h1000"], ["unknown GPU 'h1000'", "'h100'"]),
        (["--set", "instruct.num_steps=99999999999999999999"], ["num_steps", "too large"]),
        (["--set", "align.optim.lr=.inf"], ["align.optim.lr is '.inf'; expected a number"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--set", "instruct.num_step=5"], ["instruct.num_step", "num_steps"]),
        (["--set", "align.optim.lrr=1"], ["align.optim.lrr", "'align.optim.lr'"]),
        (["--set", "instruct.num_steps=many"], ["instruct.num_steps", "many"]),
        (["--set", "instruct.num_steps"], ["override 'instruct.num_steps'", "'='"]),
        (["--jobs", "-1"], ["--jobs", "-1"]),
        (["--set", "cell.target_share=0.3"], ["sets cell.target_share itself", "--only"]),
        (["--set", "align.optim.grad_clip=-1"], ["grad_clip", "-1"]),
        (["--set", "evaluate.batch_size=0"], ["evaluate.batch_size", "0"]),
        (["--set", "evaluate.prompt_style=instruct"], ["style 'instruct'", "'instructed'"]),
        (["--set", "evaluate.max_new_tokens_by_kind.wlid=9"], ["'wlid'", "'wild'"]),
        (
            ["--set", "evaluate.max_new_tokens=5"],
            ["benchmark_test, vqa in 'eu'", "'hilargi'", "Set evaluate.max_new_tokens=8"],
        ),
        (["--set", "data.benchmarks=[]"], ["data.benchmarks is empty"]),
        (["--set", "data.benchmarks=[nothing]"], ["nothing.manifest.json"]),
        (["--set", "trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps", "0"]),
        (["--set", "align=[1"], ["is not YAML", "align=[1"]),
        (["--set", "cell.backbone=generl"], ["backbone 'generl'", "'general'"]),
        (["--set", "cell.target_share=1.5"], ["cell.target_share", "between 0 and 1", "1.5"]),
        (["--set", "align.target_share=-0.1"], ["target_share", "between 0 and 1", "-0.1"]),
        (["--set", "backbones.general.template=embeded"], ["template 'embeded'", "'embedded'"]),
        (["--set", "languages.target=xx"], ["'xx'", "Known: en, eu", "set data.folder"]),
        (["--set", "languages.target=en"], ["languages.target", "'en'"]),
        (["--set", "data.folder=nowhere"], ["nowhere/benchmark_test.manifest.json"]),
        (["--set", "align.visual.captions.source=captoin"], ["captoin_en.manifest.json"]),
    ],
)
def test_invalid_arguments_are_reported_with_a_fix(
    world: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]
) -> None:
    defaults = ["--exp", "smoke", "--profile", worlds.PROFILE, "--root", ROOT, "--dry-run"]
    code, output = command(capsys, *defaults, *arguments)
    assert code == 2
    assert output.startswith("error:")
    for part in expected:
        assert part in output
    assert not Path(ROOT).exists()


def _remove_shard(data: Path) -> None:
    (data / "train-000001.tar").unlink()


def _flip_bit(data: Path) -> None:
    content = bytearray((data / "train-000001.tar").read_bytes())
    content[700] ^= 1
    (data / "train-000001.tar").write_bytes(content)


def _cut(data: Path) -> None:
    content = (data / "train-000001.tar").read_bytes()
    (data / "train-000001.tar").write_bytes(content[:-600])


def _remove_index(data: Path) -> None:
    (data / "train-000001.index.npy").unlink()


def _other_index(data: Path) -> None:
    shutil.copy(data / "text-000000.index.npy", data / "train-000001.index.npy")


def _edit_manifest(data: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = data / "instruct_eu.manifest.json"
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))


def _miscount(data: Path) -> None:
    _edit_manifest(data, lambda raw: raw["shards"][1].update(num_samples=8))


def _wrong_hash(data: Path) -> None:
    _edit_manifest(data, lambda raw: raw["shards"][1].update(sha256="0" * 64))


def _escape(data: Path) -> None:
    _edit_manifest(data, lambda raw: raw["shards"][1].update(path="../../elsewhere.tar"))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_remove_shard, ["train-000001.tar", "missing"]),
        (_flip_bit, ["train-000001.tar", "sha256", "damaged"]),
        (_cut, ["train-000001.tar", "bytes"]),
        (_remove_index, ["train-000001.tar", "no index"]),
        (_other_index, ["train-000001.tar", "index"]),
        (_miscount, ["train-000001.tar", "instruct_eu.manifest.json", "8"]),
        (_wrong_hash, ["train-000001.tar", "sha256"]),
        (_escape, ["../../elsewhere.tar"]),
    ],
)
def test_damaged_data_is_reported_before_anything_starts(
    world: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    expected: list[str],
) -> None:
    damage(world / "data")
    code, output = command(capsys, *worlds.grid_arguments(ROOT))
    assert code == 2
    for part in expected:
        assert part in output
    assert not Path(ROOT).exists()


@pytest.mark.slow
def test_row_lengths_of_all_stages_and_sources_are_reported_together(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new language took four runs, each of which named the next length only."""
    short = ("align.row_tokens=9", "instruct.row_tokens=16", "instruct.micro_batch_tokens=16")
    code, output = command(capsys, *worlds.grid_arguments(ROOT, "--set", *short))
    assert code == 2
    for name in ("align: source 'caption_en'", "align: source 'caption_eu'",
                 "instruct: source 'instruct_en'", "instruct: source 'instruct_eu'",
                 "instruct: source 'chat_eu'", "instruct: source 'text_eu'"):  # fmt: skip
        assert name in output
    enough = output.partition("Enough for all: --set ")[2].split()
    assert {setting.partition("=")[0] for setting in enough} == {
        "align.row_tokens", "instruct.row_tokens", "instruct.micro_batch_tokens",
    }  # fmt: skip
    assert not (Path(ROOT) / "grids").exists(), "nothing was started"
    check_training_data(plan_of(*enough), Store(Path(ROOT)))
    code, output = command(capsys, *worlds.grid_arguments(ROOT, "--dry-run", "--set", *short))
    assert (code, "Enough for all" in output) == (2, True)


def fitting_plan(world: Path, *options: str) -> GridPlan:
    """Plan with a profile whose rows and replies are too short, and that fits them to the data."""
    changes = {
        "row_tokens: 48": "row_tokens: 9",
        "row_tokens: 96": "row_tokens: 16",
        "micro_batch_tokens: 192": "micro_batch_tokens: 17",
        "max_new_tokens: 8": "max_new_tokens: 1",
        "benchmarks: [benchmark_test]": "benchmarks: [benchmark_test], fit_lengths: true",
    }
    text = (world / "configs" / f"{worlds.PROFILE}.yaml").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (world / "configs" / "short.yaml").write_text(
        text + "retention: {tasks: ['text:text_{base}', 'text:text_{target}']}"
    )
    arguments = ["--exp", "mix_ablation", "--profile", "short", "--root", ROOT, *options]
    return make_plan(request_of(run.build_parser().parse_args(arguments)))


@pytest.mark.slow
def test_rows_and_replies_become_as_long_as_the_data_need(world: Path) -> None:
    plan = fitting_plan(world)
    check_training_data(plan.graph, Store(Path(ROOT)))
    config = plan.cells[0].config
    lengths = {"align.row_tokens": (config.align.row_tokens, 9),
               "instruct.row_tokens": (config.instruct.row_tokens, 16),
               "instruct.micro_batch_tokens": (config.instruct.micro_batch_tokens, 17),
               "evaluate.max_new_tokens": (config.evaluate.max_new_tokens, 1)}  # fmt: skip
    fitted, tasks = plan.adapted
    for name, (now, before) in lengths.items():
        assert now > before
        assert f"{name}={now} ({before})" in fitted
    assert config.align.micro_batch_tokens == 96, "it was enough"
    assert config.retention.tasks == ["text:text_eu"]
    assert tasks == "Text-only tasks without data are left out: text:text_en"
    # The cells of a part of the grid are the same, and lengths of the user stay as they are.
    assert fitting_plan(world, "--only", worlds.CELL).full_graph.nodes.keys() == (
        plan.full_graph.nodes.keys()
    )
    given = fitting_plan(world, "--set", "align.row_tokens=10")
    assert given.cells[0].config.align.row_tokens == 10
    with pytest.raises(DataError, match=r"align: source 'caption_en'.*row_tokens=10"):
        check_training_data(given.graph, Store(Path(ROOT)))
    with pytest.raises(ConfigError, match="no accepted answer that fits into the limit"):
        fitting_plan(world, "--set", "data.fit_lengths=false")
    with pytest.raises(ConfigError, match="no accepted answer that fits into the limit"):
        fitting_plan(world, "--set", "evaluate.max_new_tokens=1")


@pytest.mark.slow
def test_a_stream_that_can_not_be_opened_is_reported_before_anything_starts(world: Path) -> None:
    """The second training found out once the first was done."""
    store = Store(Path(ROOT))
    with pytest.raises(ConfigError, match=r"instruct.*'conversations'.*max_epochs=0\.1"):
        check_training_data(plan_of("instruct.visual.conversations.max_epochs=0.1"), store)
    plan = plan_of("model.cache_features=false", "instruct.feature_noise_std=0.5")
    with pytest.raises(ConfigError, match=r"feature_noise_std=0\.5 needs a feature cache"):
        check_training_data(plan, store)
    _edit_manifest(world / "data", lambda raw: raw["shards"].reverse())
    with pytest.raises(DataError, match=r"instruct.*not parallel.*sample 0 is 'image-00000' and"):
        check_training_data(plan_of(), store)


@pytest.mark.slow
def test_a_failed_run_says_so_first_and_never_that_it_is_done(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: GridRun) -> dict[str, State]:
        return dict.fromkeys(self.graph.nodes, State.FAILED)

    tracker = SimpleNamespace(finish=lambda *_, **__: None, is_behind=False)
    monkeypatch.setattr(GridRun, "_launch", fail)
    monkeypatch.setattr(GridRun, "_tracker", tracker)
    code, output = command(capsys, *worlds.grid_arguments(ROOT))
    assert code == 1
    assert "Done" not in output
    assert output.index("Failed:") < output.index("Report of the finished stages:")
    assert "4 of 4 stage runs failed" in output


def _rewrite(data: Path, change: Callable[[int, dict[str, Any], bytes], Any]) -> None:
    """Rewrite the training shards with matching manifests."""
    samples = []
    for i in range(24):
        key, content, image = worlds.image_sample(i)
        samples.append((key, *change(i, content, image)))
    entries = [
        write_shard(data / f"train-{number:06d}.tar", part)
        for number, part in enumerate((samples[:15], samples[15:]))
    ]
    for record in ("caption", "instruct"):
        for tag in ("en", "eu"):
            name = f"{record}_{tag}"
            write_source(data, name, entries, language=tag, record=f"{record}.{tag}")


def _break_image(i: int, content: dict[str, Any], image: bytes) -> Any:
    return content, image[: len(image) // 2] if i == 3 else image


def _empty_answer(i: int, content: dict[str, Any], image: bytes) -> Any:
    if i == 3:
        for tag in ("en", "eu"):
            content["caption"][tag]["messages"][1]["content"] = "  "
    return content, image


def _bad_counts(folder: StageFolder) -> dict[str, float]:
    last = read_jsonl(folder.path / "metrics.jsonl")[-1]["metrics"]
    return {name: value for name, value in last.items() if name.startswith("bad_samples/")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "fault"),
    [(_break_image, "image cannot be decoded"), (_empty_answer, "empty caption")],
)
def test_broken_samples_are_counted_below_the_budget(
    world: Path, change: Callable[..., Any], fault: str
) -> None:
    _rewrite(world / "data", change)
    graph = plan_of("align.max_bad_fraction=0.2")
    assert run_stage(graph, "features")[0] == 0
    code, folder = run_stage(graph, "align")
    assert code == 0, folder.read_status().error
    counts = _bad_counts(folder)
    by_source = {name: number for name, number in counts.items() if name.count("/") == 1}
    assert sum(by_source.values()) == 84 // 24, "12 steps of 7 samples: every sample 3 or 4 times"
    assert set(by_source) <= {"bad_samples/caption_en", "bad_samples/caption_eu"}
    by_fault = {name: number for name, number in counts.items() if name not in by_source}
    assert set(by_fault) == {f"{name}/{fault}" for name in by_source}
    summary = json.loads((folder.result / "bad_samples.json").read_text())
    found = {f"bad_samples/{source}": faults[fault]["count"] for source, faults in summary.items()}
    assert found == by_source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"), [(_break_image, "decoded"), (_empty_answer, "empty caption")]
)
def test_broken_samples_are_fatal_above_the_budget(
    world: Path, change: Callable[..., Any], reason: str
) -> None:
    _rewrite(world / "data", change)
    graph = plan_of("align.max_bad_fraction=0.0")
    code, features = run_stage(graph, "features")
    assert code == 0
    code, folder = run_stage(graph, "align")
    status = folder.read_status()
    assert (code, status.state) == (1, State.FAILED)
    for part in ("source 'caption_e", "image-00003", reason, "max_bad_fraction=0"):
        assert part in status.error
    assert features.is_done(), "what was finished stays finished"


def test_a_broken_benchmark_image_is_reported_before_training(world: Path) -> None:
    data, manifest = world / "data", world / "data" / "benchmark_test.manifest.json"
    reader = ShardReader(data / "benchmark-000000.tar")
    samples = []
    for row in range(len(reader)):
        record, image = reader.read(row)
        whole = image or b""
        samples.append((reader.key(row), json.loads(record), whole[:40] if row == 1 else whole))
    name = samples[1][0]
    entry = write_shard(data / "benchmark-000000.tar", samples)
    write_source(data, "benchmark_test", [entry], language="en,eu", modality=Modality.BENCHMARK)
    assert manifest.is_file()
    code, folder = run_stage(plan_of(), "features")
    assert code == 1
    error = folder.read_status().error
    assert "benchmark_test.manifest.json" in error
    assert f"sample '{name}'" in error


@pytest.mark.slow
def test_a_checkpoint_of_another_stage_is_rejected_and_kept(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = plan_of()
    assert run_stage(graph, "features")[0] == 0
    with monkeypatch.context() as patch:  # stop requested from the start: saves after one step
        patch.setattr(worker, "_stop_with_parent", lambda flag: setattr(flag, "is_set", True))
        code, align = run_stage(graph, "align")
    assert code == EXIT_PREEMPTED
    other = plan_of("align.visual.captions.samples_per_step=6")
    (node,) = (node for node in other.nodes.values() if node.kind == "align")
    stranger = Store(Path(ROOT)).folder("align", node.address)
    shutil.copytree(align.checkpoints, stranger.checkpoints)
    code, folder = run_stage(other, "align")
    assert code == 1
    assert "samples_per_step" in folder.read_status().error
    assert list(folder.checkpoints.glob("step=*")), "nothing saved is lost"


@pytest.mark.slow
def test_a_damaged_result_is_reported(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = plan_of()
    code, features = run_stage(graph, "features")
    assert code == 0
    (array,) = features.result.glob("*/features.npy")
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    more = ("--set", *FEW_STEPS)
    code, output = command(capsys, *worlds.grid_arguments(ROOT, "--dry-run", *more))
    assert code == 2
    assert "features.npy: checksum differs" in output
    assert "delete" in output


def test_mismatched_weights_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"connector": torch.nn.Linear(3, 4)})
    with pytest.raises(CheckpointError, match=r"model.safetensors: 'connector\..* is \(4"):
        load_weights(path, {"connector": torch.nn.Linear(3, 5)})
    with pytest.raises(CheckpointError, match=r"does not fit: .* missing .*language_model"):
        load_weights(path, {"language_model": torch.nn.Linear(3, 4)})
