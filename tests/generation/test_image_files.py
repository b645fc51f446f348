import errno
import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.generation import grids
from diffusion_distillation.generation.image_files import (
  ImageFiles,
  check_writable,
  parse_seeds,
  write_samples,
)
from diffusion_distillation.runtime.errors import UserError

RNG = np.random.RandomState(0)
COLOUR = RNG.randint(0, 256, (5, 4, 6, 3)).astype(np.uint8)
GREY = COLOUR[..., :1]


def read(path, shape=(4, 6, 3)):
  files = ImageFiles(path, shape)
  images = np.concatenate(list(files))
  assert len(images) == files.num_images
  # A second iteration gives the same images.
  np.testing.assert_array_equal(np.concatenate(list(files)), images)
  return images


def png(array, mode=None):
  buffer = io.BytesIO()
  image = Image.fromarray(array)
  (image.convert(mode) if mode else image).save(buffer, 'png')
  return buffer.getvalue()


@pytest.mark.parametrize('key', ['arr_0', 'samples', 'images'])
def test_an_npz_is_read_by_its_key(tmp_path, key):
  np.savez(tmp_path / 'a.npz', **{key: COLOUR})
  np.testing.assert_array_equal(read(tmp_path / 'a.npz'), COLOUR)
  np.savez(tmp_path / 'b.npz', GREY, np.arange(5))  # arr_0, and classes
  np.testing.assert_array_equal(read(tmp_path / 'b.npz', (4, 6, 1)), GREY)


def fill(write):
  """Writes the images in nested folders, among files of other kinds."""
  for i, image in enumerate(COLOUR):
    write(f'{i % 2}/{i}.png', png(image))
  write('grid.png', png(COLOUR[0].repeat(2, axis=0)))
  write('notes.txt', b'')
  write('1/._0.png', b'')


def test_folders_and_zips_are_read_recursively_in_order_of_names(tmp_path):
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
    (png(COLOUR[0])[:60], 'cannot be read as an image'),
    (b'no image', 'an image .damaged, or of an unknown format'),
  ],
)
def test_a_wrong_image_is_named(tmp_path, content, message):
  for i in range(5):
    (tmp_path / f'{i}.png').write_bytes(png(COLOUR[i]))
  (tmp_path / '3.png').write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path)
  assert '3.png' in str(error.value) and '\n' not in str(error.value)
  assert 'BytesIO' not in str(error.value)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'arr_0': COLOUR.astype(np.float32)}, 'float32'),
    ({'arr_0': COLOUR[0]}, 'N, H, W, C'),
    ({'arr_0': COLOUR[:, :3]}, '3x6x3'),
    ({'arr_0': COLOUR[:0]}, 'no images'),
    ({'a': COLOUR, 'b': COLOUR}, 'arr_0 or samples'),
    ({'arr_0': np.array([{}])}, 'allow_pickle'),
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
  np.save(tmp_path / 'b.npy', COLOUR)
  (tmp_path / 'b.npy').rename(tmp_path / 'b.npz')
  (tmp_path / 'a.txt').write_text('no images')
  (tmp_path / 'empty').mkdir()
  os.mkfifo(tmp_path / 'pipe.npz')  # which would wait for a writer
  for name, message in (
    ('none', 'does not exist'),
    ('none.npz', 'no such file'),
    ('pipe.npz', 'no such file'),
    ('~/none', 'does not exist'),
    ('a.npz', 'not a .npz archive'),
    ('b.npz', 'not a .npz archive'),
    ('a.txt', 'neither a folder nor a readable .zip'),
    ('empty', 'no images'),
  ):
    with pytest.raises(UserError, match=message) as error:
      read(tmp_path / name)
    assert f'--images={tmp_path}/{name}' in str(error.value)
    assert '\n' not in str(error.value)


def test_seeds_parse():
  np.testing.assert_array_equal(parse_seeds('0-3'), range(4))
  np.testing.assert_array_equal(parse_seeds('7'), [7])
  np.testing.assert_array_equal(parse_seeds('1,5,10-12'), [1, 5, 10, 11, 12])


@pytest.mark.parametrize(
  'text',
  ['', '3-1', '-4', '1-', 'a', '1;2', '4294967296', '0-99999999', '1,,2'],
)
def test_seeds_that_do_not_parse_are_refused(text):
  with pytest.raises(UserError, match='--seeds'):
    parse_seeds(text)


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'folder.npz').mkdir()
  (tmp_path / 'folder.png').mkdir()
  for out in ('file/a.npz', 'file', 'folder.npz', 'folder.png'):
    with pytest.raises(UserError, match=f'--out={tmp_path}/{out} cannot be'):
      check_writable(tmp_path / out)
  for out in ('samples.npy', 'samples.JPG', 'samples.zip'):
    with pytest.raises(UserError, match=r'give FILE\.npz, FILE\.png'):
      check_writable(tmp_path / out)
    assert not (tmp_path / out).exists()
  with pytest.raises(UserError, match='is not local'):
    check_writable('gs://bucket/samples')


SEEDS = np.array([7, 3, 12, 0, 1])


def test_samples_in_an_npz_are_images_and_classes(tmp_path):
  labels = np.arange(5, dtype=np.int32)
  for given, want in ((labels, labels), (None, np.zeros(5, np.int32))):
    write_samples(tmp_path / 'a.NPZ', COLOUR, SEEDS, given)
    with np.load(tmp_path / 'a.NPZ') as file:
      np.testing.assert_array_equal(file['arr_0'], COLOUR)
      np.testing.assert_array_equal(file['arr_1'], want)
      assert file['arr_1'].dtype == np.int32


def test_samples_in_a_folder_are_named_by_seed_and_can_be_measured(tmp_path):
  out = tmp_path / 'new' / 'samples'
  write_samples(out, COLOUR, SEEDS)
  with Image.open(out / '000012.png') as image:
    np.testing.assert_array_equal(image, COLOUR[2])
  with Image.open(out / 'grid.png') as image:
    np.testing.assert_array_equal(image, grids.grid(COLOUR))
  np.testing.assert_array_equal(read(out), COLOUR[np.argsort(SEEDS)])


def test_samples_in_one_png_are_a_square_grid_of_all(tmp_path):
  many = COLOUR[np.arange(150) % 5]
  write_samples(tmp_path / 'all.png', many, np.arange(150))
  with Image.open(tmp_path / 'all.png') as image:
    want = grids.grid(many, columns=13, rows=13)
    np.testing.assert_array_equal(image, want)
  # 4 x 6 pixels are enlarged tenfold; 150 images in rows of 13 are 12 rows.
  assert want.shape == (12 * 41 + 1, 13 * 61 + 1, 3)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  for out, named in (('samples', '000007.png'), ('a.png', 'a.png')):
    check_writable(tmp_path / out)
    with monkeypatch.context() as patch:
      patch.setattr(os, 'replace', full)
      with pytest.raises(UserError, match='No space left') as error:
        write_samples(tmp_path / out, COLOUR, SEEDS)
    assert named in str(error.value)
