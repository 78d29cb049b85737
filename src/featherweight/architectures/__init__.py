"""Reference networks of the compression literature, each in one file with its source and its exact size."""

from featherweight.architectures.digits import DigitsNet
from featherweight.architectures.lenet import LeNet5, LeNet300
from featherweight.architectures.resnet_cifar import ResNetCifar

__all__ = ["DigitsNet", "LeNet5", "LeNet300", "ResNetCifar"]
