"""A BERT encoder whose output is one vector a sentence.

Source: Reimers, Gurevych, "Sentence-BERT: sentence embeddings using Siamese BERT-networks", EMNLP 2019, arXiv
1908.10084; the encoder is that of Wang, Wei, Dong, Bao, Yang, Zhou, "MiniLM: deep self-attention distillation for
task-agnostic compression of pre-trained transformers", NeurIPS 2020, arXiv 2002.10957, with every second of its layers.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.errors import TaskError

VOCABULARY, WIDTH, POSITIONS = 30_522, 384, 512


def minilm_bert() -> nn.Module:
    """MiniLM-L6-H384 of the library ``transformers``, without the pooler: 22,565,376 parameters, untrained.

    30,522 words, 6 layers of width 384 with 12 heads, 1,536 inside, at most 512 tokens. Raises ``TaskError`` where
    ``transformers`` is not installed.
    """
    try:
        from transformers import BertConfig, BertModel
    except ImportError:
        raise TaskError(
            "the sentence encoder is built by transformers, which is not installed; install the extra that brings it: "
            "pip install 'featherweight[models]'"
        ) from None
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1_536,
        max_position_embeddings=POSITIONS,
        use_cache=False,
    )
    bert: nn.Module = BertModel(config, add_pooling_layer=False)
    return bert


class SentenceEncoder(nn.Module):
    """``y = m / ‖m‖`` with ``m`` the mean of the encoder's last states over the tokens that the mask keeps.

    ``input_ids``, ``attention_mask`` and ``token_type_ids``, integers ``[n, tokens]`` -> embeddings ``[n, 384]`` of
    length 1. The mask is 1 at tokens and 0 at padding. ``encoder`` is built by :func:`minilm_bert` if not given.
    """

    def __init__(self, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = minilm_bert() if encoder is None else encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        found: Any = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, return_dict=False
        )
        states: Tensor = found[0]
        kept = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * kept).sum(dim=1) / kept.sum(dim=1)
        return F.normalize(mean, dim=1)
