import pytest

import zsbir
from tests.search.pictures import picture
from zsbir.search.index import Index


@pytest.fixture(scope="session")
def method():
    return zsbir.build("frozen", backbone="tiny").eval()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(12):
        place = folder if number < 6 else folder / "deep" if number < 9 else folder / "deep" / "er"
        picture(number).save(place / f"{number:02d}.png")
    return folder


@pytest.fixture
def index(method, photos, tmp_path):
    made = Index.build(method, photos, tmp_path / "my.index")
    yield made
    made.close()
