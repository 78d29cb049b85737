"""Networks of the kinds that engines must take, with an example and inputs of another batch size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featherweight.architectures.digits import DigitsNet
from featherweight.core.task import Example


class Residual(nn.Module):
    """Convolutions with batch norm, a sum, a concatenation, a mean. ``[n, 3, 8, 8]`` -> ``[n, 5]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        joined = torch.cat([x + self.left(x), self.right(x)], dim=1)
        logits: Tensor = self.head(joined.relu().mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    """``[n, 6, 10]`` -> the last state of an LSTM, through a linear layer ``[n, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, series: Tensor) -> Tensor:
        states, _ = self.lstm(series)
        logits: Tensor = self.head(states[:, -1])
        return logits


class Attending(nn.Module):
    """One encoder layer over token numbers ``[n, 7]`` -> ``[n, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.embed(tokens)).mean(1))
        return logits


class TwoOfEach(nn.Module):
    """Two inputs, one by keyword, and a mapping of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        return {"total": self.linear(first) + second, "other": first.sum(1)}


@dataclass(frozen=True)
class Net:
    build: Callable[[], nn.Module]
    example: Example
    inputs: tuple[Tensor, ...]

    def model(self) -> nn.Module:
        """With random parameters and statistics, the same every time, in evaluation mode."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
        return model.eval()


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _tokens(n: int) -> Tensor:
    return torch.randint(20, (n, 7), generator=torch.Generator().manual_seed(1))


NETS = {
    "digits": Net(DigitsNet, Example((_random(1, 1, 8, 8),)), (_random(5, 1, 8, 8),)),
    "residual": Net(Residual, Example((_random(1, 3, 8, 8),)), (_random(5, 3, 8, 8),)),
    "recurrent": Net(Recurrent, Example((_random(2, 6, 10),)), (_random(5, 6, 10),)),
    "attending": Net(Attending, Example((_tokens(1),)), (_tokens(5),)),
    "two of each": Net(
        TwoOfEach, Example((_random(1, 5),), {"second": _random(1, 5)}), (_random(4, 5), _random(4, 5) + 1)
    ),
}  # fmt: skip
