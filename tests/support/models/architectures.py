"""Documents for tiny models of any architecture, and the same models built from transformers."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from transformers import (
    FuyuConfig,
    FuyuForCausalLM,
    IdeficsConfig,
    LlamaForCausalLM,
    LlavaConfig,
    MllamaForCausalLM,
)
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from core.samples import EncodedSample, MicroBatch, SampleRef
from datamodules.batches.collate import ReadySample, RowLayout, collate_micro_batch
from models.connector import ConnectorConfig, connector_kinds, count_placeholders
from models.vlm import VisionLanguageModel
from tests.support.models.tiny_vlm import IMAGE, OPTIONS, VISION_WIDTH, VOCABULARY

NUM_FEATURES, PAD = 4, 0
KINDS = connector_kinds()
NUM_LAYERS = 4
"""Decoder blocks of a model that has a reference."""
Gradients: TypeAlias = dict[str, torch.Tensor]


def num_placeholders(kind: str) -> int:
    """Return the number of tokens that an image takes."""
    return count_placeholders(ConnectorConfig(kind=kind, options=OPTIONS), NUM_FEATURES)


def make_samples(kind: str, count: int = 7, *, is_image_first: bool = False) -> list[ReadySample]:
    """Make documents of which most have an image.

    Args:
        kind: Architecture.
        count: Number of documents.
        is_image_first: Begin with the image, and leave out branches. By default, text precedes it,
            and some documents have branches behind it.
    """
    rng = np.random.default_rng(3)
    samples = []
    for number in range(count):
        has_image = number % 4 != 2
        before, after = int(rng.integers(1, 4)), int(rng.integers(3, 9))
        before = 0 if is_image_first else before
        places = num_placeholders(kind) if has_image else 0
        ids_T = np.concatenate(
            [rng.integers(10, VOCABULARY, before), [IMAGE] * places,
             rng.integers(10, VOCABULARY, after)]
        ).astype(np.int64)  # fmt: skip
        mask_T = np.arange(len(ids_T)) > before + places
        branches_T = np.zeros(len(ids_T), dtype=np.int64)
        if number % 3 == 0 and not is_image_first:
            branches_T[-2:] = 1
        image = torch.from_numpy(rng.normal(size=(NUM_FEATURES, VISION_WIDTH))).float()
        ref = SampleRef(
            position=number, source="s", language="eu", key=str(number),
            num_tokens=len(ids_T), num_loss_tokens=int(mask_T.sum()),
        )  # fmt: skip
        encoded = EncodedSample(input_ids_T=ids_T, loss_mask_T=mask_T, branch_ids_T=branches_T)
        samples.append(ReadySample(ref=ref, encoded=encoded, image=image if has_image else None))
    return samples


def collate(rows: Sequence[Sequence[ReadySample]], *, is_end_to_end: bool = False) -> MicroBatch:
    """Return a micro-batch of packed rows."""
    return collate_micro_batch(
        rows, pad_token_id=PAD, image_token_id=IMAGE, is_features=True,
        layout=RowLayout(is_end_to_end=is_end_to_end, multiple=8),
    )  # fmt: skip


def loss_and_gradients(model: VisionLanguageModel, batches: Sequence[MicroBatch]) -> Gradients:
    """Return the sum of the losses of some batches and the gradients of all parameters."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        loss = model(batch).loss_sum
        loss.backward()
        total += loss.detach()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": total, **found}


