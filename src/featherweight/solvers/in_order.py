"""The scheme's own projection, one parameter after another."""

from dataclasses import dataclass

from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.metric import Metric
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector


@dataclass(frozen=True)
class InOrder(Projector):
    """Each parameter by its scheme alone, in the metric behind what was projected before it.

    Without a projector all metrics of a stage are measured before anything is projected.
    """

    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        return scheme.project(w, metric)
