"""Stage runs that make the embedded models: tokenizer, language models, vision tower."""

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from core.chat.format import TEMPLATES, ChatFormat, ChatTemplate, load_tokenizer
from core.rng import named_key
from datamodules.mixture_datamodule import MixtureDataModule
from datamodules.shards.source import Source
from lightning_modules.contrastive.tower import TowerImage, train_tower
from lightning_modules.vlm_module import PretrainModule
from models.connector import ConnectorConfig, build_connector
from models.language.language_model import (
    LanguageModelConfig,
    load_language_model,
    save_language_model,
)
from models.vlm import VisionLanguageModel
from pipeline.stages.specs import PretrainSpec, TokenizerSpec, TowerSpec
from pipeline.stages.training import LEDGER_FOLDER, StageContext, fit

_MAX_SEED = 2**63 - 1
_SCENES = "scene-"
"""Keys of composed images; the tower's recipe composes its own."""


def run_tokenizer(spec: TokenizerSpec, context: StageContext) -> None:
    """Train a byte-level BPE; a word has the same tokens at the start of a turn as inside it."""
    template = TEMPLATES[spec.template]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=_marks(template),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(spec.manifests), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=template.bos,
        eos_token=template.assistant_suffix,
        pad_token=template.pad_token,
        additional_special_tokens=_marks(template),
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(context.folder.scratch)


def run_pretrain(spec: PretrainSpec, context: StageContext) -> None:
    """Train a language model on text and text-only conversations."""
    tokenizer = load_tokenizer(context.inputs["tokenizer"])
    chat = ChatFormat(tokenizer, TEMPLATES[spec.template], num_image_tokens=1)
    language_model = _language_model(spec, context.inputs.get("init"), chat)
    connector = build_connector(
        ConnectorConfig(), vision_width=1, model_width=spec.shape.hidden_size, seed=spec.seed
    )
    model = VisionLanguageModel(None, connector, language_model, image_token_id=chat.image_token_id)
    data = MixtureDataModule(
        spec.stream,
        chat=chat,
        num_steps=spec.num_steps,
        cache_dir=context.cache,
        allow_data_change=context.trainer.allow_data_change,
        ledger_dir=context.folder.path / LEDGER_FOLDER,
    )
    module = PretrainModule(model, optim=spec.optim, num_steps=spec.num_steps)
    if fit(context, module, data, spec):
        save_language_model(context.folder.scratch, language_model, fp16=True)
        tokenizer.save_pretrained(context.folder.scratch)


def run_tower(spec: TowerSpec, context: StageContext) -> None:
    """Train the vision tower's head on single images and their names."""
    source = Source(Path(spec.manifest))
    samples = (source.read(i) for i in range(len(source)))
    images = [
        TowerImage(name=sample.turns[-1].content, image=sample.image)
        for sample in samples
        if sample.image is not None and not sample.key.startswith(_SCENES)
    ]
    train_tower(images, spec.recipe, seed=spec.seed, out_dir=context.folder.scratch)


def _language_model(spec: PretrainSpec, init: Path | None, chat: ChatFormat) -> PreTrainedModel:
    if init is not None:
        return load_language_model(LanguageModelConfig(path=str(init)))
    shape = spec.shape
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
    with torch.random.fork_rng(devices=[]):  # Hugging Face draws from the global generator
        torch.manual_seed(named_key(spec.seed, "language_model") & _MAX_SEED)
        return LlamaForCausalLM(config)


def _marks(template: ChatTemplate) -> list[str]:
    marks = (
        template.pad_token, template.bos, template.user_prefix, template.assistant_prefix,
        template.system_prefix, template.assistant_suffix, template.image_token,
    )  # fmt: skip
    return list(dict.fromkeys(marks))


def _texts(manifests: tuple[str, ...]) -> Iterator[str]:
    for manifest in manifests:
        source = Source(Path(manifest))
        for index in range(len(source)):
            for turn in source.read(index, with_image=False).turns:
                yield turn.content
