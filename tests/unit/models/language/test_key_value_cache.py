"""The preallocated key-value cache against the growing one of transformers."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from models.language.key_value_cache import PreallocatedLayer, preallocate

NUM_NEW = 5


@pytest.fixture(scope="module")
def language_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def decode(model: LlamaForCausalLM, *, is_preallocated: bool) -> tuple[torch.Tensor, list[int]]:
    """Return the logits of NUM_NEW tokens and the address of the stored keys after each."""
    torch.manual_seed(1)
    cache = DynamicCache(config=model.config)
    input_ids = torch.randint(50, (3, 7))
    logits, addresses = [], []
    for step in range(NUM_NEW):
        with torch.no_grad():
            output = model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        if step == 0 and is_preallocated:
            preallocate(cache, NUM_NEW - 1)
        logits.append(output.logits[:, -1])
        addresses.append(cache.layers[0].keys.data_ptr())
        input_ids = output.logits[:, -1:].argmax(dim=-1)
    return torch.stack(logits), addresses


def test_logits_are_equal_and_keys_stay_in_place(language_model: LlamaForCausalLM) -> None:
    grown, _ = decode(language_model, is_preallocated=False)
    preallocated, addresses = decode(language_model, is_preallocated=True)
    assert torch.equal(grown, preallocated)
    assert len(set(addresses)) == 1


def test_layers_of_other_kinds_stay(language_model: LlamaForCausalLM) -> None:
    config = language_model.config.__class__.from_dict(
        {
            **language_model.config.to_dict(),
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        }
    )
    cache = DynamicCache(config=config)
    for index in range(2):
        cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), index)
    preallocate(cache, 2)
    assert [isinstance(layer, PreallocatedLayer) for layer in cache.layers] == [False, True]
