"""Architectures to cut: our own definitions, and those that ``timm`` and ``transformers`` build without weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.architectures import ResNetCifar
from featherweight.architectures.characters import CharacterLSTM, CharacterTransformer
from featherweight.architectures.efficientnet_lite import EfficientNetLite
from featherweight.architectures.lenet import LeNet5, LeNet300
from featherweight.core.task import Example


@dataclass(frozen=True)
class Entry:
    """How to make a model in small, what it takes, and the package that it is from."""

    make: Callable[[], nn.Module]
    example: Callable[[], Example]
    package: str = ""


def images(size: int, channels: int = 3, batch: int = 2) -> Callable[[], Example]:
    return lambda: Example((torch.rand(batch, channels, size, size),))


def convolution(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class Plain(nn.Sequential):
    """A chain that is flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            convolution(3, 12), convolution(12, 16, stride=2), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16 * 16, 24), nn.PReLU(24), nn.Linear(24, 5),
        )  # fmt: skip


class Dense(nn.Module):
    """Concatenations of all that came before (Huang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 8)
        self.layers = nn.ModuleList(convolution(8 + 6 * n, 6) for n in range(3))
        self.head = nn.Linear(26, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class Inception(nn.Module):
    """Branches side by side (Szegedy et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 9)
        self.one, self.three = convolution(9, 6, 1), nn.Sequential(convolution(9, 6, 1), convolution(6, 9))
        self.pool = convolution(9, 5, 1)
        self.head = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pool(F.avg_pool2d(x, 3, 1, 1))
        x = torch.cat([self.one(x), self.three(x), pooled], 1)
        return self.head(x).amax((2, 3))


