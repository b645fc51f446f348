import dataclasses
import os

import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_distillation.evaluation import metrics, statistics
from diffusion_distillation.evaluation.evaluator import (
  Evaluator,
  open_evaluator,
  open_network,
)
from diffusion_distillation.runtime.errors import UserError
from tests.evaluation.stand_in import Projections, colours, images

TRAIN, HELDOUT, OURS = images(0, 40), images(1, 20), images(2, 30)


def evaluator(network=None, dataset=None, **settings):
  return Evaluator(network or Projections(), dataset or colours(), settings)


def test_the_training_images_themselves_are_at_distance_0():
  figures = evaluator().measure([TRAIN[:15], TRAIN[15:]], 40)
  assert figures['frechet_distance'] == pytest.approx(0, abs=1e-6)
  assert figures['sfid'] == pytest.approx(0, abs=1e-6)
  for name in ('precision', 'recall', 'coverage', 'memorization'):
    assert figures[name] == 1
  # KID is unbiased, so it is below 0 for a set and itself.
  assert figures['kid'] < 0


def test_each_figure_is_of_its_own_features():
  figures = evaluator().measure([OURS], 30)
  train, ours, heldout = (Projections()(x) for x in (TRAIN, OURS, HELDOUT))

  def moments(x):
    x = x.astype(np.float64)
    return x.mean(0), np.cov(x.T)

  def distance(a, b):
    return metrics.frechet_distance(*moments(a), *moments(b))

  want = {
    'frechet_distance': distance(train.features, ours.features),
    'frechet_distance_error': metrics.frechet_distance_error(
      *moments(train.features), ours.features
    ),
    'frechet_distance_heldout': distance(heldout.features, ours.features),
    'sfid': distance(train.spatial, ours.spatial),
    'kid': metrics.kid(train.features, ours.features),
  }
  want |= zip(
    ('inception_score', 'inception_score_std'),
    metrics.inception_score(ours.probabilities),
    strict=True,
  )
  *shares, nearest = metrics.neighbours(train.features, ours.features)
  names = ('precision', 'recall', 'density', 'coverage')
  want |= zip(names, shares, strict=True)
  threshold = np.quantile(
    metrics.nearest(train.features, heldout.features), 0.05
  )
  want['memorization'] = np.mean(nearest <= threshold)
  assert figures == pytest.approx(want, rel=1e-6)
  some = Projections()(HELDOUT[::2])
  assert evaluator().real_figures(10)['floor'] == pytest.approx(
    distance(train.features, some.features), rel=1e-6
  )
  real = evaluator().real_figures(50)
  assert real['floor'] == pytest.approx(
    distance(train.features, heldout.features), rel=1e-6
  )


def test_memorization_is_the_share_nearer_than_held_out_images(monkeypatch):
  monkeypatch.setattr(metrics, 'kid', lambda *features: 0.0)  # it takes seconds
  rng = np.random.RandomState(3)
  fresh = rng.randint(0, 256, (4000, 4, 4, 3)).astype(np.uint8)
  dataset = colours(fresh[:1000], fresh[1000:2000])
  measured = evaluator(dataset=dataset)

  def memorization(found):
    return measured.measure([found], len(found))['memorization']

  # Of the same distribution: 5 %, with a standard error of 0.8 %.
  assert memorization(fresh[2000:]) == pytest.approx(0.05, abs=0.025)
  half = np.concatenate([fresh[:500], fresh[2000:2500]])
  assert memorization(half) == pytest.approx(0.525, abs=0.025)
  copies = evaluator(dataset=colours(fresh[:1000], fresh[:100]))
  figures = copies.measure([fresh[900:1100]], 200)
  assert figures['memorization'] == 0.5
  nothing_held_out = evaluator(dataset=colours(TRAIN, HELDOUT[:0]))
  assert 'memorization' not in nothing_held_out.measure([OURS], 30)


