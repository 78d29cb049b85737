"""Networks for the 8x8 digits of scikit-learn, small enough to be trained while one waits."""

from torch import Tensor, nn


class DigitsNet(nn.Module):
    """Three 3x3 convolutions and two fully connected layers. ``[n, 1, 8, 8]`` -> logits ``[n, 10]``.

    The plain pattern of Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition",
    ICLR 2015 (3x3 convolutions, ReLU, 2x2 max pooling), at the size of these images; no published network.

    72,842 parameters: conv1 288 + 32, conv2 18,432 + 64, conv3 36,864 + 64, fc1 16,384 + 64, fc2 640 + 10.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(256, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv1(images).relu()  # [n, 32, 8, 8]
        maps = self.pool(self.conv2(maps).relu())  # [n, 64, 4, 4]
        maps = self.pool(self.conv3(maps).relu())  # [n, 64, 2, 2]
        logits: Tensor = self.fc2(self.fc1(maps.flatten(1)).relu())
        return logits


class DigitsLSTM(nn.Module):
    """Two layers of long short-term memory that read an image row by row, and a linear layer on the last state.

    ``[n, 1, 8, 8]`` -> logits ``[n, 10]``. Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9(8),
    1997; no published network.

    52,874 parameters: lstm 18,944 + 33,280, head 650.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 64, 2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.lstm(images.flatten(1, 2))  # [n, 8, 64]
        logits: Tensor = self.head(states[:, -1])
        return logits
