"""The two networks on which most compression papers report first: LeNet-300-100 and LeNet-5.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proceedings of the
IEEE 86(11), 1998. LeNet-5 is meant here, as in the compression literature since Han, Pool, Tran, Dally, "Learning both
weights and connections for efficient neural networks", NeurIPS 2015, in the wider variant that Caffe ships as its MNIST
example, not the 60,000 parameters of 1998.
"""

from torch import Tensor, nn


class LeNet300(nn.Module):
    """LeNet-300-100: 784-300-100-10 with ReLU between. ``[n, 1, 28, 28]`` or ``[n, 784]`` -> logits ``[n, 10]``.

    266,610 parameters: fc1 235,200 + 300, fc2 30,000 + 100, fc3 1,000 + 10.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.fc1(images.flatten(1)).relu()
        hidden = self.fc2(hidden).relu()
        logits: Tensor = self.fc3(hidden)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe: two 5x5 convolutions, each with 2x2 max pooling, and 800-500-10 on top.

    ``[n, 1, 28, 28]`` -> logits ``[n, 10]``. Caffe's network has a ReLU after fc1 only: behind the convolutions, max
    pooling is the only non-linearity.

    431,080 parameters: conv1 500 + 20, conv2 25,000 + 50, fc1 400,000 + 500, fc2 5,000 + 10.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.conv1(images))
        maps = self.pool(self.conv2(maps))
        logits: Tensor = self.fc2(self.fc1(maps.flatten(1)).relu())
        return logits
