import jax
import numpy as np
import pytest

from diffusion_distillation.evaluation import classifier
from diffusion_distillation.evaluation.classifier import (
  Classifier,
  open_features,
)
from diffusion_distillation.generation.generator import Generator, to_uint8
from diffusion_distillation.generation.sample_files import (
  check_writable,
  parse_seeds,
)
from diffusion_distillation.report import plots
from diffusion_distillation.runtime.errors import UserError
from tests.conftest import TINY, tiny_config


@pytest.fixture(scope='module')
def card():
  config = tiny_config()
  return {
    'mean_type': 'v',
    'args': {**config.model.args.to_dict(), **TINY},
    'image_shape': [8, 8, 1],
    'num_classes': 10,
    'logsnr_schedule': config.model.eval_logsnr_schedule.to_dict(),
    'clip': True,
    'logvar_type': 'fixed_large',
  }


@pytest.mark.parametrize('method', ['ddim', 'ancestral', 'stochastic'])
def test_an_image_depends_on_its_seed_alone(card, params, method):
  seeds = np.arange(13)
  whole = Generator(card, 16).images(params, seeds, 3, method)
  assert whole.shape == (13, 8, 8, 1) and whole.dtype == np.uint8
  assert len({image.tobytes() for image in whole}) == 13
  # Other batches, another order, other devices for the same seed.
  parts = Generator(card, 4).images(params, seeds[::-1], 3, method)[::-1]
  difference = whole.astype(int) - parts.astype(int)
  assert np.abs(difference).max() <= 1  # of rounding float32 to uint8
  assert np.mean(difference != 0) < 0.01


def test_one_compilation_serves_every_step_count(card, params):
  generator = Generator(card, 4)
  generator.images(params, np.arange(8), 1, 'ddim')
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **labels: compiled.append(event)
  )
  generator.images(params, np.arange(8), 5, 'ddim')
  assert not [event for event in compiled if 'backend_compile' in event]


@pytest.mark.parametrize(
  ('method', 'key', 'value'),
  [
    ('ddim', 'clip', False),
    ('ddim', 'mean_type', 'x'),
    (
      'ddim',
      'logsnr_schedule',
      {'name': 'uniform', 'logsnr_min': -20.0, 'logsnr_max': 20.0},
    ),
    ('ancestral', 'logvar_type', 'fixed_small'),
  ],
)
def test_the_card_is_obeyed(card, params, method, key, value):
  # Parameters times 3, so that predictions do leave [-1, 1].
  loud = jax.tree.map(lambda p: 3 * p, params)
  as_is, other = (
    Generator(c, 4).images(loud, np.arange(4), 3, method)
    for c in (card, {**card, key: value})
  )
  assert np.mean(as_is != other) > 0.1


def test_the_keys_of_images_are_no_training_s_keys():
  from diffusion_distillation.generation import generator as generate
  from diffusion_distillation.training import progressive

  key = jax.random.key(generate._DOMAIN)
  images = {
    tuple(jax.random.key_data(jax.random.fold_in(key, seed)).tolist())
    for seed in range(64)
  }
  trainings = {
    tuple(jax.random.key_data(progressive._stage_key(seed, n)).tolist())
    for seed in range(4)
    for n in (0, 1, 2, 4)
  }
  assert len(images) == 64 and not images & trainings


def test_to_uint8_rounds_and_saturates():
  x = np.array([-1.5, -1, -1 + 0.6 / 127.5, 0, 1, 7], np.float32)
  np.testing.assert_array_equal(to_uint8(x), [0, 0, 1, 128, 255, 255])


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
  for out in ('file/a.npz', 'file', 'folder.npz'):
    with pytest.raises(UserError, match='--out'):
      check_writable(tmp_path / out)


def test_a_grid_shows_every_image_in_its_place():
  images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) + 10
  images = images.repeat(40, axis=1).repeat(40, axis=2)
  page = plots.grid(images, columns=4, rows=2)
  assert page.shape == (2 * 41 + 1, 4 * 41 + 1, 1)
  centres = page[21::41, 21::41, 0]
  np.testing.assert_array_equal(centres, [[10, 11, 12, 13], [14, 15, 96, 96]])


def test_integrators_are_plotted_against_what_they_cost(tmp_path, monkeypatch):
  figures, save = [], plots._save

  def keep(figure, axes, path):
    figures.append(figure)
    save(figure, axes, path)

  monkeypatch.setattr(plots, '_save', keep)
  rows = [
    {'sampler': name, 'num_steps': n, 'frechet_distance': 10 / n}
    for name in ('ddim', 'euler', 'heun', 'rk4', 'ancestral', 'distilled')
    for n in (4, 1, 2)
  ]
  rows.append({'sampler': 'ddim', 'num_steps': 8})  # not measured
  metric = {'label': 'FID', 'features': 'some'}
  report = {'metric': metric, 'rows': rows}
  plots.plot_fid_vs_evaluations(report, tmp_path / 'curve.png')
  lines = figures[0].axes[0].lines
  # Steps of Heun ask the network twice and of RK4 four times, the last once.
  costs = {
    line.get_label().split()[0]: list(line.get_xdata()) for line in lines
  }
  assert costs == {
    'ddim': [1, 2, 4],
    'euler': [1, 2, 4],
    'heun': [1, 3, 7],
    'rk4': [1, 5, 13],
  }
  assert all(list(line.get_ydata()) == [10, 5, 2.5] for line in lines)
  assert len({(line.get_color(), line.get_marker()) for line in lines}) == 4
  assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')


def test_the_classifier_knows_held_out_digits():
  from diffusion_distillation.data import digits

  dataset = digits.load(class_conditional=True)
  images = np.stack([example['image'] for example in dataset.heldout])
  labels = [example['label'] for example in dataset.heldout]
  found, spatial, probabilities = Classifier('digits')(images)
  assert spatial is None
  assert found.shape == (297, 64)
  assert np.mean(probabilities.argmax(1) == labels) > 0.97


def test_a_data_set_without_classifier_is_measured_by_inception(monkeypatch):
  assert open_features('cifar10', None) is None
  monkeypatch.setattr(classifier, 'Inception', lambda path: ('inception', path))
  assert open_features('cifar10', 'a.pth') == ('inception', 'a.pth')
  assert open_features('digits', 'a.pth').name == 'digits-mlp-relu64'