def test_a_cache_without_features_of_held_out_images_is_computed_again(
  tmp_path,
):
  want = evaluator(cache_dir=tmp_path).measure([OURS], 30)
  path = next(p for p in tmp_path.iterdir() if 'heldout' in p.name)
  with np.load(path) as file:
    arrays = {k: file[k] for k in file if k not in ('features', 'score')}
  np.savez(path, **arrays)
  network = Projections()
  assert evaluator(network, cache_dir=tmp_path).measure([OURS], 30) == want
  assert network.images == 20 + 30


def test_the_protocol_says_how_it_was_measured():
  protocol = evaluator().protocol(50_000)
  assert protocol['label'] == 'FID' and protocol['features'] == 'projections'
  assert protocol['features_checksum'] == Projections().checksum
  assert protocol['reference'] == 'cifar10 train, 40 images'
  assert protocol['images'].startswith('uint8, rounded; seeds 0 to')
  assert protocol['heldout'] == 'cifar10 held out, 20 images'
  assert protocol['resize'] == protocol['reference_resize'] == 'tf1'
  assert protocol['num_samples'] == 50_000
  other = evaluator(Projections(resize='pytorch')).protocol(50_000)
  assert other['resize'] == 'pytorch'


def one_byte_changed(array):
  array = array.copy()
  array[17, 2, 3, 1] ^= 1
  return array


@pytest.mark.parametrize(
  ('data', 'key'),
  [
    ({'train': one_byte_changed(TRAIN)}, 'reference_checksum'),
    ({'heldout': one_byte_changed(HELDOUT)}, 'heldout_checksum'),
  ],
)
def test_data_that_changed_in_one_image_have_another_protocol(data, key):
  one, other = (
    evaluator(dataset=d).protocol(30) for d in (colours(), colours(**data))
  )
  assert {k for k in one if one[k] != other[k]} == {key}


def test_the_cache_is_read_and_keeps_all(tmp_path):
  first, second = Projections(), Projections()
  cache = tmp_path / 'new'
  want = evaluator(first, cache_dir=cache).measure([OURS], 30)
  assert first.images == 40 + 20 + 30
  assert evaluator(second, cache_dir=cache).measure([OURS], 30) == want
  assert second.images == 30
  names = sorted(path.name for path in cache.iterdir())
  assert [name.rsplit('-', 1)[0] for name in names] == [
    'cifar10-heldout-4x4x3',
    'cifar10-train-4x4x3',
  ]


@pytest.mark.parametrize(
  ('change', 'other'),
  [
    ({'dataset': colours()}, False),
    ({'dataset': colours(one_byte_changed(TRAIN))}, True),
    ({'dataset': colours(images(0, 41))}, True),
    ({'network': Projections('others')}, True),
    ({'network': Projections(resize='pytorch')}, True),
  ],
)
def test_the_cache_depends_on_what_changes_the_statistics(
  tmp_path, change, other
):
  evaluator(cache_dir=tmp_path).real_figures(50)
  evaluator(cache_dir=tmp_path, **change).real_figures(50)
  files = [p.name for p in tmp_path.iterdir() if 'train' in p.name]
  assert len(files) == 1 + other


