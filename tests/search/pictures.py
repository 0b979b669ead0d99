import numpy as np
from PIL import Image, ImageDraw

CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def picture(number, size=48):
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, w, h = rng.integers(0, size, 4).tolist()
        pen.ellipse((x, y, x + w, y + h), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return image
