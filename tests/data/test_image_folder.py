"""Your own images: folders and zips, good and bad."""

import io
import json
import os
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.data.batches import batches
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.runtime.errors import UserError

COUNT = 20


def encode(value, kind='PNG', exif=None):
  """Returns the file of a 6 x 8 image whose right half is 100 brighter."""
  image = np.full((6, 8, 3), value, np.uint8)
  image[:, 4:] += 100
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind, exif=exif or b'')
  return buffer.getvalue()


def contents():
  """Returns the files of a folder as EDM's tool writes it, by name."""
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
def test_each_image_is_there_once_and_nothing_else(tmp_path, kind):
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
def test_labels_come_from_dataset_json(tmp_path, kind):
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


def test_shapes_are_known_before_the_images_are_opened():
  dataset = load_dataset('folder', {'image_size': 32, 'random_flip': False})
  assert dataset.image_shape == (32, 32, 3) and not dataset.random_flip
  with pytest.raises(UserError, match=r'set --config\.dataset\.args\.path'):
    dataset.open_train()


@pytest.mark.parametrize('size', [None, 0, -3, 6.5, '64', True])
def test_a_size_must_be_given(size):
  with pytest.raises(ValueError, match=r'dataset\.args\.image_size must be'):
    load_dataset('folder', {'path': '.', 'image_size': size})


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    *(('heldout_fraction', f) for f in (0, 1, -0.1, float('nan'), '0.1', True)),
    *(('channels', c) for c in (None, 0, 4, '3')),
    *(('num_classes', n) for n in (0, 2**16 + 1, 2.0, True)),
  ],
)
def test_arguments_are_checked(key, value):
  with pytest.raises(ValueError, match=rf'dataset\.args\.{key} must be'):
    load('.', class_conditional=True, **{key: value})


def test_a_number_of_classes_needs_labels():
  with pytest.raises(ValueError, match=r'needs dataset\.args\.class_cond'):
    load('.', num_classes=3)


def test_one_channel_makes_the_images_grey(tmp_path):
  dataset = load(write(tmp_path, 'folder', contents()), channels=1)
  assert dataset.image_shape == (6, 6, 1)
  example = dataset.train[3]
  assert example['image'].shape == (6, 6, 1)
  colour = load(write(tmp_path, 'folder', contents())).train[3]['image']
  np.testing.assert_array_equal(example['image'], colour[..., :1])


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_the_number_of_classes_may_be_given(tmp_path, kind):
  path = write(tmp_path, kind, contents())
  dataset = load(path, class_conditional=True, num_classes=5)
  assert dataset.num_classes == 5
  assert {int(e['label']) for e in dataset.train} == {0, 1, 2}
  dataset = load(path, class_conditional=True, num_classes=2)
  with pytest.raises(UserError, match=r'/img00000002\.png the class 2, but'):
    dataset.open_train()


def fingerprints(path, **args):
  dataset = load(path, **{'heldout_fraction': 0.3, **args})
  return [dataset.fingerprint(split) for split in ('train', 'heldout')]


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_any_changed_image_changes_the_fingerprint(tmp_path, kind):
  path = write(tmp_path, kind, contents())
  before = fingerprints(path)
  assert before == fingerprints(path) and before[0] != before[1]
  for name in [name for name in contents() if '/img' in name]:
    files = {**contents(), name: encode(200)}
    if kind == 'zip':
      write(tmp_path, kind, files)
    else:  # the same size, at another time
      file = pathlib.Path(path) / name
      file.write_bytes(encode(200))
      os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    after = fingerprints(path)
    # The image is in one of the splits.
    assert [a == b for a, b in zip(after, before, strict=True)].count(
      False
    ) == 1
    if kind == 'folder':
      before = after


def test_what_is_made_of_the_images_changes_the_fingerprint(tmp_path):
  path = write(tmp_path, 'zip', contents())
  found = [
    fingerprints(path),
    fingerprints(path, image_size=5),
    fingerprints(path, channels=1),
    fingerprints(path, class_conditional=True),
    fingerprints(path, heldout_fraction=0.4),
  ]
  assert len({split for splits in found for split in splits}) == 10


def test_linked_folders_are_followed_and_no_folder_is_read_twice(tmp_path):
  path = pathlib.Path(write(tmp_path, 'folder', contents()))
  (tmp_path / 'outside').mkdir()
  (tmp_path / 'outside' / 'z.png').write_bytes(encode(77))
  (path / 'linked').symlink_to(tmp_path / 'outside')
  (path / '00001' / 'loop').symlink_to(path)
  for name in ('00000a', '00001a'):  # the folder's own name is kept
    (path / name).symlink_to(path / '00001')
  (path / '00000' / 'linked.png').symlink_to(tmp_path / 'outside' / 'z.png')
  dataset = load(str(path))
  values = [value(e) for e in [*dataset.train, *dataset.heldout]]
  assert sorted(values) == [*range(COUNT), 77, 77]
  # The labels fit, since each image has the name that was expected.
  labels = json.loads(contents()['dataset.json'])['labels']
  labels += [['linked/z.png', 0], ['00000/linked.png', 0]]
  (path / 'dataset.json').write_text(json.dumps({'labels': labels}))
  assert len(load(str(path), class_conditional=True).heldout) == 1


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
  path = pathlib.Path(write(tmp_path, 'folder', contents()))
  scandir = os.scandir

  def refuse(folder):  # a superuser may read everything
    if pathlib.Path(folder).name == '00001':
      raise PermissionError(13, 'Permission denied', str(folder))
    return scandir(folder)

  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.raises(UserError, match='images/00001: Permission denied'):
    load(str(path)).open_train()


