"""Trains the embedded models: tokenizer, three language models, vision tower."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from configuration.axes import AxisValue
from configuration.data_config import LanguagesConfig
from configuration.trainer import TrainerConfig
from core.chat.format import PromptStyle
from core.config import load_config
from core.errors import ConfigError
from core.io.sealed_folder import SEAL_FILE
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture_datamodule import StreamConfig
from lightning_modules.contrastive.module import TowerRecipe
from lightning_modules.optim import OptimConfig
from pipeline.content import ContentHashes
from pipeline.graph import RECORD_ONLY, Graph, StageNode, make_node
from pipeline.stages.pretrain import LlamaShape, PretrainStage
from pipeline.stages.tokenizer import TokenizerStage
from pipeline.stages.tower import TowerStage
from pipeline.store.notes import read_json
from pipeline.store.store import Store

CONFIG = Path("configs/recipes/embedded_backbones.yaml")
_PLACE = "models="
_SAME_MODELS = (_PLACE, "trainer.")
"""Overrides that leave the recipe of the shipped models unchanged."""
_TOKENIZER_SOURCES = ("corpus_text", "corpus_chat")
_TRAINING_RECORDS = (SEAL_FILE, "freeze_report.txt", "bad_samples.json")
"""Files of a finished stage run that no reader of the model needs."""
_BACKBONES = ("base_only", "general", "adapted")
"""Language models, in the order in which one may continue another."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneRecipe:
    """Training of one of the language models."""

    num_steps: int
    """Optimizer steps."""
    optim: OptimConfig
    """Optimizer and schedule."""
    samples_per_step: dict[str, float]
    """Corpus source -> samples per optimizer step."""
    continues: str = ""
    """Language model whose weights it starts from; empty starts from random weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackbonesConfig:
    """Configuration of the embedded models."""

    languages: LanguagesConfig
    """Base and target language."""
    corpus: str
    """Folder written by `data_prep.embedded --corpus`."""
    captions: list[str]
    """Manifest of images and base-language names that train the tower."""
    models: str
    """Folder to which finished models are copied."""
    base_only: BackboneRecipe
    """Language model that never sees the target language."""
    general: BackboneRecipe
    """Language model with partial knowledge of the target language."""
    adapted: BackboneRecipe
    """The general model, continued on the target language."""
    scripts: list[str] = dataclasses.field(default_factory=list)
    """Further languages on whose texts the tokenizer is trained."""
    prompt_style: PromptStyle = PromptStyle.FULL
    """Tokens of conversations that count in the loss: all, or those of the answers (`chat`)."""
    vocab_size: int = 4096
    """Number of entries of the shared tokenizer."""
    template: str = "embedded"
    """Chat template."""
    seed: int = 0
    """Seed of all random draws."""
    shape: LlamaShape = dataclasses.field(default_factory=LlamaShape)
    """Dimensions of the language models."""
    micro_batch_tokens: int = 8192
    """Maximum number of tokens per forward pass."""
    row_tokens: int = 512
    """Maximum number of tokens of a packed row."""
    tower: TowerRecipe = dataclasses.field(default_factory=TowerRecipe)
    """Contrastive recipe of the tower."""
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """Execution settings."""


def load(overrides: Sequence[str]) -> BackbonesConfig:
    """Load the recipe with overrides.

    Raises:
        ConfigError: If the corpus does not exist, other models would replace the shipped ones, or
            the recipes contradict their names.
    """
    _check_place(overrides)
    config = load_config(BackbonesConfig, CONFIG, overrides=overrides)
    _check_recipes(config)
    if not Path(config.corpus).is_dir():
        raise ConfigError(
            f"no corpus at '{config.corpus}'; build it first: "
            f"python -m data_prep.embedded --corpus {config.corpus}"
        )
    return config


def _check_place(overrides: Sequence[str]) -> None:
    """Check that models of another recipe get a folder of their own."""
    changes = [one for one in overrides if not one.startswith(_SAME_MODELS)]
    if changes and not any(one.startswith(_PLACE) for one in overrides):
        raise ConfigError(
            f"--set {changes[0]} trains other models, which would replace the shipped ones; "
            f"select a folder for them with --set {_PLACE}FOLDER"
        )


def _check_recipes(config: BackbonesConfig) -> None:
    """Check that models continue earlier ones, and that one never sees the target language."""
    for number, name in enumerate(_BACKBONES):
        continued = _recipe(config, name).continues
        if continued and continued not in _BACKBONES[:number]:
            raise ConfigError(
                f"{name}.continues={continued!r}, expected null or one of "
                f"{', '.join(_BACKBONES[:number]) or 'none'}"
            )
    wanted = f"_{config.languages.base}"
    for source in config.base_only.samples_per_step:
        if not source.endswith(wanted):
            raise ConfigError(
                f"base_only.samples_per_step has '{source}', but this model is trained on "
                f"the base language only; use sources whose names end in '{wanted}'"
            )


def _recipe(config: BackbonesConfig, name: str) -> BackboneRecipe:
    recipe: BackboneRecipe = getattr(config, name)
    return recipe


def build_graph(config: BackbonesConfig) -> Graph:
    """Build the graph: tokenizer -> language models, and the tower."""
    hashes = ContentHashes()
    languages = (config.languages.base, config.languages.target)
    manifests = tuple(
        _corpus_manifest(config, f"{source}_{language}")
        for source in _TOKENIZER_SOURCES
        for language in languages
    )
    manifests += tuple(_corpus_manifest(config, f"script_{code}") for code in config.scripts)
    stage = TokenizerStage(
        sources=manifests, vocab_size=config.vocab_size, template=config.template
    )
    tokenizer = make_node(stage, hashes)
    backbones: dict[str, StageNode] = {}
    for name in _BACKBONES:
        inputs = {"tokenizer": tokenizer}
        if continued := _recipe(config, name).continues:
            inputs["init"] = backbones[continued]
        backbones[name] = _pretrain_node(config, name, hashes, inputs)
    tower_stage = TowerStage(captions=tuple(config.captions), recipe=config.tower, seed=config.seed)
    tower = make_node(tower_stage, hashes, params={"seed": config.seed})
    nodes = (tokenizer, *backbones.values(), tower)
    return Graph(nodes={node.address: node for node in nodes}, cells={})


def publish(config: BackbonesConfig, graph: Graph, store: Store) -> Path:
    """Copy finished models to the folder that the embedded profile reads."""
    names = {name: f"lm_{name}" for name in _BACKBONES} | {"tower": "tower"}
    for node in graph.nodes.values():
        name = names.get(node.title.split()[-1])
        source = store.folder(node.kind, node.address)
        if name is None or not source.is_done():
            continue
        target = Path(config.models) / name
        target.mkdir(parents=True, exist_ok=True)
        for file in source.result.iterdir():
            if file.name not in _TRAINING_RECORDS:
                shutil.copyfile(file, target / file.name)
        stage = read_json(source.path / "stage.json")
        # The file is part of the addresses of grids: it changes only with the model.
        recipe = {name: value for name, value in stage.items() if name not in RECORD_ONLY}
        (target / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    return Path(config.models)


def _corpus_manifest(config: BackbonesConfig, source: str) -> str:
    return f"{config.corpus}/{source}.manifest.json"


def _pretrain_node(
    config: BackbonesConfig, name: str, hashes: ContentHashes, inputs: dict[str, StageNode]
) -> StageNode:
    part = _recipe(config, name)
    components = {
        source: ComponentConfig(base=_corpus_manifest(config, source), samples_per_step=samples)
        for source, samples in part.samples_per_step.items()
    }
    stream = StreamConfig(
        mixture=MixtureConfig(components=components, seed=config.seed),
        prompt_style=config.prompt_style,
        micro_batch_tokens=config.micro_batch_tokens,
        row_tokens=config.row_tokens,
    )
    stage = PretrainStage(
        shape=config.shape,
        template=config.template,
        stream=stream,
        optim=part.optim,
        num_steps=part.num_steps,
        seed=config.seed,
        precision=config.trainer.precision,
    )
    params: dict[str, AxisValue] = {"seed": config.seed, "backbone": name}
    return make_node(stage, hashes, inputs=inputs, title=f"pretrain {name}", params=params)
