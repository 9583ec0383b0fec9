"""Stage kind `pretrain`: a small language model trained on text."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import TEMPLATES
from core.config import to_plain
from core.errors import ConfigError
from core.precision import Precision
from core.rng import seeded
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from lightning_modules.optim import OptimConfig
from lightning_modules.vlm_module import VlmModule
from models.connector import ConnectorConfig, build_connector
from models.freezing import FreezePolicy
from models.language.language_model import (
    LanguageModelConfig,
    load_language_model,
    save_language_model,
)
from models.vlm import VisionLanguageModel
from pipeline.stages.base import InputRole, Stage, StageContext
from pipeline.stages.training import LEDGER_FOLDER, fit, mixture_manifests

_POLICY = FreezePolicy(connector=False, language_model=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """Dimensions of a language model that starts from random weights."""

    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 3
    intermediate_size: int = 512
    max_positions: int = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainStage(Stage):
    """A language model trained on text, from random weights or from another one (role `init`)."""

    kind: ClassVar[str] = "pretrain"
    is_distributed: ClassVar[bool] = True

    shape: LlamaShape
    template: str
    stream: StreamConfig
    optim: OptimConfig
    num_steps: int
    seed: int
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        """Check the precision."""
        if self.precision is Precision.FLOAT8_MIXED:
            raise ConfigError(
                f"trainer.precision={self.precision} applies to the stages align and instruct, not "
                "to the pretraining of language models; set bf16-mixed"
            )

    @property
    def manifests(self) -> tuple[str, ...]:
        """Manifests of all components of the mixture."""
        return mixture_manifests(self.stream.mixture)

    @property
    def definitions(self) -> Mapping[str, object]:
        """The chat template."""
        return {f"chat template {self.template}": to_plain(TEMPLATES[self.template])}

    def run(self, context: StageContext) -> None:
        """Train on text and text-only conversations, and save the model with its tokenizer."""
        tokenizer = load_tokenizer(context.inputs[InputRole.TOKENIZER])
        chat = ChatFormat(tokenizer, TEMPLATES[self.template], num_image_tokens=1)
        language_model = self._initial_model(context.inputs.get(InputRole.INIT), chat)
        connector = build_connector(
            ConnectorConfig(), vision_width=1, model_width=self.shape.hidden_size, seed=self.seed
        )
        model = VisionLanguageModel(
            None, connector, language_model, image_token_id=chat.image_token_id
        )
        data = MixtureDataModule(
            self.stream,
            chat=chat,
            num_steps=self.num_steps,
            cache_dir=context.cache,
            allow_data_change=context.trainer.allow_data_change,
            ledger_dir=context.folder.path / LEDGER_FOLDER,
        )
        module = VlmModule(model, policy=_POLICY, optim=self.optim, num_steps=self.num_steps)
        if fit(context, module, data, self):
            save_language_model(context.folder.scratch, language_model)
            tokenizer.save_pretrained(context.folder.scratch)

    def _initial_model(self, init: Path | None, chat: ChatFormat) -> PreTrainedModel:
        if init is not None:
            return load_language_model(LanguageModelConfig(path=str(init)))
        shape = self.shape
        config = LlamaConfig(
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.max_positions,
            vocab_size=len(chat.tokenizer),
            tie_word_embeddings=True,
            bos_token_id=chat.tokenizer.bos_token_id,
            eos_token_id=chat.end_token_id,
            pad_token_id=chat.pad_token_id,
        )
        with seeded(self.seed, "language_model"):  # Hugging Face draws from the global generator
            return LlamaForCausalLM(config)
