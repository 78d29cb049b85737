"""The sentence encoder: the mean over what the mask keeps, at length 1; and with the real encoder inside."""

import sys

import pytest
import torch
from torch import Tensor, nn

from featherweight.architectures.sentence_encoder import SentenceEncoder, minilm_bert
from featherweight.core.errors import TaskError


class Table(nn.Module):
    """Stands for an encoder: its states are an embedding of the tokens, whatever the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, return_dict: bool) -> object:
        return (self.embedding(input_ids),)


def test_the_formula() -> None:
    table = Table()
    tokens, lengths = torch.randint(0, 11, (3, 7)), [7, 2, 4]
    mask = torch.tensor([[1] * length + [0] * (7 - length) for length in lengths])
    found = SentenceEncoder(table)(tokens, mask, torch.zeros_like(tokens))
    for row, length in enumerate(lengths):
        mean = table.embedding.weight[tokens[row, :length]].mean(dim=0)
        torch.testing.assert_close(found[row], mean / mean.square().sum().sqrt())


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    pytest.importorskip("transformers", reason="transformers (extra `models`) is not installed")
    return SentenceEncoder(minilm_bert()).eval()


def batch(padding: int) -> dict[str, Tensor]:
    tokens = torch.tensor([[101, 2023, 2003, 102] + [0] * padding, [101, 2064, 2017, 102] + [0] * padding])
    mask = torch.tensor([[1] * 4 + [0] * padding] * 2)
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": torch.zeros_like(tokens)}


@torch.no_grad()
def test_size_lengths_and_padding(encoder: SentenceEncoder) -> None:
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    embeddings = (30_522 + 512 + 2) * 384 + 2 * 384
    assert sum(p.numel() for p in encoder.parameters()) == embeddings + 6 * layer == 22_565_376
    found = encoder(**batch(0))
    assert found.shape == (2, 384)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(encoder(**batch(5)), found, atol=1e-5, rtol=0)  # padding changes nothing


@torch.no_grad()
def test_it_can_be_traced(encoder: SentenceEncoder) -> None:
    traced = torch.export.export(encoder, (), batch(3)).module()
    torch.testing.assert_close(traced(**batch(3)), encoder(**batch(3)))


def test_without_transformers_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TaskError, match=r"pip install 'featherweight\[models\]'"):
        SentenceEncoder()
