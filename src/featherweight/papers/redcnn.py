"""Beyond filters: compact feature maps (Wang, Xu, Xu and Tao 2017)."""

from featherweight.channels.compact import CompactMaps
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "Beyond Filters: Compact Feature Map for Portable Deep Model",
    "Wang, Xu, Xu and Tao",
    2017,
    url="http://proceedings.mlr.press/v70/wang17m/wang17m.pdf",
)
DEVIATIONS = (
    "only the abstract was at hand; formulas are from memory or ours",
    "the circulant matrix mixes the maps of a layer, one entry for each map at every position; it is orthogonal, so "
    "that distances are lost by what is cut alone, and it is found by ascents on its phases that put as much energy "
    "as can be into the maps that stay, in place of the paper's alternating minimisation with a penalty of rows",
    "filters are mixed exactly, since a layer's maps are linear in them; least squares are for what reads the maps, "
    "behind the non-linearity",
    "the same share of every layer, front to back; layers before norms, and maps that residual additions share, stay",
)
LAYERS = {
    "mnist-lenet300": ("fc1.weight", "fc2.weight"),
    "mnist-lenet5": ("conv1.weight", "conv2.weight", "fc1.weight"),
    "digits": ("conv1.weight", "conv2.weight", "conv3.weight", "fc1.weight"),
}
"""What makes the maps, front to back; elsewhere all that can be, in one stage."""
SHARES = {"mnist-lenet300": 0.5, "digits": 0.4}
EPOCHS = {"mnist-lenet300": 8, "digits": 20}


def recipe(task: str = "", *, share: float | None = None, circulant: bool = True, epochs: int | None = None) -> Recipe:
    """Mix the maps of each layer, cut ``share`` of them, fit the layer behind; then all learn."""
    part = share or SHARES.get(task, 0.4)
    cuts = tuple(
        Stage(f"compact {layer}", edit=CompactMaps(part, (layer,), circulant)) for layer in LAYERS.get(task, ("*",))
    )
    length = EPOCHS.get(task, 4) if epochs is None else epochs
    learn = (Stage("learn", training=Training(length, 1e-3)),) if length else ()
    return Recipe("redcnn-feature-map-compact", (*cuts, *learn), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "redcnn-feature-map-compact",
        REFERENCE,
        "Embed the feature maps of a layer in fewer that keep the distances between samples, by a circulant matrix; "
        "reconfigure the filters so that they make the compact maps directly.",
        (
            Claim(
                "benchmark image data sets",
                "significantly fewer parameters with the intrinsic information preserved; superior to methods then "
                "known",
                "abstract",
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
