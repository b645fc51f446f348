"""main.py on the paper's configs, shrunk by flags alone, and on tiny data."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_distillation import checkpoints
from diffusion_distillation.commands import config_file
from diffusion_distillation.data import tfds
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.evaluation import evaluator
from diffusion_distillation.evaluation.inception import Inception, weight_shapes
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.training.config import trainings
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state
from diffusion_distillation.training.step import make_step
from tests.checkpoints.test_formats import FILE
from tests.make_inception_weights import make_inception_weights
from tests.make_records import write_records
from tests.test_configs import FORM
from tests.test_main import run

# The size of the data and of the network, and how long it trains.
SHRUNK = [
  '--config.model.args.ch=8',
  '--config.model.args.emb_ch=16',
  '--config.model.args.num_res_blocks=1',
  '--config.model.args.attn_resolutions=()',
  '--config.train.batch_size=4',
  '--config.teacher.train.batch_size=4',
  '--config.teacher.train.num_updates=2',
  '--config.distillation.start_num_steps=4',
  '--config.distillation.steps_per_iter=2',
]
EVAL = ['--config.eval.num_samples=6', '--config.eval.batch_size=6']
ONE_STEP = ['--config.eval.samplers=("ddim",)', '--config.eval.num_steps=(1,)']
# One level, which is enough for attention in the middle.
LEVELS = ['--config.model.args.ch_mult=(1,)']


def files(shape):
  rng = np.random.RandomState(0)
  for label in range(8):
    file = io.BytesIO()
    image = rng.randint(0, 256, shape, np.uint8)
    Image.fromarray(image).save(file, 'PNG')
    yield file.getvalue(), label


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  every = list(files((32, 32, 3)))
  splits = {'train': every, tfds.SOURCES['cifar10'][1]: every}
  write_records('cifar10', folder, splits)
  return f'--config.dataset.args.data_dir={folder}'


def read_report(workdir):
  return json.loads((workdir / 'report' / 'report.json').read_text())


def test_a_distill_config_runs_from_training_to_report(
  tmp_path, data_dir, capsys
):
  workdir = tmp_path / 'run'
  config = '--config=configs/cifar10_distill.py'
  args = [config, *SHRUNK, *EVAL, *ONE_STEP, *LEVELS, data_dir]
  assert run(*args, f'--workdir={workdir}') is None
  assert 'pt_inception-2015-12-05-6726825d.pth' in capsys.readouterr().err
  report = read_report(workdir)
  assert [r['num_steps'] for r in report['rounds'][1:]] == [2, 1]
  assert report['compilations'] == {'train_step': 1, 'distill_step': 1}
  for row in (
    'student_00002_ddim_00002',
    'student_00001_ddim_00001',
    'teacher_ddim_00001',
  ):
    assert (workdir / 'samples' / f'{row}.png').exists()
  assert (workdir / 'report' / 'index.html').exists()


@pytest.mark.parametrize('name', ['imagenet64', 'lsun_bedroom128'])
def test_both_steps_of_larger_configs_have_shapes(name):
  """The configs have two levels here, and nothing is computed."""
  config = config_file.load(f'configs/{name}_distill.py')
  config.model.args.update(ch=16, emb_ch=16, num_res_blocks=1, head_dim=16)
  config.model.args.update(ch_mult=(1, 2), attn_resolutions=())
  dataset = load_dataset(config.dataset.name, config.dataset.args)
  denoiser = build_denoiser(
    config.model, dataset.image_shape, dataset.num_classes
  )
  params = denoiser.param_shapes()
  batch = {
    'image': jax.ShapeDtypeStruct((1, 2, *dataset.image_shape), np.uint8),
    'label': jax.ShapeDtypeStruct((1, 2), np.int32),
  }
  for training in trainings(config):
    train = training.config.train
    optimizer = make_optimizer(train)
    step = make_step(
      training.step_name, training.objective, denoiser, optimizer, train
    )
    state = jax.eval_shape(
      lambda params, optimizer=optimizer, train=train: create_state(
        params, optimizer, num_updates=3, ema_decay=train.ema_decay
      ),
      params,
    )
    teacher = params if training.objective.needs_teacher else None
    replicated = jax.vmap(step, (None, None, None, 0, None), axis_name='batch')
    new, metrics = jax.eval_shape(
      replicated, state, teacher, jnp.int32(2), batch, jax.random.key(0)
    )
    one = jax.tree.map(lambda leaf: leaf.shape[1:], new)
    assert one == jax.tree.map(lambda leaf: leaf.shape, state)
    assert metrics['loss'].shape == (1,)


@pytest.fixture
def inception_path(tmp_path, monkeypatch):
  """A file of random weights, and a network that takes few images at once."""
  path = tmp_path / 'inception.npz'
  np.savez(path, **make_inception_weights(weight_shapes()))
  monkeypatch.setattr(
    evaluator, 'Inception', lambda p, resize: Inception(p, resize, 1)
  )
  return f'--config.eval.inception_path={path}'


@pytest.mark.slow
def test_a_config_of_the_original_distills_its_checkpoint_and_is_measured(
  tmp_path, data_dir, inception_path
):
  path = tmp_path / 'theirs.py'
  path.write_text(FORM.replace('TEACHER', str(FILE)))
  workdir = tmp_path / 'run'
  args = [
    f'--config=configs/google.py:{path}',
    data_dir,
    inception_path,
    *EVAL,
    '--config.eval.samplers=()',
    f'--config.eval.cache_dir={tmp_path / "cache"}',
  ]
  assert run(*args, f'--workdir={workdir}') is None
  report = read_report(workdir)
  assert not (workdir / 'teacher').exists()
  assert [r['num_steps'] for r in report['rounds']] == [2, 1]
  card = checkpoints.read_card(workdir / 'student_00002')
  assert card.parent == str(FILE)
  assert report['metric']['label'] == 'FID'
  assert [(r['sampler'], r['num_steps']) for r in report['rows']] == [
    ('ddim', 2),
    ('ddim', 1),
  ]
  for row in report['rows']:
    for figure in (
      'frechet_distance',
      'sfid',
      'inception_score',
      'precision',
      'recall',
      'kid',
    ):
      assert np.isfinite(row[figure]), figure
  assert [row['paper'] for row in report['rows']] == [4.51, 9.12]


def test_a_checkpoint_of_the_original_is_sampled_and_exported(
  tmp_path, data_dir
):
  path = tmp_path / 'theirs.py'
  path.write_text(FORM.replace('TEACHER', str(FILE)))
  student = tmp_path / 'student.safetensors'
  checkpoint = f'--checkpoint={FILE}'
  code = run(
    f'--config=configs/google.py:{path}',
    '--mode=export',
    checkpoint,
    f'--out={student}',
  )
  assert code is None
  drawn = []
  for args in (
    [f'--config=configs/google.py:{path}', checkpoint],
    [f'--checkpoint={student}'],  # its card describes it
  ):
    out = tmp_path / 'samples.npz'
    assert run('--mode=sample', *args, '--seeds=0-3', f'--out={out}') is None
    drawn.append(np.load(out)['arr_0'])
  assert drawn[0].shape == (4, 32, 32, 3)
  np.testing.assert_array_equal(*drawn)
  assert '--config=' in run('--mode=sample', checkpoint, '--out=x.npz')


def test_data_that_are_not_prepared_are_one_line_and_nothing_is_made(tmp_path):
  workdir = tmp_path / 'run'
  code = run(
    '--config=configs/cifar10_distill.py',
    f'--config.dataset.args.data_dir={tmp_path}',
    f'--workdir={workdir}',
  )
  assert 'diffusion_distillation.data.prepare --dataset=cifar10' in code
  assert '\n' not in code and not workdir.exists()
