"""Models of characters: their sizes, and that no place sees what comes behind it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight.architectures.characters import Attention, CharacterLSTM, CharacterTransformer
from featherweight.core.errors import SchemeError


def test_sizes() -> None:
    with torch.device("meta"):
        lstm, transformer = CharacterLSTM(), CharacterTransformer()
    gates = 4 * 256
    layers = gates * (64 + 256 + 2) + gates * (256 + 256 + 2)  # weights of inputs and states, two biases
    assert sum(p.numel() for p in lstm.parameters()) == 65 * 64 + layers + 256 * 65 + 65 == 876_929
    layer = 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 2 * 2 * 128
    embeddings = 65 * 128 + 128 * 128
    count = embeddings + 12 * layer + 2 * 128 + 128 * 65 + 65
    assert sum(p.numel() for p in transformer.parameters()) == count == 2_412_609


@pytest.mark.parametrize("model", [CharacterLSTM(9, 8, 16), CharacterTransformer(9, 16, 3, 4, 20)], ids=["lstm", "tf"])
def test_a_place_depends_on_what_is_before_it_and_on_all_of_that(model: nn.Module) -> None:
    model = model.double().eval()
    characters = torch.randint(0, 9, (2, 20))
    logits = model(characters)
    assert logits.shape == (2, 20, 9)
    changed = characters.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 9
    difference = (model(changed) - logits).abs().amax(dim=(0, 2))
    assert difference[:12].max() < 1e-12 and difference[12:].min() > 0
    torch.testing.assert_close(model(characters[:, :7]), logits[:, :7])


def test_attention_against_its_formula() -> None:
    attention = Attention(12, 3).double()
    states = torch.randn(2, 5, 12, dtype=torch.float64)
    query, key, value = (layer(states) for layer in (attention.query, attention.key, attention.value))
    mixed = torch.zeros(2, 5, 12, dtype=torch.float64)
    for n in range(2):
        for head in range(3):
            own = slice(4 * head, 4 * head + 4)
            for place in range(5):
                weights = (key[n, : place + 1, own] @ query[n, place, own] / math.sqrt(4)).softmax(0)
                mixed[n, place, own] = weights @ value[n, : place + 1, own]
    torch.testing.assert_close(attention(states), attention.output(mixed))


def test_a_new_transformer_knows_nothing() -> None:
    torch.manual_seed(0)
    characters = torch.randint(0, 65, (4, 128))
    logits = CharacterTransformer().eval()(characters)
    found = F.cross_entropy(logits.flatten(0, 1), torch.randint(0, 65, (512,)))
    assert found.item() == pytest.approx(math.log(65), abs=0.1)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SchemeError, match="5 heads cannot share a width of 128"):
        CharacterTransformer(heads=5)
