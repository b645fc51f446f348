"""The paper's data sets, from files that TensorFlow Datasets would write."""

import io
import shutil
import sys

import lmdb
import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.data import prepare, tfds
from diffusion_distillation.data.batches import batches
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.data.resize import crop_and_resize
from diffusion_distillation.runtime.errors import UserError
from tests.make_records import write_records

NAMES = list(tfds.SOURCES)
LABELS = [7, 0, 3]


def png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def pictures(name):
  """Returns three images of the data set's kind, all different."""
  shape = (32, 32, 3) if name == 'cifar10' else (40, 50, 3)
  return list(np.random.RandomState(0).randint(0, 256, (3, *shape), np.uint8))


@pytest.fixture
def data_dir(tmp_path):
  """All data sets, prepared."""
  for name in NAMES:
    files = [(png(p), k) for p, k in zip(pictures(name), LABELS, strict=True)]
    held_out = tfds.SOURCES[name][1]
    write_records(name, tmp_path, {'train': files, held_out: files[:2]})
  return tmp_path


@pytest.mark.parametrize(
  ('name', 'size', 'num_classes'),
  [
    ('cifar10', 32, 1),
    ('imagenet64', 64, 1000),
    ('lsun_bedroom128', 128, 1),
    ('lsun_church128', 128, 1),
  ],
)
def test_each_data_set_has_the_paper_s_size_and_classes(
  data_dir, name, size, num_classes
):
  dataset = load_dataset(name, {'data_dir': str(data_dir)})
  assert dataset.image_shape == (size, size, 3)
  assert dataset.num_classes == num_classes and dataset.random_flip
  assert (len(dataset.train), len(dataset.heldout)) == (3, 2)
  labels = [example['label'] for example in dataset.train]
  assert labels == (LABELS if num_classes > 1 else [0, 0, 0])
  batch = next(batches(dataset, batch_size=3, seed=0))
  assert batch['image'].shape == (3, size, size, 3)
  assert batch['image'].dtype == np.uint8 and batch['label'].dtype == np.int32
  assert 'tensorflow' not in sys.modules


def test_cifar10_is_not_resized(data_dir):
  args = {'data_dir': str(data_dir), 'class_conditional': True}
  dataset = load_dataset('cifar10', args)
  assert dataset.num_classes == 10
  for example, image, label in zip(
    dataset.train, pictures('cifar10'), LABELS, strict=True
  ):
    np.testing.assert_array_equal(example['image'], image)
    assert example['label'] == label


def test_other_images_are_cropped_and_resized(data_dir):
  # 40 x 50 to 64 by area: a target pixel covers 0.625 source pixels, the first
  # target pixel only the first source pixel of the crop, which starts at
  # column 5.
  (first, *_) = pictures('imagenet64')
  dataset = load_dataset('imagenet64', {'data_dir': str(data_dir)})
  np.testing.assert_array_equal(dataset.train[0]['image'][0, 0], first[0, 5])
  # 40 to 128, bilinear: the first target centre lies before the first source
  # centre.
  dataset = load_dataset('lsun_church128', {'data_dir': str(data_dir)})
  np.testing.assert_array_equal(dataset.train[0]['image'][0, 0], first[0, 5])


@pytest.mark.parametrize(
  ('name', 'size', 'method'),
  [
    ('imagenet64', 64, 'area'),
    ('lsun_bedroom128', 128, 'antialias'),
    ('lsun_church128', 128, 'antialias'),
  ],
)
def test_larger_images_are_shrunk_as_the_original_does(
  tmp_path, name, size, method
):
  first = np.random.RandomState(1).randint(0, 256, (150, 170, 3), np.uint8)
  files = {'train': [(png(first), 0)], tfds.SOURCES[name][1]: [(b'', 0)]}
  write_records(name, tmp_path, files)
  dataset = load_dataset(name, {'data_dir': str(tmp_path)})
  expected = crop_and_resize(first, size, method)
  np.testing.assert_array_equal(dataset.train[0]['image'], expected)
  other = {'area': 'antialias', 'antialias': 'area'}[method]
  assert (expected != crop_and_resize(first, size, other)).any()


def test_iterating_over_examples_ends(data_dir):
  dataset = load_dataset('imagenet64', {'data_dir': str(data_dir)})
  assert len(list(dataset.train)) == 3
  with pytest.raises(IndexError):
    dataset.train[3]