class Reference(nn.Module):
    """A model with the weights of another one, built from classes of transformers.

    Args:
        stock: What computes the logits.
        run: Arguments `stock`, ids (1, T), and features (1, P, E) or None; returns the logits
            (1, T, V).
        renamed: Returns the name of a parameter of the other model in `stock`.
    """

    def __init__(self, stock: nn.Module, run: Callable[..., Any], renamed: Callable[[str], str]):
        super().__init__()
        self.stock, self._run, self._renamed = stock, run, renamed

    def load(self, model: VisionLanguageModel) -> "Reference":
        """Take over the weights of the other model."""
        state = dict(self.stock.state_dict())
        names = {name: self._renamed(name) for name in model.state_dict()}
        missing = {*names.values()} - {*state}
        if missing:
            raise ValueError(f"the reference has no {sorted(missing)}")
        state |= {names[name]: value for name, value in model.state_dict().items()}
        self.stock.load_state_dict(state)
        self.eval()
        return self

    def logits(self, ids_T: np.ndarray, image: torch.Tensor | None) -> torch.Tensor:
        """Return the logits (T, V) of one document."""
        features_1PE = None if image is None else image[None]
        output: torch.Tensor = self._run(self.stock, torch.from_numpy(ids_T)[None], features_1PE)
        return output[0]

    def loss_and_gradients(
        self, model: VisionLanguageModel, samples: Sequence[ReadySample]
    ) -> Gradients:
        """Return what `loss_and_gradients` does, under the names of the other model."""
        self.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for sample in samples:
            ids_T = sample.encoded.input_ids_T
            logits_TV = self.logits(ids_T, sample.image)
            targets_T = torch.from_numpy(np.where(sample.encoded.loss_mask_T, ids_T, -100))
            loss = nn.functional.cross_entropy(logits_TV[:-1], targets_T[1:], reduction="sum")
            loss.backward()
            total += loss.detach()
        own = dict(self.stock.named_parameters())
        found = {name: own[self._renamed(name)].grad for name, _ in model.named_parameters()}
        return {"loss": total, **{n: grad for n, grad in found.items() if grad is not None}}


def build_reference(kind: str, model: VisionLanguageModel) -> Reference:
    """Return a reference with the weights of a model of `build_model(num_layers=NUM_LAYERS)`.

    Raises:
        KeyError: If there is none for the architecture.
    """
    builders = {
        "linear": lambda: _late_fusion(model, nn.Linear(VISION_WIDTH, 32), _after_proj),
        "mlp2x_gelu": lambda: _late_fusion(model, _llava_projector(), lambda name: name),
        "resampler": lambda: _late_fusion(model, _idefics_resampler(), _rename_resampler),
        "cross_attention": lambda: _mllama(model),
        "single_stream": lambda: _fuyu(model),
    }
    return builders[kind]().load(model)


def _config(model: VisionLanguageModel) -> dict[str, Any]:
    config: dict[str, Any] = model.language_model.config.to_dict()
    return config


def _after_proj(name: str) -> str:
    return name.removeprefix("proj.")


class _LateFusion(nn.Module):
    """A connector whose output replaces the embeddings of placeholders in front of Llama."""

    def __init__(self, connector: nn.Module, language_model: LlamaForCausalLM) -> None:
        super().__init__()
        self.connector, self.language_model = connector, language_model

    def forward(self, ids_1T: torch.Tensor, features_1PE: torch.Tensor | None) -> torch.Tensor:
        embeds_1TD = self.language_model.get_input_embeddings()(ids_1T)
        if features_1PE is not None:
            projected = self.connector(features_1PE)
            embeds_1TD = embeds_1TD.masked_scatter((ids_1T == IMAGE)[..., None], projected)
        logits: torch.Tensor = self.language_model(inputs_embeds=embeds_1TD).logits
        return logits


def _late_fusion(
    model: VisionLanguageModel, connector: nn.Module, rename: Callable[[str], str]
) -> Reference:
    def renamed(name: str) -> str:
        part, _, rest = name.partition(".")
        return f"{part}.{rename(rest)}" if part == "connector" else name

    stock = _LateFusion(connector, LlamaForCausalLM(model.language_model.config))
    return Reference(stock, lambda stock, *inputs: stock(*inputs), renamed)


def _llava_projector() -> nn.Module:
    return LlavaMultiModalProjector(
        LlavaConfig(
            vision_config={
                "model_type": "clip_vision_model", "hidden_size": VISION_WIDTH,
                "num_attention_heads": 4,
            },
            text_config={"model_type": "llama", "hidden_size": 32},
            vision_feature_layer=-2,
        )
    )  # fmt: skip


def _idefics_resampler() -> nn.Module:
    config = IdeficsConfig(vision_config={"embed_dim": VISION_WIDTH}, perceiver_config={})
    config.perceiver_config.qk_layer_norms_perceiver = False
    options = OPTIONS["resampler"]
    heads = options["num_heads"]
    resampler = IdeficsPerceiverResampler(
        config, VISION_WIDTH, depth=options["num_layers"], n_heads=heads,
        head_dim=VISION_WIDTH // heads, n_latents=options["num_queries"],
    )  # fmt: skip
    return nn.Sequential(resampler, nn.Linear(VISION_WIDTH, 32))