def test_an_image_that_cannot_be_read_is_named(tmp_path):
  path = pathlib.Path(write(tmp_path, 'folder', contents()))
  dataset = load(str(path), random_flip=False)
  iterator = batches(dataset, batch_size=len(dataset.train), seed=0)
  for file in path.rglob('img*.png'):
    file.unlink()
  with pytest.raises(UserError, match=r'cannot read .*/img.*png: No such file'):
    next(iterator)
  with pytest.raises(UserError, match=r'cannot read .*/img.*png: No such file'):
    dataset.fingerprint('train')


@pytest.mark.parametrize('kind', ['pipe', 'broken link', 'link to itself'])
def test_an_image_must_be_a_regular_file(tmp_path, kind):
  path = write(tmp_path, 'folder', contents())
  odd = pathlib.Path(path) / '00000' / 'odd.PNG'
  if kind == 'pipe':
    os.mkfifo(odd)
    os.mkfifo(odd.with_suffix('.txt'))  # does not matter
  else:
    odd.symlink_to(odd if kind == 'link to itself' else tmp_path / 'nothing')
  with pytest.raises(UserError, match=r'(read|^).*/00000/odd\.PNG'):
    load(path).open_train()
  if kind == 'pipe':
    with pytest.raises(UserError, match='neither a folder nor a readable'):
      load(str(odd)).open_train()


@pytest.mark.parametrize('name', [b'caf\xe9.png', b'caf\xe9/a.png'])
def test_a_file_name_that_is_not_utf_8_is_named(tmp_path, name):
  path = write(tmp_path, 'folder', contents())
  file = os.path.join(os.fsencode(path), name)
  os.makedirs(os.path.dirname(file), exist_ok=True)
  with open(file, 'wb'):
    pass
  with pytest.raises(UserError, match='is not UTF-8; rename it') as error:
    load(path).open_train()
  assert r'caf\xe9' in str(error.value)
  os.rename(file, file.replace(b'.png', b'.txt'))
  load(path).open_train()


def test_a_zip_with_damaged_names_gets_one_line(tmp_path):
  path = pathlib.Path(write(tmp_path, 'zip', {'caf\xe9.png': encode(1)}))
  path.write_bytes(path.read_bytes().replace('\xe9'.encode(), b'\xe9\xe9'))
  with pytest.raises(UserError, match=r'images\.zip cannot be read \(.*utf-8'):
    load(str(path)).open_train()


def test_duplicate_names_in_a_zip_are_refused(tmp_path):
  path = tmp_path / 'images.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.png', encode(1))
    with pytest.warns(UserWarning, match='Duplicate'):
      archive.writestr('a.png', encode(2))
  with pytest.raises(UserError, match=r'has 2 files named a\.png'):
    load(str(path)).open_train()


LABELS = {
  'none': (None, 'dataset.json is missing'),
  'no JSON': (b'{"labels": [', 'must be {"labels"'),
  'deep': (b'[' * 100_000, 'must be {"labels"'),
  'null': (b'{"labels": null}', 'must be {"labels"'),
  'no pairs': (b'{"labels": [1, 2]}', 'must be {"labels"'),
  'fractions': (b'{"labels": [["a.png", 0.5]]}', 'must be {"labels"'),
  'negative': (b'{"labels": [["a.png", -1]]}', 'a.png the class -1'),
  'far too many': (b'{"labels": [["a.png", 1000000000]]}', 'be 0 to 65535'),
  'empty': (b'{"labels": []}', 'has no labels'),
  'a file without': (b'{"labels": [["a.png", 0]]}', 'no label for b.png'),
}


@pytest.mark.parametrize('kind', ['folder', 'zip'])
@pytest.mark.parametrize(('text', 'message'), LABELS.values(), ids=LABELS)
def test_bad_labels_get_one_line(tmp_path, kind, text, message):
  files = {f'{name}.png': encode(3) for name in 'ab'}
  if text is not None:
    files['dataset.json'] = text
  path = write(tmp_path, kind, files)
  with pytest.raises(UserError) as error:
    load(path, class_conditional=True).open_train()
  assert message in str(error.value) and '\n' not in str(error.value)
  assert path in str(error.value)


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_a_path_without_images_gets_one_line(tmp_path, kind):
  path = write(tmp_path, kind, {'readme.txt': b'', '.a.png': b''})
  with pytest.raises(UserError, match='has 0, and 1 other files') as error:
    load(path).open_train()
  assert path in str(error.value)


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_a_damaged_image_is_named(tmp_path, kind):
  files = {'a.png': encode(3)[:60], 'b.png': encode(3)[:60]}
  dataset = load(write(tmp_path, kind, files))
  with pytest.raises(UserError, match=r'images.*: [ab]\.png cannot be read'):
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
  with pytest.raises(UserError, match=r'a\.png cannot be read \(Bad CRC'):
    list(dataset.train), list(dataset.heldout)


@pytest.mark.parametrize('what', ['nothing', 'a text', 'half a zip'])
def test_a_path_must_be_a_folder_or_a_zip(tmp_path, what):
  path = tmp_path / 'images.zip'
  if what == 'a text':
    path.write_text('text')
  elif what == 'half a zip':
    write(tmp_path, 'zip', contents())
    path.write_bytes(path.read_bytes()[:500])
  message = 'does not exist' if what == 'nothing' else 'is neither a folder nor'
  with pytest.raises(UserError, match=message) as error:
    load(str(path)).open_train()
  assert f'--config.dataset.args.path={path}' in str(error.value)
