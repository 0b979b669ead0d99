"""SBKA's augmentation: what is drawn, and that each map leads back to where the release's transform came from."""

import numpy as np
import pytest

from zsbir.data.batches import affine_matrices

SIDE = 256


def parts_of(maps, corner):
    """Return flip, scale (n, 2), angle and shift (n, 2) in pixels of a file, worked out of the maps."""
    flip = np.sign(np.linalg.det(maps[:, :, :2]))
    plain = maps.copy()
    plain[:, 0] *= flip[:, None]
    turn, offset = plain[:, :, :2], plain[:, :, 2]
    scale = 1 / np.linalg.norm(turn, axis=2)
    angle = np.arctan2(turn[:, 0, 1], turn[:, 0, 0])
    origin = -(1 - 1 / SIDE) if corner else 0.0
    shift = np.linalg.solve(turn, (origin - offset)[:, :, None])[:, :, 0] - origin
    return flip, scale, angle, shift * SIDE / 2


@pytest.mark.parametrize("corner", [False, True])
def test_what_is_drawn_is_as_released(corner):
    maps = affine_matrices(20_000, np.random.default_rng(0), 0.7, corner).astype(np.float64)
    flip, scale, angle, shift = parts_of(maps, corner)
    scaled, turned, shifted = abs(scale - 1) > 1e-4, abs(angle) > 1e-4, abs(shift) > 1e-3
    for used in (flip < 0, scaled[:, 0], turned, shifted[:, 0]):
        assert used.mean() == pytest.approx(0.35, abs=0.02)  # 0.7 of the images, half of them
    # One coin for both axes (a value may fall next to none by chance).
    assert (scaled[:, 0] == scaled[:, 1]).mean() > 0.999
    assert (shifted[:, 0] == shifted[:, 1]).mean() > 0.999
    for values, most in ((abs(scale - 1)[scaled], 0.3), (abs(angle)[turned], np.pi / 6), (abs(shift)[shifted], 10)):
        assert values.max() == pytest.approx(most, rel=0.01)
        assert values.mean() == pytest.approx(most / 2, rel=0.03)
    assert abs(np.corrcoef(scale[scaled.all(1)].T)[0, 1]) < 0.05


@pytest.mark.parametrize("corner", [False, True])
def test_the_map_undoes_the_releases_transform(corner):
    maps = affine_matrices(200, np.random.default_rng(1), 1.0, corner).astype(np.float64)
    flip, scale, angle, shift = parts_of(maps, corner)
    pixel = np.array([40.0, 180.0])  # of the flipped file, as the release transforms it
    middle = 0.0 if corner else (SIDE - 1) / 2
    for row in range(200):
        c, s = np.cos(angle[row]), np.sin(angle[row])
        forward = np.array([[scale[row, 0] * c, -scale[row, 1] * s], [scale[row, 0] * s, scale[row, 1] * c]])
        moved = forward @ (pixel - middle) + middle + shift[row]
        back = maps[row] @ np.append((moved + 0.5) * 2 / SIDE - 1, 1.0)
        found = (back + 1) * SIDE / 2 - 0.5
        expected = [SIDE - 1 - pixel[0] if flip[row] < 0 else pixel[0], pixel[1]]
        assert found == pytest.approx(expected, abs=1e-3)


def test_about_the_centre_the_object_stays_in_the_picture():
    moved = {}
    for corner in (False, True):
        maps = affine_matrices(20_000, np.random.default_rng(2), 1.0, corner).astype(np.float64)
        centre = np.linalg.solve(maps[:, :, :2], -maps[:, :, 2:])[:, :, 0]
        moved[corner] = (np.linalg.norm(centre, axis=1) / 2).mean()
    assert moved[False] == pytest.approx(0.015, abs=0.005)
    assert moved[True] == pytest.approx(0.13, abs=0.02)


def test_no_image_is_warped_at_probability_0():
    maps = affine_matrices(50, np.random.default_rng(3), 0.0, True)
    assert maps == pytest.approx(np.tile([[1.0, 0, 0], [0, 1, 0]], (50, 1, 1)), abs=1e-6)