def _rename_resampler(name: str) -> str:
    if name.startswith("proj."):
        return name.replace("proj", "1")
    names = {
        "features_norm": "context_layer_norm", "queries_norm": "latents_layer_norm",
        "o_proj": "output_proj", "up_proj": "fc", "down_proj": "c_proj", "mlp_norm": "ln",
        "queries_QE": "latents", "norm": "layer_norm", "layers": "blocks",
    }  # fmt: skip
    parts = name.split(".")
    if parts[0] == "layers":  # blocks.LAYER.0 is attention, blocks.LAYER.1 the MLP
        parts.insert(2, str(int(parts[2] in {"up_proj", "down_proj", "mlp_norm"})))
    return "0." + ".".join(names.get(part, part) for part in parts)


class _CrossAttention(nn.Module):
    """Llama 3.2 Vision's language model behind a linear layer on the features."""

    def __init__(self, config: MllamaTextConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(VISION_WIDTH, config.hidden_size)
        self.language_model = MllamaForCausalLM(config)

    def forward(self, ids_1T: torch.Tensor, features_1PE: torch.Tensor | None) -> torch.Tensor:
        """Return logits; every token attends to the image, which must come first."""
        if features_1PE is None:
            text: torch.Tensor = self.language_model(ids_1T, use_cache=False).logits
            return text
        everything = torch.zeros(1, 1, ids_1T.shape[1], features_1PE.shape[1])
        logits: torch.Tensor = self.language_model(
            ids_1T, cross_attention_states=self.proj(features_1PE), use_cache=False,
            cross_attention_mask=everything.to(features_1PE.dtype),
        ).logits  # fmt: skip
        return logits


def _mllama(model: VisionLanguageModel) -> Reference:
    every = OPTIONS["cross_attention"]["every_n_blocks"]
    # Place of every block of Llama among all blocks.
    places = [n + (n + 1) // every for n in range(NUM_LAYERS)]
    layers = [n for n in range(max(places)) if n not in places]
    config = _config(model) | {
        "num_hidden_layers": NUM_LAYERS + len(layers), "cross_attention_layers": layers,
        "attn_implementation": "sdpa", "model_type": "mllama_text_model",
        "tie_word_embeddings": False,
    }  # fmt: skip

    def renamed(name: str) -> str:
        parts = name.split(".")
        if parts[0] == "language_model":
            if parts[1:3] == ["model", "layers"]:
                parts[3] = str(places[int(parts[3])])
            return ".".join(parts)
        if parts[1] == "proj":
            return ".".join(parts[1:])
        block = f"language_model.model.layers.{layers[int(parts[2])]}."
        names = {
            "input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
            "attention_gate": "cross_attn_attn_gate", "mlp_gate": "cross_attn_mlp_gate",
        }  # fmt: skip
        name = ".".join(parts[3:])
        if parts[3] in names:
            return block + name.replace(parts[3], names[parts[3]])
        is_mlp = parts[3] in {"gate_proj", "up_proj", "down_proj"}
        return block + ("mlp." if is_mlp else "cross_attn.") + name

    stock = _CrossAttention(MllamaTextConfig(**config))
    # It has embeddings for eight tokens more, which no document has.
    embeddings = model.language_model.get_input_embeddings().weight
    stock.language_model.get_input_embeddings().weight = nn.Parameter(torch.empty_like(embeddings))
    return Reference(stock, lambda stock, *inputs: stock(*inputs), renamed)


def _fuyu(model: VisionLanguageModel) -> Reference:
    def run(
        stock: FuyuForCausalLM, ids_1T: torch.Tensor, patches_1PE: torch.Tensor | None
    ) -> torch.Tensor:
        logits: torch.Tensor = stock(input_ids=ids_1T, pixel_values=patches_1PE).logits
        return logits

    def renamed(name: str) -> str:
        name = name.replace("connector.proj.", "model.vision_embed_tokens.")
        name = name.replace("language_model.model.", "model.language_model.")
        return name.replace("language_model.lm_head.", "lm_head.")

    config = FuyuConfig(
        text_config=_config(model), image_token_id=IMAGE, tie_word_embeddings=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    stock = FuyuForCausalLM(config)
    stock.model.vision_embed_tokens = nn.Linear(VISION_WIDTH, 32)  # patches of another size
    return Reference(stock, run, renamed)
