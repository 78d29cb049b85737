"""Channels cut layer by layer, front to back, as methods that fit what the next layer makes of them do."""

from featherweight.channels.rules import CutShare, MadeUp, StandIn
from featherweight.channels.scores import Only
from featherweight.core.stage import Stage, Training
from featherweight.search.channels import ChannelScore

LAYERS = {
    "digits": ("conv1.weight", "conv2.weight", "conv3.weight", "fc1.weight"),
    "mnist-lenet5": ("conv1.weight", "conv2.weight", "fc1.weight"),
    "cifar10-resnet20": tuple(f"layer{stage}.{block}.conv1.weight" for stage in (1, 2, 3) for block in range(3)),
}
"""What makes the channels, front to back; elsewhere all groups at once.

Of ResNet-20, what the blocks have inside: the channels that residual additions share are spared.
"""
SHARES = {"mnist-lenet5": 0.5, "cifar10-resnet20": 0.3}


def stages(
    task: str, score: ChannelScore, stand_in: StandIn, share: float | None, between: int, epochs: int
) -> tuple[Stage, ...]:
    """Cut ``share`` of every layer's channels and make up for it, with ``between`` epochs after a layer; then train."""
    cuts = (
        Stage(
            f"cut {layer}",
            edit=MadeUp(CutShare(share or SHARES.get(task, 0.4), Only(score, (layer,))), stand_in),
            training=Training(between, 5e-4) if between else None,
        )
        for layer in LAYERS.get(task, ("*",))
    )
    return (*cuts, Stage("train", training=Training(epochs, 1e-3)))
