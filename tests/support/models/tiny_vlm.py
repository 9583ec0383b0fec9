"""A tiny vision-language model, packed rows for it, and kernels of a GPU on the CPU."""

import contextlib
import functools
import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from core.chat.tokens import IGNORE_INDEX, PADDING_DOCUMENT
from core.samples import MicroBatch, SampleRef
from models.connector import ConnectorConfig, build_connector
from models.vlm import VisionLanguageModel

IMAGE, VOCABULARY, VISION_WIDTH = 5, 61, 16
NUM_IMAGE_TOKENS = 4


OPTIONS = {
    "resampler": {"num_queries": 3, "num_layers": 2, "num_heads": 4},
    "cross_attention": {"every_n_blocks": 2},
}
"""Options of the architectures of `build_model`."""


def build_model(*, num_layers: int = 3, kind: str = "linear") -> VisionLanguageModel:
    """Build a model without a tower; its weights are the same in every call.

    Gates, which start at zero, are open.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=num_layers,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        initializer_range=0.3,
    )
    connector = build_connector(
        ConnectorConfig(kind=kind, options=OPTIONS),
        vision_width=VISION_WIDTH,
        model_width=32,
        seed=0,
        language_model=config,
    )
    with torch.no_grad():
        for name, parameter in connector.named_parameters():
            if "gate" in name and parameter.ndim == 1:
                parameter.fill_(0.7)
    language_model = LlamaForCausalLM(config).eval()
    return VisionLanguageModel(None, connector, language_model, image_token_id=IMAGE)


def packed(*, with_branches: bool, with_image: bool = False) -> MicroBatch:
    """Build two rows of documents of different lengths, with padding at the end of the first."""
    documents = [[1] * 7 + [2] * 12 + [3] * 3 + [PADDING_DOCUMENT] * 2, [1] * 20 + [2] * 4]
    branches = np.zeros((2, 24), dtype=np.int64)
    if with_branches:
        branches[1, 6:12], branches[1, 12:20] = 1, 2
    return rows_of(np.array(documents), branches, with_image=with_image)


def random_rows(
    num_rows: int, num_tokens: int, *, seed: int, with_branches: bool = False
) -> MicroBatch:
    """Build rows of random documents, some of them with branches, and random padding."""
    rng = np.random.default_rng(seed)
    documents = np.full((num_rows, num_tokens), PADDING_DOCUMENT, dtype=np.int64)
    branches = np.zeros_like(documents)
    for b in range(num_rows):
        start, number = 0, 1
        while start < num_tokens - 20:
            stop = min(start + int(rng.integers(5, 150)), num_tokens)
            documents[b, start:stop] = number
            if with_branches and rng.random() < 0.6:
                places = np.sort(rng.integers(start + 1, stop, size=3))
                branches[b, start:stop] = np.searchsorted(places, np.arange(start, stop), "right")
            start, number = stop, number + 1
    return rows_of(documents, branches)


def rows_of(
    documents_BT: np.ndarray, branches_BT: np.ndarray, *, with_image: bool = False
) -> MicroBatch:
    """Build a micro-batch of random tokens; all but the first of a document have labels."""
    shape = documents_BT.shape
    ids_BT = np.random.default_rng(1).integers(10, VOCABULARY, shape)
    is_first_BT = np.ones(shape, dtype=bool)
    is_first_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    labels_BT = np.where(is_first_BT | (documents_BT == PADDING_DOCUMENT), IGNORE_INDEX, ids_BT)
    features_NPE = None
    if with_image:
        ids_BT[0, 1 : 1 + NUM_IMAGE_TOKENS] = IMAGE
        labels_BT[0, 1 : 1 + NUM_IMAGE_TOKENS] = IGNORE_INDEX
        generator = torch.Generator().manual_seed(2)
        features_NPE = torch.randn(1, NUM_IMAGE_TOKENS, VISION_WIDTH, generator=generator)
    positions_BT = np.arange(shape[1]) - np.maximum.accumulate(
        np.where(is_first_BT, np.arange(shape[1]), 0), axis=1
    )
    sample = SampleRef(
        position=0,
        source="s",
        language="eu",
        key="k",
        num_tokens=int((documents_BT != PADDING_DOCUMENT).sum()),
        num_loss_tokens=int((labels_BT[:, 1:] != IGNORE_INDEX).sum()),
    )
    return MicroBatch.of_rows(
        input_ids_BT=torch.from_numpy(ids_BT),
        labels_BT=torch.from_numpy(labels_BT),
        position_ids_BT=torch.from_numpy(positions_BT),
        document_ids_BT=torch.from_numpy(documents_BT),
        branch_ids_BT=torch.from_numpy(branches_BT),
        image_token_id=IMAGE,
        features_NPE=features_NPE,
        samples=(sample,),
    )


def loss_and_gradients(model: VisionLanguageModel, batch: MicroBatch) -> list[torch.Tensor]:
    """Return the summed loss and the gradients of the language model."""
    model.zero_grad()
    loss = model(batch).loss_sum
    loss.backward()
    found = [p.grad for p in model.language_model.parameters()]
    return [loss.detach(), *(g.clone() for g in found if g is not None)]


@contextlib.contextmanager
def one_rank() -> Iterator[DeviceMesh]:
    """Start a process group of this process alone (gloo), and return its mesh."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@functools.cache
