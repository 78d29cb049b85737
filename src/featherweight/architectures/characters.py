"""Two language models of characters: a recurrent one and a transformer. ``[n, t]`` numbers -> logits ``[n, t, kinds]``.

Logits at a place are of the character behind it, and depend on the characters up to this place alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.errors import SchemeError


class CharacterLSTM(nn.Module):
    """An embedding, layers of long short-term memory, and a linear layer over the kinds of characters.

    Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997; as a model of characters, Graves,
    "Generating sequences with recurrent neural networks", 2013, arXiv 1308.0850. Every sequence starts from a state of
    zeros. Dropout is between the layers and behind the last one.

    876,929 parameters: embedding 4,160, lstm 329,728 + 526,336, head 16,705.
    """

    def __init__(
        self, kinds: int = 65, embedded: int = 64, width: int = 256, layers: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(kinds, embedded)
        self.lstm = nn.LSTM(embedded, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, kinds)

    def forward(self, characters: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(characters))
        logits: Tensor = self.head(self.dropout(states))
        return logits


class Attention(nn.Module):
    """Causal self-attention of several heads: ``[n, t, width]`` -> the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (
            layer(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # [n, heads, t, width / heads]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        outer: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return outer


class Layer(nn.Module):
    """Attention and a network of two linear layers, each behind a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.inner_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.dropout(self.attention(self.attention_norm(states)))
        outer: Tensor = states + self.dropout(self.outer(F.gelu(self.inner(self.inner_norm(states)))))
        return outer


class CharacterTransformer(nn.Module):
    """A causal transformer with learned positions, normalisation before each part, and GELU.

    Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv 1706.03762, in the form of Radford, Wu, Child,
    Luan, Amodei, Sutskever, "Language models are unsupervised multitask learners", 2019, with its starting weights:
    normal with deviation 0.02, and ``0.02 / sqrt(2 layers)`` where a part ends in the shortcut. Nothing is tied;
    dropout is behind the embeddings and behind each part.

    2,412,609 parameters: embeddings 8,320 + 16,384, twelve layers of 198,272, norm 256, head 8,385. Sequences have
    ``context`` characters at most.
    """

    def __init__(
        self,
        kinds: int = 65,
        width: int = 128,
        layers: int = 12,
        heads: int = 4,
        context: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise SchemeError(f"{heads} heads cannot share a width of {width}; take a divisor of it")
        self.embedding = nn.Embedding(kinds, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, kinds)
        for name, parameter in self.named_parameters():
            if name.endswith((".attention.output.weight", ".outer.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def forward(self, characters: Tensor) -> Tensor:
        places = torch.arange(characters.shape[1], device=characters.device)
        states = self.dropout(self.embedding(characters) + self.position(places))
        for layer in self.layers:
            states = layer(states)
        logits: Tensor = self.head(self.norm(states))
        return logits
