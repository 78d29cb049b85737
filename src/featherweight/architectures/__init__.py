"""Reference networks of the compression literature, each in one file with its source and its exact size."""

from featherweight.architectures.characters import CharacterLSTM, CharacterTransformer
from featherweight.architectures.digits import DigitsNet
from featherweight.architectures.efficientnet_lite import EfficientNetLite
from featherweight.architectures.lenet import LeNet5, LeNet300
from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.architectures.sentence_encoder import SentenceEncoder

__all__ = [
    "CharacterLSTM",
    "CharacterTransformer",
    "DigitsNet",
    "EfficientNetLite",
    "LeNet5",
    "LeNet300",
    "ResNetCifar",
    "SentenceEncoder",
]
