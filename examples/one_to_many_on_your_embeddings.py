"""One-to-many matching on embeddings from anywhere: no method, no images, no training.

    python one_to_many_on_your_embeddings.py                    # made here
    python one_to_many_on_your_embeddings.py embeddings.npz     # yours

The file has four arrays: `queries` (q, D), `gallery` (n, D), and their `query_labels` and `gallery_labels`, numbers or
names.
"""

import sys

import numpy as np

import zsbir
from zsbir.evaluation.embeddings import load_pair
from zsbir.matchers.base import Matcher


def example(file):
    dataset = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)
    method = zsbir.build("frozen", backbone={"name": "lite0", "image_size": 64}, pretrained=True)
    queries, gallery = zsbir.embed_split(method, dataset, dataset.test)
    np.savez(
        file,
        queries=queries.vectors,
        query_labels=queries.labels,
        gallery=gallery.vectors,
        gallery_labels=gallery.labels,
    )
    return file


queries, gallery = load_pair(sys.argv[1] if len(sys.argv) > 1 else example("embeddings.npz"))
print(f"{len(queries)} sketches, {len(gallery)} photos, {gallery.vectors.shape[1]} dimensions\n")

one_to_many = {"name": "one-to-many", "subspaces": 2, "model": "k-means"}
for matcher in ("cosine", {**one_to_many, "clusters": "auto"}, {**one_to_many, "clusters": 30}, "k-reciprocal"):
    report = zsbir.Evaluator("sbka", matcher, metrics=["mAP"], resamples=0).evaluate(queries, gallery)
    print(f"{report.results['sbka']['mAP@all']:.3f}  {report.matcher}")

# Fit once, keep it, and score new sketches later: higher is better.
zsbir.MATCHERS.build({**one_to_many, "clusters": 30}).fit(gallery).save("matcher")
scores = Matcher.load("matcher").scores(queries)
print(f"\nscores of {scores.shape[0]} sketches for {scores.shape[1]} photos from the folder 'matcher'")