def test_a_damaged_cache_is_computed_again_with_a_notice(tmp_path, capsys):
  want = evaluator(cache_dir=tmp_path).real_figures(50)
  whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
  for path, content in whole.items():
    path.write_bytes(content[: len(content) // 2])
  assert evaluator(cache_dir=tmp_path).real_figures(50) == want
  assert capsys.readouterr().err.count('computing it again') == 2
  broken = next(path for path in whole if 'train' in path.name)
  content = bytearray(broken.read_bytes())
  content[200] ^= 255
  broken.write_bytes(content)
  assert evaluator(cache_dir=tmp_path).real_figures(50) == want
  assert 'computing it again' in capsys.readouterr().err


def test_a_cache_that_cannot_be_used_is_a_notice_at_once(
  tmp_path, capsys, monkeypatch
):
  want = evaluator().real_figures(50)
  (tmp_path / 'file').write_text('')
  capsys.readouterr()
  measuring = evaluator(cache_dir=tmp_path / 'file' / 'cache')
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and 'Not a directory' in err
  assert err.startswith('notice: ') and 'eval.cache_dir=' in err
  assert measuring.real_figures(50) == want
  capsys.readouterr()

  def no_home(path):
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.setattr(statistics.pathlib.Path, 'expanduser', no_home)
  measuring = evaluator(cache_dir='~/.cache')
  err = capsys.readouterr().err
  assert 'eval.cache_dir=~/.cache' in err and 'home directory' in err
  assert measuring.real_figures(50) == want
  assert not os.path.exists('~')


def test_statistics_that_cannot_be_kept_are_used_all_the_same(
  tmp_path, capsys, monkeypatch
):
  def full(path, arrays):
    raise UserError(f'cannot write {path}: No space left on device')

  monkeypatch.setattr(statistics.files, 'write_npz', full)
  got = evaluator(cache_dir=tmp_path).real_figures(50)
  assert got == evaluator().real_figures(50)
  assert capsys.readouterr().err.count('notice: statistics are not kept') == 2


def test_kept_features_are_of_images_evenly_spaced(monkeypatch):
  monkeypatch.setattr(statistics, 'MAX_FEATURES', 10)
  monkeypatch.setattr(statistics, '_BATCH_SIZE', 7)
  kept = statistics.of_split(Projections(), colours(), 'train')
  train = Projections()(TRAIN).features
  np.testing.assert_allclose(kept.features, train[::4], rtol=1e-5)
  np.testing.assert_allclose(kept.mu, train.mean(0), rtol=1e-4)


def test_a_reference_file_may_have_mean_and_covariance_alone(tmp_path):
  path = tmp_path / 'stats.npz'
  train = Projections()(TRAIN).features
  np.savez(path, mu=train.mean(0), sigma=np.cov(train.T))
  network = Projections()
  measured = evaluator(network, reference_path=str(path))
  figures = measured.measure([OURS], 30)
  assert network.images == 30  # no image of the data set
  assert set(figures) == {
    'frechet_distance',
    'frechet_distance_error',
    'inception_score',
    'inception_score_std',
  }
  want = evaluator().measure([OURS], 30)
  for name in ('frechet_distance', 'frechet_distance_error'):
    assert figures[name] == pytest.approx(want[name], rel=1e-4)
  protocol = measured.protocol(30)
  assert protocol['reference'] == (
    'stats.npz, without sFID, without precision, recall and KID'
  )
  assert len(protocol['reference_checksum']) == 64
  # The file does not say which rule it was made with.
  assert 'EDM and ADM go with tf1' in protocol['reference_resize']
  assert measured.real_figures(50) == {
    'floor': None,
    'train_classifier_score': None,
  }


def test_a_file_of_the_cache_serves_as_reference_for_all(tmp_path):
  want = evaluator(cache_dir=tmp_path).measure([OURS], 30)
  path = next(path for path in tmp_path.iterdir() if 'train' in path.name)
  measured = evaluator(reference_path=path)
  got = measured.measure([OURS], 30)
  del want['frechet_distance_heldout'], want['memorization']
  assert got == pytest.approx(want, rel=1e-9)
  assert measured.protocol(30)['reference_resize'] == 'tf1'
  with pytest.raises(UserError) as error:
    evaluator(Projections(resize='pytorch'), reference_path=path)
  assert '--config.eval.resize=tf1' in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'mu': np.zeros(7), 'sigma': np.eye(7)}, 'projections has 6'),
    ({'mu': np.zeros(6)}, 'sigma'),
    ({'mu': np.zeros(6), 'sigma': np.eye(5)}, 'sigma'),
    ({'arr_0': np.zeros(6)}, 'neither'),
    ({'mu': np.array([{}]), 'sigma': np.eye(1)}, 'cannot (be )?read'),
    ({'mu': np.full(6, np.nan), 'sigma': np.eye(6)}, 'mu must have finite'),
    (
      {'mu': np.zeros(6), 'sigma': np.eye(6), 'features': np.zeros((9, 5))},
      'features',
    ),
    (
      {'mu': np.zeros(6), 'sigma': np.eye(6), 'features': np.zeros((3, 6))},
      'at least 6',
    ),
  ],
)
def test_wrong_reference_files_get_one_line_at_once(tmp_path, arrays, message):
  path = tmp_path / 'stats.npz'
  np.savez(path, **arrays)
  with pytest.raises(UserError, match=message) as error:
    evaluator(reference_path=path)
  assert '\n' not in str(error.value) and 'stats.npz' in str(error.value)


