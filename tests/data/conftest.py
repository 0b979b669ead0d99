import pytest

from tests.data.data_trees import picture


@pytest.fixture
def pets(tmp_path):
    """Four classes, two sketches and three photos each, ROOT/{sketch,photo}/CLASS."""
    root = tmp_path / "pets"
    for c, name in enumerate(("cat", "cow", "dog", "hot-air_balloon")):
        for i in range(2):
            picture(root / "sketch" / name / f"s{i}.png", 100 * c + i)
        for i in range(3):
            picture(root / "photo" / name / f"p{i}.jpg", 100 * c + 10 + i)
    return root


@pytest.fixture
def zoo(pets):
    """Two classes more, so that some can be held out."""
    for c, name in enumerate(("emu", "fox")):
        picture(pets / "sketch" / name / "s.png", 500 + c)
        picture(pets / "photo" / name / "p.jpg", 600 + c)
    return pets