class Inverted(nn.Module):
    """Inverted residuals with squeeze-and-excite gates (Sandler et al. 2018; Howard et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 8)
        self.wide, self.deep = convolution(8, 24, 1), convolution(24, 24, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.narrow, self.norm = nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.deep(self.wide(x))
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = x + self.norm(self.narrow(y))
        return self.head(F.hardswish(x).mean((-1, -2)))


class Shuffle(nn.Module):
    """Halves of which one is worked on, and a shuffle (Ma et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(convolution(8, 8, 1), convolution(8, 8, groups=8), convolution(8, 8, 1)) for _ in range(2)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            first, second = x.chunk(2, 1)
            x = torch.cat([first, block(second)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


class Ghost(nn.Module):
    """Cheap depthwise copies of channels (Han et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cheap = convolution(3, 10), convolution(10, 10, groups=10)
        self.second, self.head = convolution(20, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.second(torch.cat([x, self.cheap(x)], 1)).mean((2, 3)))


class Grouped(nn.Module):
    """Groups of several channels (Xie et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = convolution(3, 24, 1), convolution(24, 24, groups=4)
        self.last, self.head = convolution(24, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.middle(self.first(x))).mean((2, 3)))


class UNet(nn.Module):
    """Down and up again, with what was there before beside (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([convolution(3, 8), convolution(8, 12), convolution(12, 16)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)])
        self.merge = nn.ModuleList([convolution(24, 12), convolution(16, 8)])
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = []
        for number, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if number else x)
            before.append(x)
        for number, (up, merge) in enumerate(zip(self.up, self.merge, strict=True)):
            x = merge(torch.cat([up(x), before[1 - number]], 1))
        return self.head(x)


class Detector(nn.Module):
    """Features of two scales, upsampled and joined, and boxes at every place (Redmon and Farhadi 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = convolution(3, 10, stride=2), convolution(10, 14, stride=2)
        self.side, self.merge = convolution(14, 8, 1), convolution(18, 12)
        self.heads = nn.ModuleList([nn.Conv2d(12, 21, 1), nn.Conv2d(14, 21, 1)])

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        fine = self.merge(torch.cat([fine, F.interpolate(self.side(coarse), scale_factor=2.0)], 1))
        boxes = []
        for head, maps in zip(self.heads, (fine, coarse), strict=True):
            y = head(maps)
            n, _, h, w = y.shape
            boxes.append(y.view(n, 3, 7, h, w).permute(0, 1, 3, 4, 2).reshape(n, -1, 7).sigmoid())
        return torch.cat(boxes, 1)


class SuperResolution(nn.Module):
    """Channels become pixels (Shi et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convolution(3, 12), nn.Conv2d(12, 32, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(F.pixel_shuffle(self.second(self.first(x)), 2)))


class Fused(nn.Module):
    """A pre-norm encoder whose queries, keys and values come from one layer, with the number of heads in the code."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(6, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, s, _ = x.shape
        y = self.qkv(self.norms[0](x))
        q, k, v = y.reshape(n, s, 3, self.heads, y.shape[-1] // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(-1, -2) * 0.4, -1) @ v
        x = x + self.project(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(x.mean(1))


class Mixer(nn.Module):
    """Layers across positions and across channels (Tolstikhin et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.across, self.back = nn.Linear(16, 20), nn.Linear(20, 16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.back(F.gelu(self.across(self.norms[0](x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(x.mean(1))


class Gated(nn.Module):
    """A recurrent layer in both directions over an embedding, and a gate."""

    def __init__(self, cell: type[nn.RNNBase], bidirectional: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.cell = cell(12, 16, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(32 if bidirectional else 16, 10)
        self.last = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.glu(self.head(self.cell(self.embedding(x))[0])))


def tokens(vocabulary: int, length: int = 6) -> Callable[[], Example]:
    return lambda: Example((torch.arange(2 * length).reshape(2, length) % vocabulary,))


OWN: dict[str, Entry] = {
    "lenet-300-100": Entry(LeNet300, images(28, 1)),
    "lenet-5": Entry(LeNet5, images(28, 1)),
    "plain": Entry(Plain, images(16)),
    "resnet-20": Entry(lambda: ResNetCifar(20), images(32)),
    "dense": Entry(Dense, images(8)),
    "inception": Entry(Inception, images(8)),
    "inverted residual": Entry(Inverted, images(8)),
    "shuffle": Entry(Shuffle, images(8)),
    "ghost": Entry(Ghost, images(8)),
    "grouped": Entry(Grouped, images(8)),
    "u-net": Entry(UNet, images(16)),
    "detector": Entry(Detector, images(16)),
    "super-resolution": Entry(SuperResolution, images(8)),
    "fused attention": Entry(Fused, lambda: Example((torch.rand(2, 7, 6),))),
    "mixer": Entry(Mixer, images(16)),
    "lstm": Entry(lambda: Gated(nn.LSTM, True), tokens(20)),
    "gru": Entry(lambda: Gated(nn.GRU, False), tokens(20)),
    "encoder layers": Entry(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False
        ),
        lambda: Example((torch.rand(2, 5, 16),)),
    ),
    "efficientnet-lite0": Entry(lambda: EfficientNetLite(), images(64)),
    "character lstm": Entry(lambda: CharacterLSTM(), tokens(60)),
    "character transformer": Entry(lambda: CharacterTransformer(), tokens(60)),
}  # fmt: skip


def declare_torchvision() -> None:
    """Operators that a torchvision built for another torch asks for when it is imported; none of them is called."""
    if not DECLARED:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)


DECLARED: list[torch.library.Library] = []
"""They go when their library does."""


def _timm(name: str, size: int = 64, **settings: Any) -> Entry:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10, **settings)

    return Entry(make, images(size), "timm")


def _transformer(name: str, example: Callable[[], Example] | None = None, **settings: Any) -> Entry:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**settings)
        config.use_cache = False
        model: nn.Module = getattr(transformers, f"{name}Model")(config)
        return model

    return Entry(make, example or tokens(60), "transformers")


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}
FOREIGN: dict[str, Entry] = {
    "timm vgg11_bn": _timm("vgg11_bn"),
    "timm resnet18": _timm("resnet18"),
    "timm resnet50": _timm("resnet50"),
    "timm resnext50_32x4d": _timm("resnext50_32x4d"),
    "timm seresnet18": _timm("seresnet18"),
    "timm densenet121": _timm("densenet121"),
    "timm inception_v3": _timm("inception_v3", 96),
    "timm mobilenetv2_050": _timm("mobilenetv2_050"),
    "timm mobilenetv3_small_050": _timm("mobilenetv3_small_050"),
    "timm mnasnet_small": _timm("mnasnet_small"),
    "timm efficientnet_b0": _timm("efficientnet_b0"),
    "timm ghostnet_050": _timm("ghostnet_050"),
    "timm convnext_atto": _timm("convnext_atto"),
    "timm regnetx_002": _timm("regnetx_002"),
    "timm regnety_002": _timm("regnety_002"),
    "timm dla34": _timm("dla34"),
    "timm hrnet_w18_small": _timm("hrnet_w18_small"),
    "timm cspresnet50": _timm("cspresnet50"),
    "timm res2net50_26w_4s": _timm("res2net50_26w_4s"),
    "timm repvgg_a0": _timm("repvgg_a0"),
    "timm vit_tiny": _timm("vit_tiny_patch16_224", img_size=64),
    "timm deit_tiny": _timm("deit_tiny_patch16_224", img_size=64),
    "timm swin_tiny": _timm("swin_tiny_patch4_window7_224", 224),
    "timm mixer_s32": _timm("mixer_s32_224", 224),
    "timm poolformer_s12": _timm("poolformer_s12"),
    "timm mobilevit_xxs": _timm("mobilevit_xxs"),
    "timm levit_128s": _timm("levit_128s", 224),
    "Bert": _transformer("Bert", **SMALL),
    "DistilBert": _transformer("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=60),
    "Roberta": _transformer("Roberta", **SMALL),
    "Albert": _transformer("Albert", embedding_size=16, **SMALL),
    "Electra": _transformer("Electra", embedding_size=16, **SMALL),
    "GPT2": _transformer("GPT2", n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=16),
    "Llama": _transformer("Llama", num_key_value_heads=2, **SMALL),
    "Mistral": _transformer("Mistral", num_key_value_heads=2, **SMALL),
    "Qwen2": _transformer("Qwen2", num_key_value_heads=2, **SMALL),
    "OPT": _transformer("OPT", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, vocab_size=60,
                        max_position_embeddings=16, word_embed_proj_dim=32),
    "GPTNeoX": _transformer("GPTNeoX", **SMALL),
    "Phi": _transformer("Phi", **SMALL),
    "ViT": _transformer("ViT", images(32), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=48, image_size=32, patch_size=8),
}  # fmt: skip
ZOO = OWN | FOREIGN
