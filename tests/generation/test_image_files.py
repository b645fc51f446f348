import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.generation.image_files import ImageFiles
from diffusion_distillation.runtime.errors import UserError

RNG = np.random.RandomState(0)
COLOUR = RNG.randint(0, 256, (5, 4, 6, 3)).astype(np.uint8)
GREY = COLOUR[..., :1]


def read(path, shape=(4, 6, 3)):
  files = ImageFiles(path, shape)
  images = np.concatenate(list(files))
  assert len(images) == files.num_images
  # More than once, the same.
  np.testing.assert_array_equal(np.concatenate(list(files)), images)
  return images


def png(array, mode=None):
  buffer = io.BytesIO()
  image = Image.fromarray(array)
  (image.convert(mode) if mode else image).save(buffer, 'png')
  return buffer.getvalue()


@pytest.mark.parametrize('key', ['arr_0', 'samples', 'images'])
def test_an_npz_by_its_key(tmp_path, key):
  np.savez(tmp_path / 'a.npz', **{key: COLOUR})
  np.testing.assert_array_equal(read(tmp_path / 'a.npz'), COLOUR)
  np.savez(tmp_path / 'b.npz', GREY, np.arange(5))  # arr_0, and classes
  np.testing.assert_array_equal(read(tmp_path / 'b.npz', (4, 6, 1)), GREY)


def fill(write):
  """Writes the images in nested folders, with what lies about beside them."""
  for i, image in enumerate(COLOUR):
    write(f'{i % 2}/{i}.png', png(image))
  write('grid.png', png(COLOUR[0].repeat(2, axis=0)))
  write('notes.txt', b'')
  write('1/._0.png', b'')


def test_a_folder_and_a_zip_recursively_in_order_of_names(tmp_path):
  folder = tmp_path / 'folder'

  def write(name, content):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)

  fill(write)
  np.testing.assert_array_equal(read(folder), COLOUR[[0, 2, 4, 1, 3]])
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    fill(archive.writestr)
  np.testing.assert_array_equal(read(tmp_path / 'a.zip'), read(folder))


def test_grey_images_become_rgb_where_the_data_set_is(tmp_path):
  np.savez(tmp_path / 'a.npz', GREY)
  for i, image in enumerate(GREY):
    (tmp_path / f'{i}.png').write_bytes(png(image[..., 0]))
  want = np.concatenate([GREY] * 3, axis=-1)
  np.testing.assert_array_equal(read(tmp_path / 'a.npz'), want)
  np.testing.assert_array_equal(read(tmp_path), want)
  np.testing.assert_array_equal(read(tmp_path, (4, 6, 1)), GREY)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (png(COLOUR[0, :3]), '3x6x3'),
    (png(COLOUR[0], 'RGBA'), 'RGBA'),
    (png(COLOUR[0].astype(np.uint16)[..., 0] * 256), 'I;16'),
    (png(COLOUR[0])[:60], 'damaged'),
    (b'no image', 'damaged'),
  ],
)
def test_a_wrong_image_is_named(tmp_path, content, message):
  for i in range(5):
    (tmp_path / f'{i}.png').write_bytes(png(COLOUR[i]))
  (tmp_path / '3.png').write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path)
  assert '3.png' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'arr_0': COLOUR.astype(np.float32)}, 'float32'),
    ({'arr_0': COLOUR[0]}, 'N, H, W, C'),
    ({'arr_0': COLOUR[:, :3]}, '3x6x3'),
    ({'arr_0': COLOUR[:3]}, 'at least 4'),
    ({'a': COLOUR, 'b': COLOUR}, 'arr_0 or samples'),
    ({'arr_0': np.array([{}])}, 'damaged'),
    ({}, 'uint8'),
  ],
)
def test_a_wrong_npz_gets_one_line(tmp_path, arrays, message):
  np.savez(tmp_path / 'a.npz', **arrays)
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path / 'a.npz')
  assert '\n' not in str(error.value)


def test_nothing_to_read_gets_one_line(tmp_path):
  (tmp_path / 'a.npz').write_text('no npz')
  (tmp_path / 'a.txt').write_text('no images')
  (tmp_path / 'empty').mkdir()
  for name, message in (
    ('none', 'no such file'),
    ('a.npz', 'damaged'),
    ('a.txt', 'give a .npz'),
    ('empty', '0 images'),
  ):
    with pytest.raises(UserError, match=message):
      read(tmp_path / name)
