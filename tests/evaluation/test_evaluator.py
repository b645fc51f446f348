import dataclasses

import numpy as np
import pytest

from diffusion_distillation.evaluation import metrics, statistics
from diffusion_distillation.evaluation.evaluator import Evaluator
from diffusion_distillation.runtime.errors import UserError
from tests.evaluation.stand_in import Projections, colours, examples


def images_of(split):
  return np.stack([example['image'] for example in split])


def evaluator(network=None, dataset=None, **settings):
  return Evaluator(network or Projections(), dataset or colours(), settings)


def test_the_training_images_themselves_are_at_distance_0():
  train = images_of(colours().train)
  figures = evaluator().measure([train[:15], train[15:]], 40)
  assert figures['frechet_distance'] == pytest.approx(0, abs=1e-6)
  assert figures['sfid'] == pytest.approx(0, abs=1e-6)
  assert figures['precision'] == figures['recall'] == 1
  # Unbiased, and so below 0 for a set and itself: 2 (own - all pairs).
  assert figures['kid'] < 0


def test_each_figure_is_of_its_own_features():
  images = images_of(examples(2, 30))
  figures = evaluator().measure([images], 30)
  (train, ours), heldout = (
    (Projections()(x) for x in (images_of(colours().train), images)),
    Projections()(images_of(colours().heldout)),
  )

  def distance(a, b):
    a, b = (x.astype(np.float64) for x in (a, b))
    return metrics.frechet_distance(
      a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T)
    )

  want = {
    'frechet_distance': distance(train.features, ours.features),
    'frechet_distance_heldout': distance(heldout.features, ours.features),
    'sfid': distance(train.spatial, ours.spatial),
    'kid': metrics.kid(train.features, ours.features),
  }
  want |= zip(
    ('inception_score', 'inception_score_std'),
    metrics.inception_score(ours.probabilities),
    strict=True,
  )
  want |= zip(
    ('precision', 'recall'),
    metrics.precision_recall(train.features, ours.features),
    strict=True,
  )
  assert figures == pytest.approx(want, rel=1e-6)
  real = evaluator().real_figures()
  assert real['floor'] == pytest.approx(
    distance(train.features, heldout.features), rel=1e-6
  )


def test_the_protocol_says_how_it_was_measured():
  protocol = evaluator().protocol(50_000)
  assert protocol['label'] == 'FID' and protocol['features'] == 'projections'
  assert protocol['features_checksum'] == Projections().checksum
  assert protocol['reference'] == 'cifar10 train, 40 images'
  other = evaluator(dataset=colours(seed=5)).protocol(50_000)
  assert other['reference'] == protocol['reference']
  assert other['reference_checksum'] != protocol['reference_checksum']
  assert protocol['images'].startswith('uint8, rounded; seeds 0 to')
  assert protocol['heldout'] == 'cifar10 held out, 20 images'
  assert protocol['resize'] == 'TF1 bilinear to 299'
  assert protocol['num_samples'] == 50_000


def test_the_cache_is_read_and_keeps_all(tmp_path):
  images = [images_of(examples(2, 30))]
  first, second = Projections(), Projections()
  want = evaluator(first, cache_dir=tmp_path / 'new').measure(images, 30)
  assert first.images == 40 + 20 + 30
  assert (
    evaluator(second, cache_dir=tmp_path / 'new').measure(images, 30) == want
  )
  assert second.images == 30
  names = sorted(path.name for path in (tmp_path / 'new').iterdir())
  assert [name.rsplit('-', 1)[0] for name in names] == [
    'cifar10-heldout-4x4x3',
    'cifar10-train-4x4x3',
  ]


@pytest.mark.parametrize(
  ('change', 'other'),
  [
    ({'dataset': colours()}, False),
    ({'dataset': colours(seed=5)}, True),  # as many images, but others
    ({'network': Projections('others')}, True),
    ({'dataset': colours(41)}, True),
  ],
)
def test_the_cache_tells_apart_what_changes_the_statistics(
  tmp_path, change, other
):
  evaluator(cache_dir=tmp_path).real_figures()
  evaluator(cache_dir=tmp_path, **change).real_figures()
  files = [p.name for p in tmp_path.iterdir() if 'train' in p.name]
  assert len(files) == 1 + other


