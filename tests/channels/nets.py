"""Small networks in float64 with nothing at zero, and their tasks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.task import Example, Task


class Mixed(nn.Module):
    """Convolutions with norms, a residual addition, a depthwise convolution, and a flatten into linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.conv3 = nn.Conv2d(6, 4, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(16, 7)
        self.fc2 = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        x = self.norm3(self.conv3(self.depthwise(x).relu())).relu()
        return self.fc2(self.fc1(x.flatten(1)).relu())


class Plain(nn.Module):
    """Two hidden layers of rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = model.double().eval()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            scale = 0.6 if tensor.ndim > 1 else 0.3
            value = torch.randn_like(tensor) * scale
            positive = name.endswith("running_var") or ("norm" in name and name.endswith("weight"))
            tensor.data.copy_(value.abs() + 0.3 if positive else value)
    return model


def task(model: nn.Module, shape: tuple[int, ...], samples: int = 12, batches: int = 2) -> Task:
    generator = torch.Generator().manual_seed(1)
    data = [
        (
            torch.randn(samples, *shape, generator=generator, dtype=torch.float64),
            torch.randint(3, (samples,), generator=generator),
        )
        for _ in range(batches)
    ]
    return Task(
        "small",
        lambda: model,
        lambda: model,
        lambda: Example((data[0][0][:2],)),
        train=lambda: data,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch[1]),
    )


def mixed() -> tuple[nn.Module, Task]:
    model = randomised(Mixed())
    return model, task(model, (1, 4, 4))


def plain() -> tuple[nn.Module, Task]:
    model = randomised(Plain())
    return model, task(model, (5,))
