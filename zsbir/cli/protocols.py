"""Published evaluation protocols: their definitions, and which can have produced a pair of numbers."""

from __future__ import annotations


def list_() -> None:
    """Print every protocol with its definition and who uses it.

    Example: zsbir protocols list
    """
    from zsbir.evaluation.protocols import PROTOCOLS

    for name in PROTOCOLS.names():
        protocol = PROTOCOLS.build(name)
        print(f"{name}\n  {protocol.describe()}\n  used by: {protocol.used_by}")


def explain(map: float, prec: float, k: int, tolerance: float = 0.0005) -> None:
    """Say which protocols can have produced a published pair of mAP@k and P@k.

    With the denominators min(R, k) and k, mAP@k cannot be above P@k where every class has at least k photos; a pair
    that breaks this comes from another protocol.

    Example: zsbir protocols explain --map 0.805 --prec 0.768 --k 200

    Args:
        map: The published mAP@k, in [0, 1].
        prec: The published P@k, in [0, 1].
        k: The cut-off of both.
        tolerance: Half of the last published digit.
    """
    from zsbir.evaluation.consistency import consistent
    from zsbir.evaluation.consistency import explain as explanations

    found = explanations(map, prec, k, tolerance)
    if not consistent(map, prec, tolerance):
        print(f"mAP@{k} = {map} is above P@{k} = {prec}: with min(R, {k}) and {k} as denominators this cannot be where")
        print(f"every query has at least {k} relevant photos.\n")
    width = max(len(e.protocol) for e in found)
    for e in found:
        bounds = "" if e.verdict == "undefined" else f"   mAP@{k} from {e.low:.3f} to {e.high:.3f} if all R >= {k}"
        print(f"{e.protocol:<{width}}  {_WORDS[e.verdict].format(k=k):<55}{bounds}".rstrip())


_WORDS = {
    "possible": "possible",
    "only with small classes": "only if some queries have fewer than {k} relevant photos",
    "impossible": "impossible",
    "undefined": "its release has no such pair",
}

COMMANDS = {"list": list_, "explain": explain}