def test_a_damaged_cache_is_made_anew_and_said(tmp_path, capsys):
  want = evaluator(cache_dir=tmp_path).real_figures()
  whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
  for path, content in whole.items():
    path.write_bytes(content[: len(content) // 2])
  assert evaluator(cache_dir=tmp_path).real_figures() == want
  assert capsys.readouterr().err.count('made anew') == 2
  broken = next(path for path in whole if 'train' in path.name)
  content = bytearray(broken.read_bytes())
  content[200] ^= 255
  broken.write_bytes(content)
  assert evaluator(cache_dir=tmp_path).real_figures() == want
  assert 'made anew' in capsys.readouterr().err


def test_kept_features_are_of_images_evenly_spaced(monkeypatch):
  monkeypatch.setattr(statistics, 'MOST_FEATURES', 10)
  monkeypatch.setattr(statistics, '_BATCH', 7)
  dataset = colours()
  kept = statistics.of_split(Projections(), dataset, 'train')
  train = Projections()(images_of(dataset.train)).features
  np.testing.assert_allclose(kept.features, train[::4], rtol=1e-5)
  np.testing.assert_allclose(kept.mu, train.mean(0), rtol=1e-4)


def test_a_reference_file_of_mean_and_covariance(tmp_path):
  path, images = tmp_path / 'stats.npz', [images_of(examples(2, 30))]
  train = Projections()(images_of(colours().train)).features
  np.savez(path, mu=train.mean(0), sigma=np.cov(train.T))
  network = Projections()
  measured = evaluator(network, reference_path=str(path))
  figures = measured.measure(images, 30)
  assert network.images == 30  # none of the data set
  assert set(figures) == {
    'frechet_distance',
    'inception_score',
    'inception_score_std',
  }
  want = evaluator().measure(images, 30)
  assert figures['frechet_distance'] == pytest.approx(
    want['frechet_distance'], rel=1e-4
  )
  protocol = measured.protocol(30)
  assert protocol['reference'] == (
    'stats.npz, without sFID, without precision, recall and KID'
  )
  assert len(protocol['reference_checksum']) == 64
  assert measured.real_figures() == {
    'floor': None,
    'train_classifier_score': None,
  }


def test_a_file_of_the_cache_serves_as_reference_for_all(tmp_path):
  images = [images_of(examples(2, 30))]
  want = evaluator(cache_dir=tmp_path).measure(images, 30)
  path = next(path for path in tmp_path.iterdir() if 'train' in path.name)
  got = evaluator(reference_path=path).measure(images, 30)
  del want['frechet_distance_heldout']
  assert got == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'mu': np.zeros(7), 'sigma': np.eye(7)}, 'projections has 6'),
    ({'mu': np.zeros(6)}, 'sigma'),
    ({'mu': np.zeros(6), 'sigma': np.eye(5)}, 'sigma'),
    ({'arr_0': np.zeros(6)}, 'neither'),
    ({'mu': np.array([{}]), 'sigma': np.eye(1)}, 'damaged'),
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
  for name, message in (('no.npz', 'no such file'), ('text.npz', 'no .npz')):
    with pytest.raises(UserError, match=message):
      evaluator(reference_path=tmp_path / name)


def test_data_that_are_not_there_are_said_in_one_line():
  class Absent:
    name, image_shape = 'cifar10', (4, 4, 3)

    @property
    def train(self):
      raise ValueError('cifar10 is not prepared')

  with pytest.raises(UserError, match='not prepared'):
    evaluator(dataset=Absent())


def test_an_image_that_is_damaged_by_now_is_told_in_one_line(tmp_path):
  class Damaged(list):
    def __getitem__(self, index):
      raise ValueError('cat.png cannot be read')

  with pytest.raises(UserError, match=r'^data: cat\.png cannot be read$'):
    statistics.image_of(Damaged(), 0)
  dataset = dataclasses.replace(
    colours(), open_heldout=lambda: Damaged(colours().heldout)
  )
  measuring = evaluator(dataset=dataset)
  with pytest.raises(UserError, match=r'^data: cat\.png cannot be read$'):
    measuring.measure([images_of(colours().train)], 40)
