"""Correlations of the two ends of a connection, against numpy's own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.metric import Scores
from featherweight.core.task import Example, Task
from featherweight.metrics.correlation import Correlation

X = torch.randn(40, 2, 5, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(2, 4, 3, stride=2, groups=groups)
        self.fc = nn.Linear(16, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x).relu()
        hidden[:, 0] = 1.0  # ends that never change
        return self.fc(hidden.flatten(1))


def measured(net: nn.Module, name: str) -> Tensor:
    task = Task("t", Net, lambda: net, lambda: Example((X[:1],)), calibration=lambda: [(X[:25],), (X[25:],)])
    metric = Correlation().measure(Compressed(net), [name], task)[name]
    assert isinstance(metric, Scores)
    return metric.scores


def test_a_linear_layer_has_signed_correlations() -> None:
    net = Net()
    hidden = net.conv(X).relu().detach()
    hidden[:, 0] = 1.0
    inputs = hidden.flatten(1)
    scores = measured(net, "fc.weight")
    both = np.corrcoef(inputs[:, 4:].T.numpy(), net.fc(inputs).detach().T.numpy())
    torch.testing.assert_close(scores[:, 4:], torch.tensor(both[12:, :12]), rtol=1e-5, atol=1e-6)
    assert not bool(scores[:, :4].any())
    assert bool((scores > 0).any()) and bool((scores < 0).any())


def test_a_convolution_has_the_mean_over_locations_of_absolute_ones() -> None:
    net = Net()
    outputs, scores = net.conv(X).detach(), measured(net, "conv.weight")
    for o, i, v, h in [(0, 0, 0, 0), (1, 1, 2, 0), (3, 0, 1, 2)]:
        each = [
            abs(np.corrcoef(X[:, i, 2 * y + v, 2 * x + h].numpy(), outputs[:, o, y, x].numpy())[0, 1])
            for y in range(2)
            for x in range(2)
        ]
        assert float(scores[o, i, v, h]) == pytest.approx(sum(each) / 4, rel=1e-5)


def test_layers_without_known_inputs_or_data() -> None:
    with pytest.raises(SchemeError, match="several inputs"):
        measured(Net(groups=2), "conv.weight")
    with pytest.raises(TaskError, match=r"unused\.weight"):
        measured(Net(), "unused.weight")
