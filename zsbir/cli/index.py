"""Index photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from zsbir.cli._options import SpeedOptions, assignments, print_skipped
from zsbir.errors import ZsbirError


def index(
    out: Annotated[Path, arg(aliases=["-o"])],
    photos: Annotated[Path | None, Positional] = None,
    model: Annotated[str | None, arg(aliases=["--backbone"])] = None,
    store: str | None = None,
    set: tuple[str, ...] = (),
    matcher: str | None = None,
    from_embeddings: Path | None = None,
    merge: tuple[Path, ...] = (),
    remove: tuple[str, ...] = (),
    prune: bool = False,
    links: bool = False,
    work: SpeedOptions = SpeedOptions(),
) -> None:
    """Index a folder of photos, to find them by drawing. Run it again to continue, to add a folder, or after changes.

    Photos that vanished from a folder are removed from the index, unless they are more than a tenth of it.

    Example: zsbir index PHOTOS -o my.index

    Args:
        out: The index; one that exists is added to.
        photos: A folder (searched at any depth), or a text file with a path a line. Default: all that the index has.
        model: A run folder of `zsbir train`, or a method or backbone by name; default: CLIP, or a small
            one where its weights cannot be downloaded.
        store: Where vectors are kept: exact (default), faiss, milvus. Of a new index only.
        set: Settings of the store, key=value: kind=hnsw. Of a new index only.
        matcher: Also fit this matcher on all photos, for `zsbir search --matcher`.
        from_embeddings: What `zsbir embed` wrote, in place of photos; --model is the one that embedded them.
        merge: Indexes of the same model to add, in place of photos.
        remove: Photos and folders to take out of the index, in place of photos to add.
        prune: Remove all photos whose files are gone, however many, and those of a folder that is gone.
        links: Follow links that lead out of the folder.
        work: How images are embedded.
    """
    from zsbir.matchers import MATCHERS
    from zsbir.methods.embedding import as_device
    from zsbir.search.bulk import index_embeddings, merge_indexes
    from zsbir.search.index import Index, record_of
    from zsbir.search.stores import STORES

    if matcher is not None:
        MATCHERS.build(matcher)  # a wrong name is refused before the work
    spec = {"name": store or "exact", **assignments(set, "--set")}
    how: dict[str, Any] = {**work.options(), "progress": True, "links": links}
    where = str(as_device(how.pop("device")))
    there = (out / "index.json").is_file()
    instead = [name for name, value in (
        ("--from-embeddings", from_embeddings), ("--merge", merge), ("--remove", remove),
    ) if value]  # fmt: skip
    if len(instead) > 1 or (instead and (photos is not None or prune or links)):
        raise ZsbirError(f"{instead[0]} stands alone: leave out the photos, --prune, --links and the like")
    if there and (store or set) and STORES.build(spec).spec != (kept := record_of(out)["store"]):
        raise ZsbirError(f"{out} keeps its vectors in {kept}: --store and --set are for new ones")
    if from_embeddings is not None:
        opened = index_embeddings(model, from_embeddings, out, store=spec, device=where, progress=True)
    elif merge:
        if model is not None:
            raise ZsbirError("--merge takes the model of the indexes: leave --model out")
        opened = merge_indexes(merge, out, store=spec if store or set else None, device=where, progress=True)
    elif remove:
        opened = Index.load(out, model, where, repair=True)
        removed = opened.remove(remove)
        if not removed:
            raise ZsbirError(f"{out} holds nothing of what --remove names: give paths as `zsbir search` prints them")
        print(f"{removed} photos removed")
    elif there:
        opened = Index.load(out, model, where, repair=True)
        changes = opened.update(photos, prune=prune, **how)
        print(
            f"{changes.same} photos as before, {len(changes.new) + len(changes.copies)} new or changed, "
            f"{len(changes.vanished)} removed"
        )
        if changes.kept:
            print(f"{len(changes.kept)} photos are gone from the disk and stay in the index: --prune removes them")
    elif photos is None or prune:
        raise ZsbirError(f"{out} is no index yet: name the photos, and leave --prune out")
    else:
        opened = Index.build(model, photos, out, store=spec, device=where, **how)
    if matcher is not None:
        opened.fit_matcher(matcher)
    skipped = opened.skipped()
    print_skipped(skipped)
    print(f"{len(opened)} photos in {out}, {len(skipped)} files skipped")
    print(f"next: zsbir search {out} SKETCH.png, or draw: zsbir serve {out}")
    opened.close()