def test_absent_and_foreign_reference_files_get_one_line(tmp_path):
  (tmp_path / 'text.npz').write_text('mu')
  os.mkfifo(tmp_path / 'pipe.npz')  # which would wait for a writer
  for name, message in (
    ('no.npz', 'no such file'),
    ('~/no.npz', 'no such file'),
    ('pipe.npz', 'no such file'),
    ('text.npz', 'not a .npz'),
  ):
    with pytest.raises(UserError, match=message):
      evaluator(reference_path=tmp_path / name)


@pytest.mark.parametrize('count', [0, 1, 2, 5])
def test_too_few_images_get_one_line_before_anything_is_computed(count):
  network = Projections()
  with pytest.raises(UserError, match=f'{count} images are too few') as error:
    evaluator(network).measure([OURS[:count]], count)
  assert 'at least 6' in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(UserError, match='training images of cifar10'):
    evaluator(dataset=colours(TRAIN[:count]))
  config = ConfigDict({'eval': {'num_samples': count}})
  with pytest.raises(UserError, match=r'eval\.num_samples'):
    open_evaluator(config, colours(), needed=False)
  assert network.images == 0


@pytest.mark.parametrize('count', [6, 7])
def test_a_few_images_are_enough(count):
  few = evaluator(dataset=colours(TRAIN[:count], HELDOUT[:2]))
  figures = few.measure([OURS[:count]], count)
  assert np.all(np.isfinite(list(figures.values())))


def test_images_that_are_all_alike_are_measured():
  figures = evaluator().measure([OURS[:1].repeat(9, axis=0)], 9)
  assert figures['frechet_distance_error'] == pytest.approx(0, abs=1e-9)
  assert figures['frechet_distance'] > 1
  assert np.all(np.isfinite(list(figures.values())))


def test_errors_of_the_data_come_through():
  class Damaged(list):
    def __getitem__(self, index):
      raise UserError('cat.png cannot be read')

  dataset = dataclasses.replace(
    colours(), open_heldout=lambda: Damaged([0] * 20)
  )
  with pytest.raises(UserError, match=r'^cat\.png cannot be read$'):
    evaluator(dataset=dataset).measure([TRAIN], 40)


def test_a_data_set_without_classifier_is_measured_by_inception(monkeypatch):
  name = 'diffusion_distillation.evaluation.evaluator.Inception'
  monkeypatch.setattr(name, lambda *args: args)
  weights = {'inception_path': 'a.pth'}
  cifar10 = ConfigDict({'name': 'cifar10', 'args': {}})
  digits = ConfigDict({'name': 'digits', 'args': {}})
  assert open_network(cifar10, {}) is None
  assert open_network(cifar10, weights) == ('a.pth', 'tf1')
  torch = {**weights, 'resize': 'pytorch'}
  assert open_network(cifar10, torch) == ('a.pth', 'pytorch')
  assert open_network(digits, weights).name == 'digits-mlp-relu64'
  inception = {**weights, 'features': 'inception'}
  assert open_network(digits, inception) == ('a.pth', 'tf1')
  with pytest.raises(UserError, match="'area'; known: tf1, pytorch"):
    open_network(cifar10, {'resize': 'area'})
  with pytest.raises(UserError, match="'vgg'; known: inception, classifier"):
    open_network(cifar10, {'features': 'vgg'})


def test_missing_weights_are_an_error_only_where_they_are_needed():
  data = {'name': 'cifar10', 'args': {}}
  config = ConfigDict({'dataset': data, 'eval': {'num_samples': 50}})
  assert open_evaluator(config, colours(), needed=False) is None
  with pytest.raises(UserError, match=r'--config\.eval\.inception_path=PATH'):
    open_evaluator(config, colours())