def test_a_damaged_record_is_named(tmp_path):
  files = [(b'no image', 0)]
  write_records('imagenet64', tmp_path, {'train': files, 'validation': files})
  dataset = load_dataset('imagenet64', {'data_dir': str(tmp_path)})
  with pytest.raises(UserError, match='imagenet64 train record 0 cannot be'):
    next(batches(dataset, batch_size=1, seed=0))


@pytest.mark.parametrize('name', ['cifar10', 'imagenet64'])
@pytest.mark.parametrize('damage', [bytes, lambda n: b'', lambda n: b'x' * n])
def test_a_damaged_shard_gets_one_line(data_dir, name, damage):
  folder = tfds.open_builder(name, str(data_dir)).data_path
  (path,) = folder.glob('*-train*')
  path.write_bytes(damage(len(path.read_bytes())))
  with pytest.raises(UserError, match=rf'{name} train is damaged') as error:
    load_dataset(name, {'data_dir': str(data_dir)}).open_train()
  assert f'move {folder} away' in str(error.value)
  assert '\n' not in str(error.value)
  with pytest.raises(UserError, match='is damaged'):
    prepare.prepare(name, str(data_dir))


@pytest.mark.parametrize('name', ['cifar10', 'imagenet64'])
def test_records_that_are_damaged_before_the_end_get_one_line(data_dir, name):
  folder = tfds.open_builder(name, str(data_dir)).data_path
  (path,) = folder.glob('*-train*')
  data = path.read_bytes()
  path.write_bytes(bytes(2**15) + data[2**15 :])
  with pytest.raises(UserError, match=rf'{name} train is damaged') as error:
    load_dataset(name, {'data_dir': str(data_dir)}).open_train()[0]
  assert f'move {folder} away' in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('left', ['nothing', 'an empty folder', 'no info'])
def test_the_error_for_missing_data_says_how_to_prepare_them(
  name, left, data_dir
):
  folder = tfds.open_builder(name, str(data_dir)).data_path
  if left == 'no info':
    (folder / 'dataset_info.json').unlink()
  else:
    shutil.rmtree(folder)
  if left == 'an empty folder':
    folder.mkdir()
  dataset = load_dataset(name, {'data_dir': str(data_dir)})
  command = f'data.prepare --dataset={name} --data_dir={data_dir}'
  for split in ('train', 'heldout'):
    with pytest.raises(UserError, match='prepare it once') as error:
      getattr(dataset, split)
    assert command in str(error.value) and '\n' not in str(error.value)


def test_a_missing_shard_counts_as_not_prepared(data_dir):
  for path in data_dir.rglob('cifar10-test*'):
    path.unlink()
  with pytest.raises(UserError, match='prepare it once'):
    load_dataset('cifar10', {'data_dir': str(data_dir)}).open_train()
  with pytest.raises(UserError, match='is incomplete'):
    prepare.prepare('cifar10', str(data_dir))


def test_a_damaged_description_gets_one_line(data_dir):
  (info,) = data_dir.glob('cifar10/*/dataset_info.json')
  info.write_text(info.read_text()[:100])
  with pytest.raises(UserError, match=r'dataset_info\.json of cifar10 is dam'):
    load_dataset('cifar10', {'data_dir': str(data_dir)}).open_train()


def test_another_format_is_refused(data_dir):
  for path in data_dir.glob('cifar10/*/*array_record*'):
    path.rename(str(path).replace('array_record', 'tfrecord'))
  (info,) = data_dir.glob('cifar10/*/dataset_info.json')
  text = info.read_text()
  assert 'array_record' in text
  info.write_text(text.replace('array_record', 'tfrecord'))
  with pytest.raises(UserError, match='as tfrecord, which has no random'):
    load_dataset('cifar10', {'data_dir': str(data_dir)}).open_train()


