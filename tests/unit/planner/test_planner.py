"""Plans without GPU, weights, data or network: counted models, memory, operations, advice."""

import dataclasses
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from configuration.grid_request import GridRequest
from configuration.mixture import expected_manifests
from core.errors import ConfigError, DataError
from core.process.stop import StopFlag
from evaluation.benchmarks.prompting import load_prompts
from evaluation.option_likelihood import beginnings
from experiments.registry import experiment_names, get_experiment, is_grid
from experiments.run_steps.launching import resource_estimate
from experiments.run_steps.planning import make_plan
from lightning_modules.compute import StrategyName
from lightning_modules.optim import OptimizerName
from models.accounting.footprint import Footprint
from models.accounting.kept import BlockMemory
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig, TuningKind, add_adapters
from models.language.blocks import checkpoint_activations, decoder_blocks
from pipeline.graph import StageNode
from pipeline.grid_plan import GridPlan
from pipeline.launchers.slurm import SlurmLauncher
from pipeline.launchers.slurm_jobs import SlurmConfig
from pipeline.store.store import Store
from planner import costs
from planner.costs import training_cost
from planner.estimator import Estimator
from planner.gpus import GIB, GPUS, TimeSpan, get_gpu
from planner.training_memory import TrainingSetup, Weights
from planner.workload import Load
from reporting.dry_run.memory_fixes import memory_fixes
from reporting.dry_run.tables import format_span, show_plan

GRIDS = [
    name
    for name in experiment_names()
    if is_grid(get_experiment(name))
    and not {"PROFILE", "NEEDED_FIELD"} & vars(get_experiment(name)).keys()
]
"""Experiments that the default profile can plan without further settings."""
CONNECTOR = 1024 * 4096 + 4096
LLAMA_8B = 8_030_261_248
TOWER = 303_507_456


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))


def plan_of(exp: str, *overrides: str, profile: str = "paper") -> GridPlan:
    request = GridRequest(experiment=exp, profile=profile, overrides=overrides, is_dry_run=True)
    return make_plan(request)


