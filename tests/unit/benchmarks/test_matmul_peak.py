"""The highest rate over the shapes of a model's weights."""

import itertools

from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.matmul_peak import measure_peak


def test_two_operations_per_multiply_add_of_the_largest_weight() -> None:
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=16,
    )
    ticks = itertools.count()
    # Every product takes one tick, so that the largest shape is the fastest.
    rate = measure_peak(LlamaForCausalLM(config), 5, clock=lambda: float(next(ticks)))
    assert rate == 2 * 5 * 8 * 24
