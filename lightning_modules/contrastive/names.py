"""Tokens of the English names that the embedded tower is trained on."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from core.errors import DataError
from lightning_modules.contrastive.module import TowerRecipe

_PAD, _START, _END = "<pad>", "<start>", "<end>"


def train_name_tokenizer(names: Sequence[str], recipe: TowerRecipe) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the names: it encodes any text, and the names in few tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.text_vocabulary,
        special_tokens=[_PAD, _START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(names, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(_START, 1), (_END, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, bos_token=_START, eos_token=_END
    )


def encode_names(
    tokenizer: PreTrainedTokenizerFast, names: Sequence[str], recipe: TowerRecipe
) -> torch.Tensor:
    """Return the token ids (K, L) of a bank of names.

    Raises:
        DataError: If a name does not fit into the text encoder.
    """
    encoded = tokenizer(list(names), padding="max_length", max_length=recipe.text_context)
    ids = encoded["input_ids"]
    longest, name = max(zip(map(len, ids), names, strict=True))
    if longest > recipe.text_context:
        raise DataError(
            f"the name '{name}' has {longest} tokens, more than tower.text_context="
            f"{recipe.text_context}; raise it to {longest} or shorten the name"
        )
    return torch.tensor(ids)