def use_varlen_on_cpu() -> None:
    """Register torch's variable-length kernel for the CPU, document by document, for good.

    torch has it for CUDA only. Dispatch, autograd formula and fake implementation stay torch's own,
    so that a step traces and compiles as on a GPU.
    """
    from torch.nn.attention import varlen

    varlen._varlen_attn.register_kernel("cpu")(_varlen_forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(_varlen_backward)


def _documents(starts: torch.Tensor) -> list[slice]:
    return [slice(first, stop) for first, stop in itertools.pairwise(starts.tolist())]


def _attend(
    parts: tuple[torch.Tensor, ...], document: slice, scale: float | None, *, enable_gqa: bool
) -> torch.Tensor:
    query, key, value = (part[document].transpose(0, 1)[None] for part in parts)
    out = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=enable_gqa
    )
    return out[0].transpose(0, 1)


def _check(parts: tuple[torch.Tensor, ...], starts: torch.Tensor, longest: int) -> None:
    """Check what the CUDA kernel demands of its arguments."""
    if len({part.dtype for part in parts}) > 1:
        raise RuntimeError(f"one type expected, got {[part.dtype for part in parts]}")
    assert starts.dtype == torch.int32
    assert int(starts.diff().max()) == longest
    assert int(starts[-1]) == parts[0].shape[0]


def _varlen_forward(  # noqa: PLR0917 - torch's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    starts_k: torch.Tensor | None,
    longest: int,
    longest_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    enable_gqa: bool = False,
    *_: object,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert is_causal
    assert window_size == [-1, 0]
    assert starts_k is not None
    assert longest_k == longest
    parts = query, key, value
    _check(parts, starts, longest)
    documents = _documents(starts)
    out = torch.cat([_attend(parts, d, scale, enable_gqa=enable_gqa) for d in documents])
    sums = query.new_zeros(query.shape[1], query.shape[0], dtype=torch.float32)
    return out, sums, torch.zeros(2, dtype=torch.uint64)


def _varlen_backward(  # noqa: PLR0917 - torch's signature
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    sums: torch.Tensor,
    starts: torch.Tensor,
    starts_k: torch.Tensor,
    longest: int,
    longest_k: int,
    is_causal: bool,
    rng_state: torch.Tensor,
    scale: float | None = None,
    window_size: list[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del sums, starts_k, longest, longest_k, is_causal, rng_state, window_size
    assert scale is not None
    gradients = [torch.zeros_like(part, dtype=torch.float32) for part in (query, key, value)]
    for document in _documents(starts):
        parts = [part[document].float() for part in (query, key, value, out, grad)]
        for total, part in zip(gradients, _attention_gradients(parts, scale), strict=True):
            total[document] = part
    grad_query, grad_key, grad_value = (total.to(query.dtype) for total in gradients)
    return grad_query, grad_key, grad_value


def _attention_gradients(parts: list[torch.Tensor], scale: float) -> tuple[torch.Tensor, ...]:
    """Return the gradients of causal attention in one document, by the formula."""
    query_THC, key_TGC, value_TGC, out_THC, grad_THC = parts
    group = query_THC.shape[1] // key_TGC.shape[1]
    key_THC, value_THC = (x.repeat_interleave(group, dim=1) for x in (key_TGC, value_TGC))
    scores_HTS = torch.einsum("thc,shc->hts", query_THC, key_THC) * scale
    later_TS = torch.ones_like(scores_HTS[0], dtype=torch.bool).triu(1)
    weights_HTS = scores_HTS.masked_fill(later_TS, -torch.inf).softmax(dim=-1)
    mean_HT1 = (grad_THC * out_THC).sum(dim=-1).T[:, :, None]
    grad_scores_HTS = weights_HTS * (torch.einsum("thc,shc->hts", grad_THC, value_THC) - mean_HT1)
    grad_query_THC = torch.einsum("hts,shc->thc", grad_scores_HTS, key_THC) * scale
    grad_key_SHC = torch.einsum("hts,thc->shc", grad_scores_HTS, query_THC) * scale
    grad_value_SHC = torch.einsum("hts,thc->shc", weights_HTS, grad_THC)
    shared = (x.unflatten(1, (-1, group)).sum(dim=2) for x in (grad_key_SHC, grad_value_SHC))
    return grad_query_THC, *shared
