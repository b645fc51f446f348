import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.generation import grids
from diffusion_distillation.runtime.errors import UserError


def test_a_grid_shows_every_image_in_its_place():
  images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) + 10
  images = images.repeat(40, axis=1).repeat(40, axis=2)
  page = grids.grid(images, columns=4, rows=2)
  assert page.shape == (2 * 41 + 1, 4 * 41 + 1, 1)
  centres = page[21::41, 21::41, 0]
  np.testing.assert_array_equal(centres, [[10, 11, 12, 13], [14, 15, 96, 96]])


@pytest.mark.parametrize(
  ('count', 'shape'),
  [(1, (1, 1)), (20, (1, 20)), (21, (2, 20)), (999, (5, 20))],
)
def test_a_grid_is_as_large_as_its_images_need(count, shape):
  page = grids.grid(np.zeros((count, 8, 10, 3), np.uint8))
  # Images of 8 x 10 pixels are enlarged to 40 x 50.
  assert page.shape == (shape[0] * 41 + 1, shape[1] * 51 + 1, 3)


def test_a_picture_is_known_by_what_it_shows(tmp_path):
  path, images = tmp_path / 'new' / 'a.png', np.zeros((2, 8, 8, 1), np.uint8)
  assert not grids.shows(path, 'updates: 3')
  grids.save_grid(images, path, 'updates: 3')
  assert grids.shows(path, 'updates: 3')
  assert not grids.shows(path, 'updates: 4')
  with Image.open(path) as image:
    np.testing.assert_array_equal(image, grids.grid(images)[..., 0])
  good = path.read_bytes()
  for bad in (good[:20], good[: len(good) // 2], good[:60] + b'x' + good[61:]):
    path.write_bytes(bad)
    assert not grids.shows(path, 'updates: 3')


@pytest.mark.parametrize('shape', [(8, 8, 1), (6, 10, 3), (64, 64, 3)])
@pytest.mark.parametrize('count', [1, 23])
def test_a_grid_is_read_back(tmp_path, shape, count):
  images = np.random.RandomState(0).randint(0, 256, (count, *shape), np.uint8)
  grids.save_grid(images, tmp_path / 'grid.png')
  found = grids.read_grid(tmp_path / 'grid.png', shape)
  np.testing.assert_array_equal(found[:count], images)


def test_a_file_that_is_not_a_grid_is_refused(tmp_path):
  path = tmp_path / 'grid.png'
  grids.save_grid(np.zeros((4, 8, 8, 1), np.uint8), path)
  with pytest.raises(UserError, match='is not a grid of'):
    grids.read_grid(path, (8, 9, 1))
  path.write_bytes(b'nothing')
  with pytest.raises(UserError, match='cannot read'):
    grids.read_grid(path, (8, 8, 1))