def node_of(plan: GridPlan, kind: str) -> StageNode:
    return next(node for node in plan.graph.nodes.values() if node.kind == kind)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lengths of samples, which are measured once for all plans."""
    return tmp_path_factory.mktemp("cache")


def estimator_of(plan: GridPlan, folder: Path) -> Estimator:
    return Estimator(expected_manifests(plan.cells[0].config), folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "profile",  # of the default profile, test_graph makes all the plans
    sorted(path.stem for path in Path("configs").glob("*.yaml") if path.stem != "embedded"),
)
@pytest.mark.parametrize("exp", GRIDS)
def test_every_profile_plans_every_experiment(exp: str, profile: str, cache: Path) -> None:
    if exp == "culture_ablation":  # these profiles have no data written by speakers
        with pytest.raises(
            (ConfigError, DataError), match=r"culture_test.* does not exist|no token"
        ):
            show_plan(Console(quiet=True), plan_of(exp, profile=profile), root=cache, gpu="h100")
        return
    console = Console(width=170, record=True, quiet=True)
    # One architecture keeps the language model frozen, which has no adapters then.
    has_adapters = profile == "modern" and exp.startswith("architecture_")
    overrides = ("instruct.tuning.kind=full",) if has_adapters else ()
    plan = plan_of(exp, *overrides, profile=profile)
    show_plan(console, plan, root=cache, gpu="h100")
    estimator = estimator_of(plan, cache)
    for node in plan.graph.nodes.values():
        cost = node.estimate(estimator).cost
        assert cost is not None
        assert cost.flops > 0


@pytest.mark.slow
def test_the_paper_s_models_are_counted_exactly(tmp_path: Path) -> None:
    plan = plan_of("mix_ablation")
    assert len(plan.graph.nodes) == 2 + 3 * 12, "instruct, retention, evaluate of each cell"
    align = node_of(plan, "align").estimate(estimator_of(plan, tmp_path)).weights
    assert align == Weights(trained=CONNECTOR, frozen=LLAMA_8B + TOWER)
    instruct = node_of(plan, "instruct").estimate(estimator_of(plan, tmp_path)).weights
    assert instruct == Weights(trained=CONNECTOR + LLAMA_8B, frozen=TOWER)


def test_loads_follow_shares_and_expectations(tmp_path: Path) -> None:
    plan = plan_of("mix_ablation")
    load = node_of(plan, "align").estimate(estimator_of(plan, tmp_path)).load
    samples = 10938 * 256
    assert load.num_samples == samples
    assert load.num_tokens == pytest.approx(samples * (576 + 0.2 * 26 + 0.8 * 38))
    assert load.num_loss_tokens == pytest.approx(samples * (0.2 * 14 + 0.8 * 26))
    assert load.is_expected


def test_long_replies_are_planned_at_their_own_limit(tmp_path: Path) -> None:
    plan = plan_of("mix_ablation")
    estimator, node = estimator_of(plan, tmp_path), node_of(plan, "evaluate")
    estimate = node.estimate(estimator)
    rounds = 2 * 2  # two languages, with the image and without
    shuffled = 6 * 106  # of each kind with answers, in each language
    assert estimate.load.num_replies == {32: 12_500 * rounds + shuffled, 4096: 199 * rounds}
    assert sum(estimate.load.num_alone.values()) == pytest.approx(32)
    assert estimate.cost is not None
    # 64 prompts of 576 + 32 tokens at once, or 8 of 576 + 4096.
    tokens = (12_500 * 32 / 64 + 199 * 4096 / 8) * rounds + shuffled * 32 / 64
    tokens += 32 / 12_699 * (12_500 * 32 + 199 * 4096)  # one at a time
    assert estimate.cost.read_bytes == pytest.approx(tokens * 2 * LLAMA_8B, rel=1e-3)
    cache_of_token = 32 * 2 * 1024 * 2
    per_prompt = estimate.load.document_tokens + 32
    assert estimate.cost.memory["keys, values"] == pytest.approx(64 * per_prompt * cache_of_token)


def test_options_whose_likelihood_is_computed_are_planned(tmp_path: Path) -> None:
    settings = ("evaluate.likelihood=true", "evaluate.likelihood=false")
    plans = [plan_of("mix_ablation", setting) for setting in settings]
    with_options, without = (
        node_of(plan, "evaluate").estimate(estimator_of(plan, tmp_path)).load for plan in plans
    )
    # Letters, and the words for yes and no of two languages, with the image and without. The
    # options of a question share its image.
    words = [beginnings(load_prompts([code]).yes_no_words[code]) for code in ("en", "eu")]
    options = 2 * (2 * 4 * 2_500 + sum(map(len, words)) * 5_000)
    per_question = without.document_tokens
    rated = 2 * 2 * 7_500 + options * (per_question - 576) / per_question
    assert with_options.num_samples - without.num_samples == pytest.approx(rated)
    assert with_options.num_replies == without.num_replies


def test_questions_that_are_asked_in_other_words_are_planned(tmp_path: Path) -> None:
    settings = ("evaluate.wordings=[request_first,short_cue]", "evaluate.wordings=[]")
    plans = [plan_of("mix_ablation", setting) for setting in settings]
    with_wordings, without = (
        node_of(plan, "evaluate").estimate(estimator_of(plan, tmp_path)).load for plan in plans
    )
    more = {limit: number - without.num_replies[limit]
            for limit, number in with_wordings.num_replies.items()}  # fmt: skip
    assert more == {32: 12_500 * 2 * 2, 4096: 0}  # two languages, two wordings, no open replies


@pytest.mark.slow
def test_the_questions_of_an_existing_benchmark_are_counted(tmp_path: Path) -> None:
    plan = plan_of("mix_ablation", profile="embedded")
    load = node_of(plan, "evaluate").estimate(estimator_of(plan, tmp_path)).load
    # Of each benchmark, kind, answer type and language; the second benchmark has fewer questions.
    shuffled = 10 * 32 + 2 * (32 + 24 + 16 + 24 + 24)
    assert load.num_replies == {16: 4 * (1328 + 144) + shuffled}
    assert load.num_alone == {16: pytest.approx(32)}
    assert load.num_samples == pytest.approx(4 * (1328 + 144) + shuffled + 32)


@pytest.mark.slow
def test_the_largest_parts_of_the_memory(tmp_path: Path) -> None:
    """8B in bf16-mixed, sharded by four: 4 + 4 + 8 bytes for a fourth of the weights."""
    plan = plan_of("mix_ablation", "instruct.compute.compile_blocks=false")
    cost = node_of(plan, "instruct").estimate(estimator_of(plan, tmp_path), count=4).cost
    assert cost is not None
    part = (LLAMA_8B + CONNECTOR) / 4
    assert cost.memory["trained weights"] == 4 * part
    assert cost.memory["gradients"] == 4 * part
    assert cost.memory["optimizer"] == 8 * part
    assert cost.memory["frozen weights"] == 2 * TOWER
    # At the peak the gradient of the output layer (in 16 bits, in float32, and this GPU's part) is
    # reduced, while the weights of the last block are gathered.
    layer = 128256 * 4096
    assert cost.memory["loss"] == 2 * layer
    assert cost.memory["reduced gradients"] == (4 + 4 / 4) * layer
    assert cost.memory["gathered weights"] == 2 * 218_112_000


@pytest.mark.slow
def test_options_that_save_memory_take_effect(tmp_path: Path) -> None:
    plan = plan_of("mix_ablation", "instruct.compute.compile_blocks=false")
    estimator, node = estimator_of(plan, tmp_path), node_of(plan, "instruct")
    before = node.estimate(estimator, count=4).cost
    assert before is not None

    def changed(**values: object) -> costs.Cost:
        variant = dataclasses.replace(node, stage=dataclasses.replace(node.stage, **values))
        cost = variant.estimate(estimator, count=4).cost
        assert cost is not None
        return cost

    compute = node.stage.compute
    again = changed(compute=dataclasses.replace(compute, checkpoint_blocks=1))
    assert again.memory["activations"] < 0.1 * before.memory["activations"]
    assert 1.2 < again.flops / before.flops < 1.3
    chunked = changed(compute=dataclasses.replace(compute, loss_chunk=128))
    assert chunked.memory_gib <= before.memory_gib
    lora = changed(
        tuning=TuningConfig(kind=TuningKind.LORA),
        compute=dataclasses.replace(compute, strategy=StrategyName.AUTO),
    )
    assert lora.memory["optimizer"] == 8 * (335_544_320 + CONNECTOR)
    load = node.estimate(estimator, count=4).load
    num_loss_tokens = 4096 * load.num_loss_tokens / load.num_tokens
    assert lora.memory["loss"] == pytest.approx(12 * 128256 * num_loss_tokens)
    whole = changed(compute=dataclasses.replace(compute, reduce_once=True))
    assert whole.memory["unreduced gradients"] == 4 * (LLAMA_8B + CONNECTOR)
    qlora = changed(
        tuning=TuningConfig(kind=TuningKind.QLORA),
        compute=dataclasses.replace(compute, strategy=StrategyName.AUTO),
    )
    assert qlora.memory["frozen weights"] < 0.4 * lora.memory["frozen weights"]
    assert before.flops > lora.flops > 0.6 * before.flops


def test_expected_data_can_be_planned_but_not_run() -> None:
    with pytest.raises(DataError, match="paper_benchmarks"):
        make_plan(GridRequest(experiment="mix_ablation", profile="paper"))
    plan = plan_of("mix_ablation")
    assert "data/paper/cc3m_eu.manifest.json" in plan.graph.missing
    assert not any("magpie_en" in path for path in plan.graph.missing)


def test_memory_fixes_fit_and_the_least_invasive_comes_first(tmp_path: Path) -> None:
    eager = "instruct.compute.compile_blocks=false"
    plan = plan_of("mix_ablation", "trainer.devices=1", eager)
    estimator, node = estimator_of(plan, tmp_path), node_of(plan, "instruct")
    ways = memory_fixes(estimator, node, memory_gib=get_gpu("h100").memory_gib, count=1)
    assert ways[0].overrides == ("trainer.devices=4",)
    assert ways[-1].count == 1
    assert "instruct.optim.optimizer=adamw_8bit" in ways[-1].overrides
    assert "trainer.precision=bf16-true" in ways[-1].overrides
    assert [way.count for way in ways] == sorted({way.count for way in ways}, reverse=True)
    assert all(way.memory_gib <= get_gpu("h100").memory_gib for way in ways)
    # A plan with the suggested options finds the memory that was suggested.
    words = [word for word in ways[-1].overrides if not word.startswith("trainer.devices")]
    again = plan_of("mix_ablation", "trainer.devices=1", eager, *words)
    cost = node_of(again, "instruct").estimate(estimator_of(again, tmp_path), count=1).cost
    assert cost is not None
    assert cost.memory_gib == pytest.approx(ways[-1].memory_gib)
    small = memory_fixes(estimator, node, memory_gib=get_gpu("rtx4090").memory_gib, count=1)
    assert small[-1].overrides[-1] == "instruct.tuning.kind=qlora"
    assert not memory_fixes(estimator, node, memory_gib=4.0, count=1)


def test_slurm_jobs_ask_for_what_the_plan_says(tmp_path: Path) -> None:
    """Training takes all GPUs and its expected time three times, the rest one GPU."""
    plan = plan_of("mix_ablation", "trainer.devices=4", "trainer.num_nodes=2")
    config = SlurmConfig(gpu="h100", time_min=100_000)
    estimator = estimator_of(plan, tmp_path)
    launcher = SlurmLauncher(
        store=Store(tmp_path),
        graph=plan.graph,
        trainer=plan.trainer,
        config=config,
        flag=StopFlag(),
        estimate=resource_estimate(estimator, "h100", plan.trainer),
    )
    with pytest.raises(ConfigError, match="h100"):
        resource_estimate(estimator, "h101", plan.trainer)
    nodes = {node.kind: node for node in plan.graph.nodes.values()}
    node = nodes["instruct"]
    train, evaluate = launcher.resources(node), launcher.resources(nodes["evaluate"])
    assert (train.gpus_per_node, evaluate.gpus_per_node) == (4, 1)
    estimate = node.estimate(estimator_of(plan, tmp_path), count=8)
    assert estimate.cost is not None
    hours = estimate.cost.time(get_gpu("h100"), estimate.width, 8).longest_s / 3600
    assert 0.2 < hours < 1
    assert train.time_min == pytest.approx(30 + 180 * hours, abs=1)
    assert 30 < evaluate.time_min < 1000
    # Four of eight shards of 8 billion weights with moments (12 bytes each); 8 GiB a process.
    assert train.mem_gb == pytest.approx(8.03e9 * 12 / 2 / GIB + 4 * 8, abs=6)
    assert evaluate.mem_gb == pytest.approx(8.34e9 * 2 / GIB + 8, abs=2)
    own = dataclasses.replace(launcher, config=dataclasses.replace(config, mem_gb=300))
    assert own.resources(node).mem_gb == 300
    short = dataclasses.replace(launcher, config=dataclasses.replace(config, time_min=60))
    assert short.resources(node).time_min == 60, "the user's limit holds"
    plain = dataclasses.replace(launcher, config=SlurmConfig(gpus_per_node=8), estimate=None)
    assert plain.resources(node) == plain.config


def test_times_are_ranges() -> None:
    cost = costs.Cost(flops=989e12 * 3600, memory={}, read_bytes=0.0)
    span = cost.time(get_gpu("h100"), 4096, 1)
    assert (span.shortest_s, span.longest_s) == pytest.approx((3600 / 0.42, 3600 / 0.33))
    assert format_span(span) == "2.4-3.0 h"
    assert format_span(TimeSpan(shortest_s=3000, longest_s=3600)) == "50-60 min"
    assert format_span(TimeSpan(shortest_s=3599, longest_s=3600)) == "60 min"
    total = TimeSpan().plus(span, factor=0.5)
    assert total.longest_s == span.longest_s / 2
    reading = dataclasses.replace(cost, flops=0.0, read_bytes=3.35e12).time(get_gpu("h100"), 64, 1)
    assert reading.shortest_s == reading.longest_s == pytest.approx(1.0), "not a share of the peak"


def test_float8_is_faster_where_there_is_float8() -> None:
    cost = costs.Cost(flops=989e12 * 3600, memory={}, uses_float8=True)
    span = cost.time(get_gpu("h100"), 4096, 1)
    assert span.shortest_s == pytest.approx(3600 / 0.42 / 1.28)
    assert span.longest_s == pytest.approx(3600 / 0.33 / 1.10)
    with pytest.raises(ConfigError, match="--gpu h100, h200, b200, l40s, rtx4090"):
        cost.time(get_gpu("a100-80"), 4096, 1)


def test_unknown_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'h100'"):
        get_gpu("h1oo")
    assert all(gpu.memory_gib * GIB > 2e10 for gpu in GPUS.values())


def tiny_llama(attention: str = "sdpa") -> LlamaForCausalLM:
    config = LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
                         tie_word_embeddings=False, attn_implementation=attention)  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def tiny_footprint(model: LlamaForCausalLM, *, adapters: int = 0) -> Footprint:
    blocks = decoder_blocks(model)
    matrices = sum(
        p.numel()
        for block in blocks
        for name, p in block.named_parameters()
        if p.ndim == 2 and "lora_" not in name
    )
    return Footprint(
        tower=0, connector=0, language_model=sum(p.numel() for p in model.parameters()),
        quantisable=matrices, adapters=adapters,
        block=sum(p.numel() for p in blocks[0].parameters()), num_blocks=3, hidden_size=64,
        output_layer=96 * 64, has_tied_embeddings=False,
        inner_size=160, cache_width=64, vocab_size=96, num_features=0, num_image_tokens=0,
        connector_image_flops=0.0, connector_token_flops=0.0, connector_token_values=0.0,
        image_flops=0.0, image_bytes=0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["full", "frozen", "lora", "recomputed"])
def test_operations_are_those_that_pytorch_counts(kind: str, tmp_path: Path) -> None:
    model, num_tokens, rank = tiny_llama("eager"), 40, 8
    adapters = 0
    if kind == "lora":
        add_adapters(model, TuningConfig(kind=TuningKind.LORA, rank=rank), seed=0)
        adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    for name, parameter in model.named_parameters():
        learns = {"full": True, "recomputed": True, "frozen": False, "lora": "lora_" in name}[kind]
        parameter.requires_grad_(learns)
    if kind == "recomputed":
        checkpoint_activations(model, every=1)
        model.train()
    embeds_BTD = torch.randn(1, num_tokens, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embeds_BTD).logits.sum().backward()
    plan = plan_of("mix_ablation")
    spec = node_of(plan, "instruct").stage
    tuning = TuningKind.LORA if kind == "lora" else TuningKind.FULL
    spec = dataclasses.replace(
        spec,
        policy=FreezePolicy(language_model=kind != "frozen"),
        tuning=TuningConfig(kind=tuning, rank=rank),
        compute=dataclasses.replace(
            spec.compute, loss_chunk=0, checkpoint_blocks=1 if kind == "recomputed" else 0
        ),
    )
    # PyTorch counts all pairs of tokens, a causal kernel computes half: give it twice the length.
    load = Load(num_samples=0.5, num_tokens=num_tokens, num_loss_tokens=num_tokens)
    setup = TrainingSetup(has_tower=False, block=BlockMemory(kept=0, working=0, inputs=0), count=1)
    cost = training_cost(spec, tiny_footprint(model, adapters=adapters), load, setup)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_an_unknown_model_says_what_to_do(tmp_path: Path) -> None:
    plan = plan_of("mix_ablation", "backbones.general.path=some-one/Unknown-7B")
    with pytest.raises(ConfigError, match="add its shape"):
        _ = node_of(plan, "align").estimate(estimator_of(plan, tmp_path), count=1).cost


@pytest.mark.slow
def test_the_eight_bit_optimizer_counts(tmp_path: Path) -> None:
    plan = plan_of("mix_ablation", "instruct.compute.strategy=auto",
                   f"instruct.optim.optimizer={OptimizerName.ADAMW_8BIT.value}")  # fmt: skip
    cost = node_of(plan, "instruct").estimate(estimator_of(plan, tmp_path), count=1).cost
    assert cost is not None
    assert cost.memory["optimizer"] == pytest.approx(2.03 * (LLAMA_8B + CONNECTOR))
