"""Index a folder of photos and find them by drawing.

python index_and_search.py                  # photos made here
python index_and_search.py ~/Pictures       # yours
"""

import sys
from pathlib import Path

import zsbir
from zsbir.search.picture import draw_hits
from zsbir.search.query import open_query

dataset = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)
photos = sys.argv[1] if len(sys.argv) > 1 else dataset.root / "photo"

folder = Path("my.index")
if folder.exists():
    index = zsbir.Index.load(folder)
else:
    # ImageNet features as they are; a method that you trained, or its run folder, stands here as well.
    model = zsbir.build("frozen", backbone={"name": "lite0", "image_size": 96}, pretrained=True)
    index = zsbir.Index.build(model, photos, folder)
print(f"{len(index)} photos in {folder}")

# A sketch is an image, a file, or strokes: lists of xs and ys.
sketch = dataset.test.sketches.file(16)
circle = [[[50, 85, 100, 85, 50, 15, 0, 15, 50], [0, 15, 50, 85, 100, 85, 50, 15, 0]]]
rows = []
for name, query in {f"{sketch.parent.name}/{sketch.name}": sketch, "a circle": circle}.items():
    hits = index.search(query, k=5)
    rows.append((open_query(query), hits))
    print(f"\n{name}")
    for hit in hits:
        print(f"  {hit.score:.3f}  {'/'.join(Path(hit.path).parts[-2:])}")

draw_hits(rows).save("found.png")
index.close()
print("\nThe same as a picture: found.png. A page to draw on: zsbir serve my.index")
