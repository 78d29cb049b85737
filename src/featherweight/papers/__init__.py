"""Papers as recipes. Only the command line looks them up by name."""

from collections.abc import Callable, Collection
from difflib import get_close_matches

from featherweight.core.errors import SelectionError
from featherweight.papers import (
    binaryconnect,
    deep_compression,
    deeptwist,
    dettmers_8bit,
    dorefa_net,
    drop_pruning,
    dsd,
    dynamic_network_surgery,
    fixed_point_ternary_dnn,
    gptq,
    gradual_pruning,
    han_pruning,
    hessian_weighted_ecsq,
    hwgq,
    inq,
    knowledge_distillation,
    lc_framework,
    lc_low_rank,
    lc_pruning,
    lc_quantization,
    limited_numerical_precision,
    lin_fixed_point_sqnr,
    log_quantization,
    lognet,
    lsq,
    mf_dfp,
    mxnet_quantization,
    net_trim,
    optimal_brain_damage,
    optimal_brain_surgeon,
    pact,
    product_quantization,
    pruning_filters,
    q_cnn,
    qat_jacob,
    qnn,
    quantized_cnn_tnnls,
    rate_distortion_compression,
    ristretto,
    shiftcnn,
    soft_weight_sharing,
    statistical_nlu_compression,
    sun_sparse_face,
    ternary_weight_networks,
    tf_contrib_quantize,
    ttq,
    vector_quantization_cnn,
    watersic,
    xnor_net,
    zipml,
)
from featherweight.papers.paper import Claim, Paper

PAPERS: dict[str, Callable[[], Paper]] = {
    "han-pruning": han_pruning.paper,
    "deep-compression": deep_compression.paper,
    "knowledge-distillation": knowledge_distillation.paper,
    "pruning-filters": pruning_filters.paper,
    "binaryconnect": binaryconnect.paper,
    "limited-numerical-precision": limited_numerical_precision.paper,
    "inq": inq.paper,
    "xnor-net": xnor_net.paper,
    "gradual-pruning": gradual_pruning.paper,
    "lsq": lsq.paper,
    "lc-low-rank": lc_low_rank.paper,
    "lc-framework": lc_framework.paper,
    "lc-quantization": lc_quantization.paper,
    "lc-pruning": lc_pruning.paper,
    "soft-weight-sharing": soft_weight_sharing.paper,
    "gptq": gptq.paper,
    "watersic": watersic.paper,
    "qat-jacob": qat_jacob.paper,
    "qnn": qnn.paper,
    "hwgq": hwgq.paper,
    "dorefa-net": dorefa_net.paper,
    "pact": pact.paper,
    "tf-contrib-quantize": tf_contrib_quantize.paper,
    "mxnet-quantization": mxnet_quantization.paper,
    "ristretto": ristretto.paper,
    "lin-fixed-point-sqnr": lin_fixed_point_sqnr.paper,
    "ternary-weight-networks": ternary_weight_networks.paper,
    "ttq": ttq.paper,
    "fixed-point-ternary-dnn": fixed_point_ternary_dnn.paper,
    "log-quantization": log_quantization.paper,
    "lognet": lognet.paper,
    "shiftcnn": shiftcnn.paper,
    "mf-dfp": mf_dfp.paper,
    "dettmers-8bit": dettmers_8bit.paper,
    "hessian-weighted-ecsq": hessian_weighted_ecsq.paper,
    "zipml": zipml.paper,
    "product-quantization": product_quantization.paper,
    "vector-quantization-cnn": vector_quantization_cnn.paper,
    "q-cnn": q_cnn.paper,
    "quantized-cnn-tnnls": quantized_cnn_tnnls.paper,
    "optimal-brain-damage": optimal_brain_damage.paper,
    "optimal-brain-surgeon": optimal_brain_surgeon.paper,
    "net-trim": net_trim.paper,
    "rate-distortion-compression": rate_distortion_compression.paper,
    "statistical-nlu-compression": statistical_nlu_compression.paper,
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
