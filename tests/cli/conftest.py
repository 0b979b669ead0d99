from tests.engine.conftest import shapes, shapes_root

__all__ = ["shapes", "shapes_root"]
