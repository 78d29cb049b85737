"""Papers as recipes. Only the command line looks them up by name."""

from collections.abc import Callable, Collection
from difflib import get_close_matches

from featherweight.core.errors import SelectionError
from featherweight.papers import (
    deep_compression,
    deeptwist,
    dorefa_net,
    drop_pruning,
    dsd,
    dynamic_network_surgery,
    gptq,
    gradual_pruning,
    han_pruning,
    hwgq,
    knowledge_distillation,
    lc_low_rank,
    lin_fixed_point_sqnr,
    lsq,
    mxnet_quantization,
    pact,
    pruning_filters,
    qat_jacob,
    qnn,
    ristretto,
    sun_sparse_face,
    tf_contrib_quantize,
    xnor_net,
)
from featherweight.papers.paper import Claim, Paper

PAPERS: dict[str, Callable[[], Paper]] = {
    "han-pruning": han_pruning.paper,
    "deep-compression": deep_compression.paper,
    "knowledge-distillation": knowledge_distillation.paper,
    "pruning-filters": pruning_filters.paper,
    "xnor-net": xnor_net.paper,
    "gradual-pruning": gradual_pruning.paper,
    "lsq": lsq.paper,
    "lc-low-rank": lc_low_rank.paper,
    "gptq": gptq.paper,
    "qat-jacob": qat_jacob.paper,
    "qnn": qnn.paper,
    "hwgq": hwgq.paper,
    "dorefa-net": dorefa_net.paper,
    "pact": pact.paper,
    "tf-contrib-quantize": tf_contrib_quantize.paper,
    "mxnet-quantization": mxnet_quantization.paper,
    "ristretto": ristretto.paper,
    "lin-fixed-point-sqnr": lin_fixed_point_sqnr.paper,
    "dynamic-network-surgery": dynamic_network_surgery.paper,
    "dsd": dsd.paper,
    "sun-sparse-face": sun_sparse_face.paper,
    "drop-pruning": drop_pruning.paper,
    "deeptwist": deeptwist.paper,
}

__all__ = ["PAPERS", "Claim", "Paper", "find"]


def find(name: str, also: Collection[str] = ()) -> Paper:
    """The paper of this name; ``also`` are names of other recipes that could have been meant."""
    if name in PAPERS:
        return PAPERS[name]()
    close = get_close_matches(name, [*PAPERS, *also], 1)
    meant = f"did you mean {close[0]}? " if close else ""
    others = f", and there is {', '.join(also)}" if also else ""
    raise SelectionError(f"there is no paper {name!r}; {meant}`featherweight papers` lists all {len(PAPERS)}{others}")
