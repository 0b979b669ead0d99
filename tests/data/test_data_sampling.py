"""Plans: the right classes, the right frequencies, and the same for any number of processes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsbir.data.sampling import ByClass, mixed_plan, triplet_plan
from zsbir.errors import ZsbirError
from zsbir.types import Paths, Records, Split


def split_of(sketch_counts, photo_counts):
    def records(counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        labels = np.random.default_rng(0).permutation(labels)
        return Records("", Paths(str(i) for i in range(len(labels))), labels.astype(np.int64))

    names = tuple(f"class {i}" for i in range(len(sketch_counts)))
    return Split(records(sketch_counts), records(photo_counts), names)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=6),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_triplets_have_the_classes_they_should(counts, batch, epoch):
    split = split_of([s for s, _ in counts], [p for _, p in counts])
    if len(split.sketches) < batch:
        return
    plan = triplet_plan(split, batch, seed=1, epoch=epoch)
    anchor = split.sketches.labels[plan.sketch]
    assert (split.photos.labels[plan.photo] == anchor).all()
    assert (split.photos.labels[plan.negative] != anchor).all()
    assert len(np.unique(plan.sketch)) == plan.sketch.size  # every sketch at most once


def test_negative_classes_follow_their_weights():
    split = split_of([40, 40, 40], [5, 5, 5])
    weights = np.array([[9.0, 1.0, 3.0], [1.0, 9.0, 1.0], [0.0, 1.0, 9.0]])
    plan = triplet_plan(split, 10, seed=0, epoch=0, samples=12000, negative_weights=weights)
    anchor, other = split.sketches.labels[plan.sketch].ravel(), split.photos.labels[plan.negative].ravel()
    share = [(other[anchor == 0] == c).mean() for c in range(3)]
    assert share == pytest.approx([0, 0.25, 0.75], abs=0.03)
    assert (other[anchor == 2] == 1).all()


def test_positives_are_uniform_within_their_class():
    by_class = ByClass(np.array([1, 0, 1, 1, 0], dtype=np.int64), 2)
    drawn = by_class.draw(np.ones(9000, dtype=np.int64), np.random.default_rng(0))
    assert np.bincount(drawn, minlength=5) / 9000 == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3, 0], abs=0.03)


def test_processes_share_one_plan():
    split = split_of([20, 20], [7, 9])
    whole = triplet_plan(split, 8, seed=3, epoch=2)
    parts = [triplet_plan(split, 8, seed=3, epoch=2).share(rank, 2) for rank in range(2)]
    for name in ("sketch", "photo", "negative"):
        assert np.array_equal(np.concatenate([getattr(p, name) for p in parts], axis=1), getattr(whole, name))
    assert not np.array_equal(whole.sketch, triplet_plan(split, 8, seed=3, epoch=3).sketch)


def test_mixed_batches_have_their_shares_and_end_with_the_shorter_domain():
    split = split_of([30, 30], [50, 90])
    plan = mixed_plan(split, 9, 1 / 3, seed=0, epoch=0)
    assert plan.sketch.shape == (20, 3)
    assert plan.photo.shape == (20, 6)
    assert len(np.unique(plan.photo)) == 120


def test_mixed_batches_are_drawn_anew_each_epoch():
    split = split_of([30, 30], [50, 90])
    first, again, other = (mixed_plan(split, 9, 1 / 3, seed=0, epoch=epoch) for epoch in (0, 0, 1))
    for domain in ("sketch", "photo"):
        assert np.array_equal(getattr(first, domain), getattr(again, domain))
        assert not np.array_equal(getattr(first, domain), getattr(other, domain))


@pytest.mark.parametrize(("samples", "steps"), [(9, 1), (26, 2), (27, 3), (900, 100), (3, 1)])
def test_mixed_epochs_have_as_many_images_as_asked_for(samples, steps):
    plan = mixed_plan(split_of([30, 30], [50, 90]), 9, 1 / 3, seed=0, epoch=0, samples=samples)
    assert plan.sketch.shape == (steps, 3)
    assert plan.photo.shape == (steps, 6)
    # More than there are: whole rounds, so that no image comes twice before each came once.
    for drawn, size in ((plan.sketch, 60), (plan.photo, 140)):
        counts = np.bincount(drawn.ravel(), minlength=size)
        assert counts.max() - counts.min() <= 1


def test_anchors_by_class_are_even_over_the_classes():
    counts = [50, 100, 400, 1000, 10, 2]
    split = split_of([*counts, 0], [3] * 7)  # the last class has photos alone: it is nobody's anchor
    shares = {}
    for anchor in ("class", "sketch"):
        plan = triplet_plan(split, 2, seed=0, epoch=0, samples=12000, anchor=anchor)
        labels = split.sketches.labels[plan.sketch]
        assert (split.photos.labels[plan.photo] == labels).all()
        assert (split.photos.labels[plan.negative] != labels).all()
        shares[anchor] = np.bincount(labels.ravel()) / 12000
        within = np.bincount(plan.sketch[labels == 5], minlength=len(split.sketches))
        assert within[split.sketches.labels == 5] == pytest.approx([within.sum() / 2] * 2, rel=0.15)
    assert shares["class"] == pytest.approx([1 / 6] * 6, abs=0.015)
    assert shares["sketch"] == pytest.approx(np.array(counts) / 1562, abs=0.01)


def test_impossible_plans_are_refused():
    with pytest.raises(ZsbirError, match="at least 2 classes"):
        triplet_plan(split_of([5], [5]), 2, 0, 0)
    with pytest.raises(ZsbirError, match="one batch needs 30 sketches, and an epoch has 10"):
        triplet_plan(split_of([5, 5], [5, 5]), 30, 0, 0)
    with pytest.raises(ZsbirError, match="negative weights"):
        triplet_plan(split_of([5, 5], [5, 5]), 2, 0, 0, negative_weights=np.zeros((2, 2)))
