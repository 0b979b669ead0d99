"""Product quantisation with k-means codebooks (Jégou, Douze and Schmid, PAMI 2011)."""

from __future__ import annotations

from zsbir.matchers import MATCHERS
from zsbir.matchers.one_to_many import OneToMany


@MATCHERS.register("kmeans-pq")
def kmeans_pq(
    subspaces: int = 8,
    clusters: int = 256,
    weight: float = 1.0,
    normalise: bool = True,
    seed: int = 0,
) -> OneToMany:
    """Product quantisation: k-means codes of M bytes a photo, asymmetric distances; for memory, not for accuracy.

    Args:
        subspaces: M; it must divide the width.
        clusters: K a sub-space.
        weight: Share of the codeword distance; below 1 the photos' vectors are kept too.
        normalise: Bring vectors to length 1 first.
        seed: Of the k-means start.

    Returns:
        A one-to-many matcher, whose codewords are k-means centres and whose distance looks at the codes alone.
    """
    return OneToMany(
        subspaces=subspaces, clusters=clusters, model="k-means", weight=weight, normalise=normalise, seed=seed
    )
