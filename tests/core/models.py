"""Small models of many kinds, with an example input each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Tied(nn.Module):
    """An embedding whose weight is also the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mix(self.embed(tokens)).tanh())
        return logits

    def generate(self, token: Tensor, steps: int = 3) -> Tensor:
        """An entry point other than ``forward``."""
        found = [token]
        for _ in range(steps):
            found.append(self(found[-1]).argmax(-1))
        return torch.stack(found)

    def loss_of(self, tokens: Tensor) -> Tensor:
        return self(tokens).square().mean()


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(images)).relu().mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(3, 4, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, 2)

    def forward(self, steps: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cell(steps)[0][:, -1])
        return logits


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, steps: Tensor) -> Tensor:
        mixed: Tensor = self.attention(steps, steps, steps, need_weights=False)[0]
        return mixed


class Bare(nn.Module):
    """Parameters without a module of torch's around them, in a list, of 0 to 3 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 3))
        self.many = nn.ParameterList([torch.randn(3, 3), torch.randn(3)])
        self.cube = nn.Parameter(torch.randn(2, 3, 3))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        for matrix in (self.matrix, self.many[0], *self.cube):
            x = x @ matrix + self.many[1]
        return x * self.scale


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), images(3, 6)),
    "conv 1d": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh()), images(3, 2, 8)),
    "grouped conv 2d": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Tanh()), images(3, 4, 5, 5)),
    "conv 3d": (lambda: nn.Sequential(nn.Conv3d(2, 2, 2), nn.Tanh()), images(3, 2, 3, 3, 3)),
    "transposed conv 1d": (lambda: nn.Sequential(nn.ConvTranspose1d(2, 4, 3), nn.Tanh()), images(3, 2, 8)),
    "transposed conv 2d": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.Tanh()), images(3, 2, 5, 5)),
    "transposed conv 3d": (lambda: nn.Sequential(nn.ConvTranspose3d(2, 2, 2), nn.Tanh()), images(3, 2, 3, 3, 3)),
    "batch norm": (Norm, images(3, 2, 5, 5)),
    "tied embedding": (Tied, torch.arange(6).reshape(2, 3)),
    "lstm": (lambda: Recurrent(nn.LSTM), images(2, 5, 3)),
    "gru": (lambda: Recurrent(nn.GRU), images(2, 5, 3)),
    "rnn": (lambda: Recurrent(nn.RNN), images(2, 5, 3)),
    "attention": (Attention, images(2, 5, 4)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), images(2, 5, 4)),
    "bare parameters": (Bare, images(2, 3)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """The model with weights of a fixed seed, and its input."""
    build, inputs = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(), inputs
