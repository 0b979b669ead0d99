"""Protocols: every published definition of mAP@k and P@k in ZS-SBIR, by name.

``G`` is the number of photos in the gallery, ``R`` the number of those relevant to a query, ``k`` a cut-off. A number
without its protocol cannot be compared: on one and the same ranking mAP@100 may be 0.46 by one definition and 0.87 by
another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zsbir.registry import Registry

AP = Literal["exact", "voc"]
TieRule = Literal["expectation", "mean-position", "grouped"]
CutAP = Literal["min(R, k)", "hits"]
CutPrecision = Literal["k", "min(k, G)", "min(k, R)", "top min(k, R)"]
Average = Literal["query", "class"]


@dataclass(frozen=True)
class Protocol:
    """One published way to turn rankings into mAP@all, mAP@k and P@k.

    Attributes:
        name: Its name in the registry.
        ap: ``"exact"``: mean over relevant photos of the precision at their rank. ``"voc"``: the same with the
            precision at a rank replaced by the highest precision at that rank or below (Pascal VOC).
        ties: What photos of equal score do, so that no result depends on the order of the gallery.
            ``"expectation"``: the mean over all orders of the tie, exactly. ``"mean-position"``: each relevant photo
            of a tie takes its mean position over these orders (for releases that leave ties to ``argsort``).
            ``"grouped"``: a tie is one threshold, as in scikit-learn. P@k is always the mean over all orders.
        ap_at: What the sum over the first k photos is divided by: ``"min(R, k)"``, or the ``"hits"`` among them.
            None: the release has no AP@k, and none is reported.
        precision_at: Denominator of P@k. ``"top min(k, R)"`` shortens the list itself: the share of relevant photos
            among the first ``min(k, R)``. None: the release has no P@k.
        average: Mean over queries, or per class first and then over classes.
        used_by: Who evaluates so, and where that is written.
        definition: What `describe` says, where the fields above do not tell it.
    """

    name: str
    ap: AP
    ties: TieRule
    ap_at: CutAP | None
    precision_at: CutPrecision | None
    average: Average
    used_by: str
    definition: str = ""

    def describe(self) -> str:
        """Return the definition in one line, as reports print it."""
        if self.definition:
            return self.definition
        kind = "exact AP" if self.ap == "exact" else "VOC-interpolated AP"
        at = f"AP@k over {self.ap_at}" if self.ap_at else "no AP@k"
        precision = f"P@k over {self.precision_at}" if self.precision_at else "no P@k"
        mean = "mean over queries" if self.average == "query" else "mean per class, then over classes"
        return f"{kind}; {at}; {precision}; {mean}; ties: {self.ties}"


PROTOCOLS: Registry[Protocol] = Registry("protocol", "zsbir.evaluation", f"{__name__}:Protocol")
"""All protocols by name."""


@PROTOCOLS.register("standard")
def standard() -> Protocol:
    """Exact AP, AP@k over min(R, k), P@k over k, mean over queries, exact expectation over ties.

    zsbir's own default: the textbook definition (equal to scikit-learn's average precision where no scores tie). With
    ``R >= k`` it keeps mAP@k <= P@k. Ties count with the mean over all their orders (McSherry and Najork, ECIR 2008).
    """
    return Protocol("standard", "exact", "expectation", "min(R, k)", "k", "query", "zsbir; the textbook definition")


@PROTOCOLS.register("standard-macro")
def standard_macro() -> Protocol:
    """As ``standard``, but the mean is taken per class first and then over classes.

    For long-tailed sets, where a few classes hold most queries.
    """
    return Protocol("standard-macro", "exact", "expectation", "min(R, k)", "k", "class", "zsbir; long-tailed sets")


@PROTOCOLS.register("sbka")
def sbka() -> Protocol:
    """VOC-interpolated AP, AP@k over min(R, k), P@k over min(k, G), mean per class and then over classes.

    Used by SBKA (arXiv 2312.10320), whose release evaluates with SAKE's code.
    """
    source = "SBKA (arXiv 2312.10320), release"
    return Protocol("sbka", "voc", "mean-position", "min(R, k)", "min(k, G)", "class", source)


@PROTOCOLS.register("sake")
def sake() -> Protocol:
    """VOC-interpolated AP, AP@k over min(R, k), P@k over min(k, G), mean per class and then over classes.

    Used by SAKE (Liu et al., ICCV 2019, github.com/qliu24/SAKE, the zero-shot test scripts) and its successors.
    """
    source = "SAKE (ICCV 2019), release, test scripts"
    return Protocol("sake", "voc", "mean-position", "min(R, k)", "min(k, G)", "class", source)


@PROTOCOLS.register("zse")
def zse() -> Protocol:
    """VOC-interpolated AP, AP@k over min(R, k), P@k within the first min(k, R), mean over queries.

    Used by ZSE-SBIR (Lin et al., CVPR 2023, github.com/buptLinfy/ZSE-SBIR, ``utils/ap.py``). Its P@k shortens the
    list where a class has fewer than k photos, so it is above the P@k of all others there.
    """
    source = "ZSE-SBIR (CVPR 2023), release, utils/ap.py"
    return Protocol("zse", "voc", "mean-position", "min(R, k)", "top min(k, R)", "query", source)


@PROTOCOLS.register("puxim")
def puxim() -> Protocol:
    """Exact AP, AP@k over the hits inside the top k, no P@k, mean over queries.

    Used by PuXIM's release, through torchmetrics' retrieval AP with ``top_k``: a query with one hit, at rank 1, scores
    1.0. The release passes scores that are never positive; torchmetrics from 1.7.4 on counts those as irrelevant and
    prints 0.0. zsbir gives what the definition says.
    """
    return Protocol("puxim", "exact", "mean-position", "hits", None, "query", "PuXIM, release (torchmetrics)")


@PROTOCOLS.register("dann")
def dann() -> Protocol:
    """scikit-learn's AP, mean over queries; no cut-offs.

    Used by the domain-adversarial DANN release, on 1 / distance (the same ranking as -distance); it also prints the
    mean of each class.
    """
    return Protocol("dann", "exact", "grouped", None, None, "query", "DANN, release (scikit-learn)")


@PROTOCOLS.register("doodle2search")
def doodle2search() -> Protocol:
    """scikit-learn's AP, AP@k over the hits inside the top k, P@k over min(k, R), mean over queries.

    Used by Doodle to Search (Dey et al., CVPR 2019, github.com/sounakdey/doodle2search, ``src/test.py``, ``utils.py``:
    AP@k there is scikit-learn's on the first k alone).
    """
    source = "Doodle to Search (CVPR 2019), release, src/test.py and src/utils.py"
    return Protocol("doodle2search", "exact", "grouped", "hits", "min(k, R)", "query", source)


@PROTOCOLS.register("sem-pcyc")
def sem_pcyc() -> Protocol:
    """scikit-learn's AP, AP@k over the hits inside the top k, P@k over min(k, G), mean over queries.

    Used by SEM-PCYC (Dutta and Akata, CVPR 2019, github.com/AnjanDutta/sem-pcyc, ``src/utils.py``: AP@k there is
    scikit-learn's on the first k alone, 0 without a hit).
    """
    source = "SEM-PCYC (CVPR 2019), release, src/utils.py"
    return Protocol("sem-pcyc", "exact", "grouped", "hits", "min(k, G)", "query", source)