def test_labels_and_files_change_the_fingerprint(data_dir):
  def fingerprints(**args):
    args = {'data_dir': str(data_dir), **args}
    dataset = load_dataset('imagenet64', args)
    return [dataset.fingerprint(split) for split in ('train', 'heldout')]

  before = fingerprints()
  assert before == fingerprints() and len(set(before)) == 2
  unlabelled = fingerprints(class_conditional=False)
  assert set(unlabelled).isdisjoint(before)
  folder = tfds.open_builder('imagenet64', str(data_dir)).data_path
  shutil.rmtree(folder)
  files = [
    (png(p // 2), k)
    for p, k in zip(pictures('imagenet64'), LABELS, strict=True)
  ]
  split = tfds.SOURCES['imagenet64'][1]
  write_records('imagenet64', data_dir, {'train': files, split: files[:2]})
  assert set(fingerprints()).isdisjoint(before)


def run_prepare(monkeypatch, *args):
  monkeypatch.setattr(sys, 'argv', ['prepare', *args])
  prepare.main()


def test_a_prepared_data_set_is_left_alone(data_dir, monkeypatch, capsys):
  run_prepare(monkeypatch, '--dataset=imagenet64', f'--data_dir={data_dir}')
  assert capsys.readouterr().out.startswith('imagenet64 is prepared in ')


def test_missing_packages_get_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, '_MODULES', ('os', 'nothing_of_this_name'))
  with pytest.raises(SystemExit) as error:
    run_prepare(monkeypatch, '--dataset=cifar10', f'--data_dir={tmp_path}')
  assert error.value.code == (
    'error: this needs nothing_of_this_name: '
    'pip install -r requirements-data.txt'
  )


def test_imagenet_must_be_downloaded_by_hand(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, '_MODULES', ())
  manual = tmp_path / 'downloads' / 'manual'
  manual.mkdir(parents=True)
  (manual / 'ILSVRC2012_img_train.tar').touch()
  with pytest.raises(SystemExit) as error:
    run_prepare(monkeypatch, '--dataset=imagenet64', f'--data_dir={tmp_path}')
  assert 'get ILSVRC2012_img_val.tar from' in error.value.code
  assert str(manual) in error.value.code and '\n' not in error.value.code


def test_an_interrupted_run_is_cleaned_up_and_downloads_stay(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(prepare, '_MODULES', ())
  folder = tfds.open_builder('cifar10', str(tmp_path)).data_path
  left = [
    folder,
    folder.parent / 'incomplete.ABCDEF_3.0.2',
    tmp_path / 'downloads' / 'cifar.tar.gz.tmp.0123',
    tmp_path / 'downloads' / 'extracted' / 'incomplete.0123_TAR',
  ]
  kept = [
    tmp_path / 'downloads' / 'cifar.tar.gz',
    tmp_path / 'downloads' / 'extracted' / 'TAR_GZ.cifar',
  ]
  for path in left + kept:
    path.mkdir(parents=True)
    (path / 'file').touch()
  downloaded = []
  monkeypatch.setattr(tfds, 'download', downloaded.append)
  prepare.prepare('cifar10', str(tmp_path))
  assert [builder.name for builder in downloaded] == ['cifar10']
  assert not any(path.exists() for path in left)
  assert all((path / 'file').exists() for path in kept)


def test_a_failing_network_gets_one_line(tmp_path, monkeypatch):
  def fail(builder):
    raise ConnectionError('no route\nto host')

  monkeypatch.setattr(prepare, '_MODULES', ())
  monkeypatch.setattr(tfds, 'download', fail)
  with pytest.raises(SystemExit, match=r'^error: no route to host$'):
    run_prepare(monkeypatch, '--dataset=cifar10', f'--data_dir={tmp_path}')


def test_lsun_s_database_is_read_without_tensorflow(tmp_path, monkeypatch):
  with (
    lmdb.open(str(tmp_path / 'church_train_lmdb'), map_size=2**20) as database,
    database.begin(write=True) as transaction,
  ):
    for key in (b'b', b'a'):
      transaction.put(key, b'image ' + key)
  builders = []
  monkeypatch.setattr(prepare, '_MODULES', ())
  monkeypatch.setattr(tfds, 'download', builders.append)
  prepare.prepare('lsun_church128', str(tmp_path / 'data'))
  examples = builders[0]._generate_examples(
    extracted_dir=str(tmp_path), file_path='church_train_lmdb'
  )
  assert [(i, e['id'], e['image'].read()) for i, e in examples] == [
    (0, 'a', b'image a'),
    (1, 'b', b'image b'),
  ]
