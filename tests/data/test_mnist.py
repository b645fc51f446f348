"""Data sets in MNIST's format, from their own files and prepared ones."""

import gzip
import io
import struct

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.commands import cli
from diffusion_distillation.data import mnist
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.runtime.errors import UserError
from tests.make_records import write_records

IMAGES = np.random.RandomState(0).randint(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([7, 0, 3, 9, 1], np.uint8)
TRAIN = 'train-images-idx3-ubyte.gz'


def pack(data):
  """Returns compressed bytes, the same at every time."""
  return gzip.compress(data, mtime=0)


def idx(array):
  """Returns the bytes of an .idx file, as its format is described."""
  header = struct.pack('>HBB', 0, 8, array.ndim)
  return header + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
  """The four files of a data set; five images to train on, two held out."""
  for word, count in (('train', 5), ('t10k', 2)):
    for kind, array in (('images-idx3', IMAGES), ('labels-idx1', LABELS)):
      path = tmp_path / f'{word}-{kind}-ubyte.gz'
      path.write_bytes(pack(idx(array[:count])))
  return tmp_path


def load(folder, name='mnist', **args):
  return load_dataset(name, {'data_dir': str(folder), **args})


def images_of(examples):
  return np.stack([example['image'] for example in examples])


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist', 'kmnist'])
def test_the_files_of_the_authors_are_read(folder, name):
  dataset = load(folder, name, class_conditional=True)
  assert dataset.image_shape == (28, 28, 1) and dataset.num_classes == 10
  assert not dataset.random_flip and len(dataset.heldout) == 2
  np.testing.assert_array_equal(images_of(dataset.train)[..., 0], IMAGES)
  found = [example['label'] for example in dataset.train]
  assert found == LABELS.tolist() and found[0].dtype == np.int32
  unlabelled = load(folder, name)
  assert unlabelled.num_classes == 1
  assert {example['label'] for example in unlabelled.train} == {0}


def test_files_may_be_unpacked(folder):
  want = load(folder).fingerprint('train')
  for path in folder.iterdir():
    path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
  assert load(folder).fingerprint('train') == want


def test_emnist_stands_upright(folder):
  for path in list(folder.iterdir()):
    name = path.name.replace('t10k', 'test')
    path.rename(folder / f'emnist-balanced-{name}')
  dataset = load(folder, 'emnist', class_conditional=True)
  assert dataset.num_classes == 47 and len(dataset.heldout) == 2
  found = images_of(dataset.train)[..., 0]
  np.testing.assert_array_equal(found, IMAGES.transpose(0, 2, 1))


def test_images_have_the_size_that_is_asked_for(folder):
  large = images_of(load(folder, image_size=32).train)[..., 0]
  assert large.shape == (5, 32, 32)
  np.testing.assert_array_equal(large[:, 2:-2, 2:-2], IMAGES)
  assert large.sum() == IMAGES.sum()
  small = images_of(load(folder, image_size=14).train)[..., 0]
  x = IMAGES.astype(float)
  want = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
  assert np.abs(small - want / 4).max() <= 0.5
  with pytest.raises(
    ValueError, match='image_size=20 must be one of 14, 28, 3'
  ):
    load(folder, image_size=20)


def test_debian_s_package_is_found(folder, monkeypatch):
  monkeypatch.setattr(mnist, '_DEBIAN', folder)
  assert len(load_dataset('fashion_mnist', {}).train) == 5


def test_missing_data_say_where_they_may_come_from(tmp_path):
  with pytest.raises(UserError) as error:
    load(tmp_path).open_train()
  assert f'data.prepare --dataset=mnist --data_dir={tmp_path}' in str(
    error.value
  )
  assert 'the folder of its four .gz files' in str(error.value)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'', 'cannot read'),
    (b'not gzip', 'cannot read'),
    (pack(idx(IMAGES))[:-9], 'cannot read'),
    (
      pack(idx(IMAGES)[:-1]),
      r'3919 bytes of an array of \(5, 28, 28\)',
    ),
    (pack(b'\0\0\x0d' + idx(IMAGES)[3:]), 'not an .idx file of bytes'),
    (pack(idx(LABELS)), r'shapes \(5,\) and \(5,\)'),
    (pack(idx(IMAGES[:4])), r'shapes \(4, 28, 28\) and \(5,\)'),
    (pack(idx(IMAGES) + b'0'), '3921 bytes of an array of'),
  ],
)
def test_damaged_files_get_one_line(folder, data, message):
  (folder / TRAIN).write_bytes(data)
  with pytest.raises(UserError, match=message) as error:
    load(folder).open_train()
  assert str(folder / TRAIN) in str(error.value)
  assert '\n' not in str(error.value)


def test_a_missing_file_is_named(folder):
  (folder / TRAIN).unlink()
  with pytest.raises(
    UserError, match=r'train-labels.*, but the mnist file of th'
  ):
    load(folder).open_train()


def test_files_without_images_and_unknown_labels_are_refused(folder):
  labels = folder / 'train-labels-idx1-ubyte.gz'
  (folder / TRAIN).write_bytes(pack(idx(IMAGES[:0])))
  labels.write_bytes(pack(idx(LABELS[:0])))
  with pytest.raises(UserError, match=r'shapes \(0, 28, 28\) and \(0,\)'):
    load(folder).open_train()
  (folder / TRAIN).write_bytes(pack(idx(IMAGES)))
  labels.write_bytes(pack(idx(LABELS + 1)))
  with pytest.raises(UserError, match='has the label 10, but mnist has 10 cl'):
    load(folder).open_train()


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist', 'kmnist', 'emnist'])
def test_prepared_data_are_the_same(folder, tmp_path, name):
  def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    return buffer.getvalue()

  files = list(zip(map(png, IMAGES), map(int, LABELS), strict=True))
  write_records(name, tmp_path / 'tfds', {'train': files, 'test': files[:2]})
  prepared = load(tmp_path / 'tfds', name, class_conditional=True)
  if name == 'emnist':
    for path in list(folder.glob('*.gz')):
      part = path.name.replace('t10k', 'test')
      path.rename(folder / f'emnist-balanced-{part}')
  read = load(folder, name, class_conditional=True)
  for split in ('train', 'heldout'):
    assert prepared.fingerprint(split) == read.fingerprint(split)


def test_the_folder_is_a_flag():
  flag = '--config.dataset.args.data_dir=DIR'
  _, values = cli.parse(
    ['main.py', '--config=fashion_mnist14_distill', '--workdir=W', flag]
  )
  assert values['config'].dataset.args.data_dir == 'DIR'
