"""Your own images: folders and zips, good and bad."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.data.pipeline import batches

COUNT = 20


def encode(value, kind='PNG', exif=None):
  """Returns a file of a 6 x 8 image, its left half dark, by a value."""
  image = np.full((6, 8, 3), value, np.uint8)
  image[:, 4:] += 100
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind, exif=exif or b'')
  return buffer.getvalue()


def contents():
  """Returns name -> bytes of a folder as the tools write it."""
  names = [f'{k // 10:05}/img{k:08}.png' for k in range(COUNT)]
  labels = [[name, k % 3] for k, name in enumerate(names)]
  files = {name: encode(k) for k, name in enumerate(names)}
  files['dataset.json'] = json.dumps({'labels': labels}).encode()
  files['__MACOSX/00000/._img00000000.png'] = b'junk'
  files['00000/.thumbs.png'] = files['.git/a.png'] = b'junk'
  files['README.txt'] = b'text'
  return files


def write(tmp_path, kind, files):
  """Writes files as a folder or a zip; returns the path."""
  path = tmp_path / {'folder': 'images', 'zip': 'images.zip'}[kind]
  if kind == 'zip':
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
      for name, data in reversed(files.items()):
        archive.writestr(name, data)
  else:
    for name, data in reversed(files.items()):
      (path / name).parent.mkdir(parents=True, exist_ok=True)
      (path / name).write_bytes(data)
  return str(path)


def load(path, **args):
  return load_dataset('folder', {'path': path, 'image_size': 6, **args})


def value(example):
  return int(example['image'][0, 0, 0])


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_all_images_are_there_once_and_nothing_else(tmp_path, kind):
  dataset = load(write(tmp_path, kind, contents()), heldout_fraction=0.2)
  assert dataset.image_shape == (6, 6, 3) and dataset.num_classes == 1
  assert (len(dataset.train), len(dataset.heldout)) == (16, 4)
  train = [value(example) for example in dataset.train]
  assert train == sorted(train)  # by name
  heldout = [value(example) for example in dataset.heldout]
  assert sorted(train + heldout) == list(range(COUNT))
  # The central square of 6 x 8: columns 1 to 6, of which 3 are dark.
  first = dataset.train[0]['image'][:, :, 0].astype(int)
  np.testing.assert_array_equal(first[0] - train[0], [0, 0, 0, 100, 100, 100])


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_labels_are_those_of_dataset_json(tmp_path, kind):
  dataset = load(write(tmp_path, kind, contents()), class_conditional=True)
  assert dataset.num_classes == 3
  for example in [*dataset.train, *dataset.heldout]:
    assert example['label'] == value(example) % 3
    assert example['label'].dtype == np.int32


def test_classes_may_have_no_image(tmp_path):
  files = {f'{name}.png': encode(3) for name in 'ab'}
  files['dataset.json'] = b'{"labels": [["a.png", 2], ["b.png", 6]]}'
  dataset = load(write(tmp_path, 'zip', files), class_conditional=True)
  assert dataset.num_classes == 7
  both = [*dataset.train, *dataset.heldout]
  assert sorted(int(example['label']) for example in both) == [2, 6]


def test_more_images_hardly_change_the_split(tmp_path):
  files = contents()
  before = load(write(tmp_path / 'a', 'folder', files), heldout_fraction=0.3)
  files['00009/new.png'] = encode(99)
  after = load(write(tmp_path / 'b', 'folder', files), heldout_fraction=0.3)
  before, after = ({value(e) for e in d.heldout} for d in (before, after))
  assert len(before) == len(after) == 6 and len(before & after) >= 5


def test_folder_and_zip_hold_out_the_same(tmp_path):
  splits = [
    [value(e) for e in load(write(tmp_path, kind, contents())).heldout]
    for kind in ('folder', 'zip')
  ]
  assert splits[0] == splits[1] and len(splits[0]) == 1


def test_a_zip_is_read_by_many_threads(tmp_path):
  dataset = load(write(tmp_path, 'zip', contents()), random_flip=False)
  taken = batches(dataset, batch_size=19, seed=0)
  for _ in range(20):
    values = sorted(next(taken)['image'][:, 0, 0, 0].tolist())
    assert values == sorted(value(e) for e in dataset.train)


def test_images_are_turned_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 3  # upside down
  files = {'a.png': encode(1, exif=exif), 'b.png': encode(1, exif=exif)}
  dataset = load(write(tmp_path, 'folder', files))
  assert dataset.train[0]['image'][0, :, 0].tolist() == [101] * 3 + [1] * 3


def test_the_rest_is_known_before_the_images_are_there():
  dataset = load_dataset('folder', {'image_size': 32, 'random_flip': False})
  assert dataset.image_shape == (32, 32, 3) and not dataset.random_flip
  with pytest.raises(ValueError, match=r'--config\.dataset\.args\.path='):
    dataset.open_train()


@pytest.mark.parametrize('size', [None, 0, -3, 6.5, '64', True])
def test_a_size_must_be_given(size):
  with pytest.raises(ValueError, match='image_size must be'):
    load_dataset('folder', {'path': '.', 'image_size': size})


@pytest.mark.parametrize(
  'fraction', [0, 1, -0.1, float('nan'), '0.1', None, True]
)
def test_the_held_out_part_is_a_part(fraction):
  with pytest.raises(ValueError, match='heldout_fraction must be'):
    load('.', heldout_fraction=fraction)


LABELS = {
  'none': (None, 'dataset.json is missing'),
  'no JSON': (b'{"labels": [', 'must be {"labels"'),
  'null': (b'{"labels": null}', 'must be {"labels"'),
  'no pairs': (b'{"labels": [1, 2]}', 'must be {"labels"'),
  'fractions': (b'{"labels": [["a.png", 0.5]]}', 'must be {"labels"'),
  'negative': (b'{"labels": [["a.png", -1]]}', 'classes of 0 to 65535'),
  'far too many': (b'{"labels": [["a.png", 1000000000]]}', 'of 0 to 65535'),
  'empty': (b'{"labels": []}', 'classes of 0 to 65535'),
  'a file without': (b'{"labels": [["a.png", 0]]}', 'no label of b.png'),
}


@pytest.mark.parametrize('kind', ['folder', 'zip'])
@pytest.mark.parametrize(('text', 'message'), LABELS.values(), ids=LABELS)
def test_bad_labels_are_one_line(tmp_path, kind, text, message):
  files = {f'{name}.png': encode(3) for name in 'ab'}
  if text is not None:
    files['dataset.json'] = text
  path = write(tmp_path, kind, files)
  with pytest.raises(ValueError) as error:
    load(path, class_conditional=True).open_train()
  assert message in str(error.value) and '\n' not in str(error.value)
  assert path in str(error.value)


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_no_images_are_one_line(tmp_path, kind):
  path = write(tmp_path, kind, {'readme.txt': b'', '.a.png': b''})
  with pytest.raises(ValueError, match='has 0 images') as error:
    load(path).open_train()
  assert path in str(error.value)


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_a_damaged_image_is_named(tmp_path, kind):
  files = {'a.png': encode(3)[:60], 'b.png': encode(3)[:60]}
  dataset = load(write(tmp_path, kind, files))
  with pytest.raises(ValueError, match=r'images.*: [ab]\.png cannot be read'):
    next(batches(dataset, batch_size=1, seed=0))


def test_a_damaged_zip_names_the_file(tmp_path):
  path = tmp_path / 'images.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    for name in ('a.png', 'b.png'):
      archive.writestr(name, encode(3))
  data = path.read_bytes()
  at = data.index(encode(3)) + 50
  data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
  path.write_bytes(data)
  dataset = load(str(path))
  with pytest.raises(ValueError, match=r'a\.png cannot be read \(Bad CRC'):
    list(dataset.train), list(dataset.heldout)


@pytest.mark.parametrize('what', ['nowhere', 'a text', 'half a zip'])
def test_what_is_no_folder_and_no_zip_is_one_line(tmp_path, what):
  path = tmp_path / 'images.zip'
  if what == 'a text':
    path.write_text('text')
  elif what == 'half a zip':
    write(tmp_path, 'zip', contents())
    path.write_bytes(path.read_bytes()[:500])
  with pytest.raises(ValueError, match='is neither a folder nor a readable'):
    load(str(path)).open_train()
