"""main.py itself: one small run from beginning to end, and wrong input."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import kill_resume
from diffusion_distillation import checkpoints
from diffusion_distillation.checkpoints import safetensors
from diffusion_distillation.commands import cli
from diffusion_distillation.evaluation import evaluator
from diffusion_distillation.generation import grids, shards
from diffusion_distillation.runtime import log, signals
from diffusion_distillation.runtime.errors import DivergedError
from diffusion_distillation.training import loop, trainer
from diffusion_distillation.training.config import spell_samplers
from tests.evaluation.stand_in import Projections

ROOT = pathlib.Path(__file__).parents[1]
MAIN = str(ROOT / 'main.py')
TINY = [
  '--config=tests/toy_distill.py',
  '--config.teacher.train.num_updates=6',
  '--config.teacher.train.eval_every_steps=4',
  '--config.train.log_loss_every_steps=2',
  '--config.train.checkpoint_every_secs=0',
  '--config.teacher.train.log_loss_every_steps=2',
  '--config.teacher.train.checkpoint_every_secs=0',
  '--config.eval.num_samples=16',
]


class KilledError(Exception):
  pass


def run(*args):
  """Runs main.py in this process; returns its exit code (None: success)."""
  before = pathlib.Path.cwd()
  os.chdir(ROOT)
  try:
    cli.run([MAIN, *map(str, args)])
  except SystemExit as error:
    return error.code
  finally:
    os.chdir(before)
  return None


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run') / 'digits'
  assert run(*TINY, f'--workdir={path}') is None
  return path


def files(folder):
  return {
    str(p): (p.stat().st_mtime_ns, p.stat().st_size)
    for p in folder.rglob('*')
    if p.is_file()
  }


def rows_of(report):
  return [
    (row['network'], row['sampler'], row['num_steps']) for row in report['rows']
  ]


def lines_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def measured(workdir):
  """The lines of evaluations.jsonl, without speed and checksums of files."""
  lines = lines_of(workdir / 'evaluations.jsonl')
  return [{**line, 'images_per_second': 0, 'checksum': 0} for line in lines]


def logged(workdir):
  return log.without_times(lines_of(workdir / 'metrics.jsonl'))


def test_one_command_does_everything(workdir):
  report = json.loads((workdir / 'report' / 'report.json').read_text())
  assert rows_of(report) == [
    *[('student', 'ddim', n) for n in (2, 1)],
    *[('teacher', 'ddim', n) for n in (4, 2, 1)],
    *[('teacher', 'ancestral', n) for n in (4, 2, 1)],
  ]
  assert report['metric']['num_samples'] == 16
  assert report['compilations'] == {'train_step': 1, 'distill_step': 1}
  assert [(r['name'], r['updates']) for r in report['rounds']] == [
    ('teacher', 6),
    ('student_00002', 3),
    ('student_00001', 3),
  ]
  assert report['floor'] > 0
  assert [row['is_reference'] for row in report['rows']].index(True) == 2
  for row in report['rows']:
    assert 0 <= row['precision'] <= 1 and 1 <= row['classifier_score'] <= 10
    assert row['frechet_distance_error'] > 0 and row['images_per_second'] > 0
  page = (workdir / 'report' / 'index.html').read_text()
  # A cell for each row, and the training images.
  assert page.count('data:image/png;base64,') >= 9
  assert 'src="http' not in page
  for path in [
    workdir / 'report' / 'fid_vs_steps.png',
    *(workdir / 'samples').glob('*.png'),
  ]:
    Image.open(path).verify()
  # One for each row, one from the evaluation in training, the training images.
  assert len(list((workdir / 'samples').glob('*.png'))) == 2 + 8
  assert {line['stage'] for line in logged(workdir)} == {
    'teacher',
    'student_00002',
    'student_00001',
  }
  assert any((workdir / 'tensorboard' / 'teacher').iterdir())


def test_cards_say_what_their_weights_are(workdir):
  card = checkpoints.read_card(workdir / 'student_00001')
  assert (card.num_steps, card.model['mean_type']) == (1, 'v')
  assert card.parent == str(workdir / 'student_00002')
  assert card.image_shape == (8, 8, 1) and card.num_classes == 10
  assert card.config['model']['args']['width'] == 16
  assert (card.updates, card.objective) == (3, 'progressive')
  teacher = checkpoints.read_card(workdir / 'teacher')
  assert teacher.parent is None and teacher.num_steps == 64


def test_the_same_command_does_nothing_twice(workdir):
  before = files(workdir)
  assert run(*TINY, f'--workdir={workdir}') is None
  after = files(workdir)
  changed = {p for p in after if after[p] != before.get(p)}
  assert all(
    '/report/' in p or '/tensorboard/' in p or p.endswith('/lock')
    for p in changed
  )


@contextlib.contextmanager
def killed(name, update):
  """Ends the training in the block before an update of a round."""
  original = loop.train_stage

  def train_stage(stage):
    def batches(start):
      for i, batch in enumerate(stage.batches(start=start), start):
        stage.saver.wait()  # so that it is free when the next save is due
        if (stage.name, i) == (name, update):
          assert not update or stage.checkpoints.newest() is not None
          raise KilledError
        yield batch

    return original(dataclasses.replace(stage, batches=batches))

  with pytest.MonkeyPatch.context() as patched, pytest.raises(KilledError):
    patched.setattr(
      'diffusion_distillation.training.trainer.train_stage', train_stage
    )
    yield


@pytest.mark.parametrize(
  'killed_at', [[('teacher', 5)], [('student_00002', 2)]]
)
def test_a_killed_run_resumes_to_the_same_bits(workdir, tmp_path, killed_at):
  path = tmp_path / 'digits'
  for name, update in killed_at:
    with killed(name, update):
      run(*TINY, f'--workdir={path}')
    assert 'has had' in run(*TINY, f'--workdir={path}', '--mode=evaluate') or (
      'no checkpoint' in run(*TINY, f'--workdir={path}', '--mode=report')
    )
  assert run(*TINY, f'--workdir={path}') is None
  for name in ('teacher', 'student_00002', 'student_00001'):
    want, got = (checkpoints.load(d / name) for d in (workdir, path))
    jax.tree.map(np.testing.assert_array_equal, want.weights, got.weights)
  assert logged(path) == logged(workdir)


def reached(path, text):
  return path.exists() and text in path.read_text()


def test_a_run_that_does_not_fit_is_refused_and_stays_as_it_is(
  workdir, tmp_path, capsys
):
  path = shutil.copytree(workdir, tmp_path / 'digits')
  before = (path / 'config.json').read_text()
  for flags, message in (
    (['--config.teacher.train.num_updates=7'], 'from teacher after 6 updates'),
    (['--config.teacher.train.num_updates=5'], 'more than the 5'),
    (['--config.seed=1'], 'seed: 0 there, 1 here'),
  ):
    assert message in run(*TINY, *flags, f'--workdir={path}')
  shutil.move(path / 'teacher', tmp_path / 'teacher')
  assert 'teacher has no checkpoint' in run(*TINY, f'--workdir={path}')
  shutil.move(tmp_path / 'teacher', path / 'teacher')
  two = '--config.distillation.end_num_steps=2'
  said = run(*TINY, two, f'--workdir={path}', '--mode=report')
  assert 'had the rounds teacher, student_00002, student_00001' in said
  assert (path / 'config.json').read_text() == before

  values = json.loads(before)
  assert values['data']['images'] == 1500
  values['data']['images'] = 1499
  (path / 'config.json').write_text(json.dumps(values))
  assert 'began with 1,499 training' in run(*TINY, f'--workdir={path}')
  values['data'] = {'images': 1500, 'fingerprint': 'x'}
  (path / 'config.json').write_text(json.dumps(values))
  assert run(*TINY, f'--workdir={path}') is None
  assert 'files of the training images are not the' in capsys.readouterr().err
  fingerprint = json.loads((path / 'config.json').read_text())['data']
  assert fingerprint == json.loads(before)['data']


def test_equal_spellings_of_samplers_are_one_config():
  values = []
  for flags in (
    [
      '--config.sampler=ancestral:gamma=0.30',
      '--config.eval.samplers=("ddim:",)',
    ],
    [
      '--config.sampler=ancestral:gamma=0.3',
      '--config.eval.samplers=("ddim",)',
    ],
  ):
    config = cli.parse([MAIN, *TINY, '--mode=plan', *flags])[1]['config']
    spell_samplers(config)
    values.append(config.to_dict())
  assert values[0] == values[1]
  config.sampler = 'ancestral:gamma=x'
  spell_samplers(config)
  assert config.sampler == 'ancestral:gamma=x'  # for `check` to report


@pytest.mark.slow
def test_kills_and_signals_leave_no_trace(workdir, tmp_path):
  """A short `benchmarks/kill_resume.py`: real processes and signals."""
  path, metrics = tmp_path / 'digits', tmp_path / 'digits' / 'metrics.jsonl'
  cache = (
    f'--config.compilation_cache_dir={jax.config.jax_compilation_cache_dir}'
  )
  settings = (*TINY, cache)
  # A signal in training saves; while rows are measured, nothing needs saving.
  moments = (
    (signal.SIGKILL, metrics, '"step": 2', -signal.SIGKILL),  # the teacher
    (signal.SIGTERM, metrics, 'student_00002', signals.STATUS),
    (signal.SIGINT, path / 'evaluations.jsonl', 'student', -signal.SIGINT),
  )
  for number, file, text, want in moments:
    process = kill_resume.start(path, settings)
    while not reached(file, text):
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.01)
    process.send_signal(number)
    started = time.monotonic()
    said, status = kill_resume.finish(process)
    assert time.monotonic() - started < 10
    assert status == want
    if status == signals.STATUS:
      assert 'rerun the same command to resume' in said
    assert 'Traceback' not in said
  said, status = kill_resume.finish(kill_resume.start(path, settings))
  assert status == 0, said
  want, got = kill_resume.arrays(workdir), kill_resume.arrays(path)
  assert len(want) > 30
  assert kill_resume.differences(want, got) == []
  got['teacher/6/weights/out/kernel'] = b''
  del got['metrics.jsonl']
  assert len(kill_resume.differences(want, got)) == 2
  assert measured(path) == measured(workdir)


def test_a_training_that_diverges_is_in_the_report(
  workdir, tmp_path, monkeypatch, capsys
):
  original, path = loop.train_stage, tmp_path / 'digits'
  shutil.copytree(workdir, path)
  shutil.rmtree(path / 'student_00001')

  def run_until_bad(stage):
    if stage.name != 'student_00001':
      return original(stage)
    raise DivergedError('student_00001: loss nan at update 2')

  monkeypatch.setattr(trainer, 'train_stage', run_until_bad)
  code = run(*TINY, f'--workdir={path}')
  assert code == 'error: student_00001: loss nan at update 2'
  report = json.loads((path / 'report' / 'report.json').read_text())
  assert report['failure'] == 'student_00001: loss nan at update 2'
  assert [r['name'] for r in report['rounds']] == ['teacher', 'student_00002']
  rows = set(rows_of(report))
  assert rows >= {('student', 'ddim', 2), ('teacher', 'ddim', 4)}
  assert ('student', 'ddim', 1) not in rows
  page = (path / 'report' / 'index.html').read_text()
  assert 'loss nan at update 2' in page
  # An error of the report does not hide the failure.
  (path / 'evaluations.jsonl').write_bytes(b'\xff\n')
  assert run(*TINY, f'--workdir={path}') == code
  assert 'no report: ' in capsys.readouterr().err
  (path / 'evaluations.jsonl').unlink()
  monkeypatch.undo()
  # On another machine, or with another version, training may succeed.
  assert run(*TINY, f'--workdir={path}') is None
  report = json.loads((path / 'report' / 'report.json').read_text())
  assert report['failure'] is None
  page = (path / 'report' / 'index.html').read_text()
  assert 'loss nan' not in page


def test_a_kill_while_evaluating_costs_one_row(workdir, tmp_path):
  copy = tmp_path / 'digits'
  shutil.copytree(workdir, copy)
  rows = (copy / 'evaluations.jsonl').read_text().splitlines()
  (copy / 'evaluations.jsonl').write_text(
    '\n'.join(rows[:-1]) + '\n' + rows[-1][:20]
  )
  # The copy is another run of the same config, whose teacher is its own.
  assert run(*TINY, f'--workdir={copy}') is None
  again = (copy / 'evaluations.jsonl').read_text().splitlines()
  assert again[:-1] == rows[:-1]
  assert measured(copy) == measured(workdir)


def test_samples_go_to_an_npz_or_a_folder(workdir, tmp_path, capsys):
  checkpoint = f'--checkpoint={workdir / "student_00002"}'
  out = tmp_path / 'new' / 'samples.npz'
  assert (
    run('--mode=sample', checkpoint, '--seeds=0-11', f'--out={out}') is None
  )
  samples = np.load(out)
  assert samples['arr_0'].shape == (12, 8, 8, 1)
  assert samples['arr_0'].dtype == np.uint8
  np.testing.assert_array_equal(samples['arr_1'], np.arange(12) % 10)
  assert 'warning' not in capsys.readouterr().err

  folder = tmp_path / 'pngs'
  assert (
    run(
      '--mode=sample',
      checkpoint,
      '--seeds=3,7',
      f'--out={folder}',
      '--num_steps=5',
    )
    is None
  )
  assert {p.name for p in folder.iterdir()} == {
    '000003.png',
    '000007.png',
    'grid.png',
  }
  assert 'made for 2 steps, not 5' in capsys.readouterr().err
  assert (
    run('--mode=sample', checkpoint, '--seeds=3', f'--out={folder}') is None
  )
  got = np.asarray(Image.open(folder / '000003.png'))
  assert np.abs(got - samples['arr_0'][3, ..., 0].astype(int)).max() <= 1


def test_images_are_interpolated_and_encoded(workdir, tmp_path, capsys):
  checkpoint = f'--checkpoint={workdir / "student_00002"}'
  samples, picture = tmp_path / 'samples.npz', tmp_path / 'strip.png'
  noise, pair = tmp_path / 'noise.npz', tmp_path / 'pair.png'

  def rows(*args):
    assert (
      run('--mode=interpolate', checkpoint, f'--out={picture}', *args) is None
    )
    images = grids.read_grid(picture, (8, 8, 1))
    return images.reshape(2, 4, 8, 8, 1).astype(int)

  seeds = '--seeds=3,8,1'
  assert run('--mode=sample', checkpoint, seeds, f'--out={samples}') is None
  want = np.load(samples)['arr_0'].astype(int)
  strip = rows(seeds, '--num=4')
  # The ends of both rows, of classes 3, 8 and 1, are those samples.
  for got in (strip[:, 0], want[:2]), (strip[:, -1], want[1:]):
    assert np.abs(got[0] - got[1]).max() <= 1

  given = f'--images={samples}', '--class=3,8,1'
  assert (
    run(
      '--mode=encode', checkpoint, *given, '--iterations=40', f'--out={noise}'
    )
    is None
  )
  said = re.search(r'RMSE ([\d.]+) of 3 images', capsys.readouterr().out)
  arrays = np.load(noise)
  assert arrays['noise'].shape == arrays['arr_0'].shape == (3, 8, 8, 1)
  assert arrays['noise'].dtype == np.float32
  difference = arrays['arr_0'].astype(int) - want
  error = np.sqrt(np.mean(difference**2)) / 127.5
  assert float(said[1]) == pytest.approx(error, abs=3e-3)
  encoded = rows(*given, '--num=4')
  assert encoded.shape == strip.shape

  data = '--config=tests/toy_distill.py'
  assert run('--mode=encode', checkpoint, data, f'--out={pair}') is None
  assert grids.read_grid(pair, (8, 8, 1)).shape == (40, 8, 8, 1)


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['interpolate', '--out=x.png'], 'needs one of --seeds=3,8 and --images'),
    (['interpolate', '--out=x.npz', '--seeds=3,8'], 'give FILE.png'),
    (['interpolate', '--out=x.png', '--seeds=3,3'], 'at least two different'),
    (
      ['interpolate', '--out=x.png', '--seeds=3,8', '--sampler=ancestral'],
      'draws noise in every step',
    ),
    (['interpolate', '--out=x.png', '--images=IMAGES'], '--class=3,1,4'),
    (['encode', '--out=x.png'], 'needs --images=PATH, or --config=FILE.py'),
    (['encode', '--out=x', '--images=IMAGES'], 'give FILE.png or FILE.npz'),
    (
      ['encode', '--out=x.png', '--images=IMAGES'],
      'this checkpoint has classes',
    ),
    (['encode', '--out=images.npz', '--images=IMAGES'], 'would replace'),
    (
      ['encode', '--out=x.png', '--config=digits_distill'],
      'the checkpoint has 10 classes',
    ),
  ],
)
def test_what_cannot_be_interpolated_or_encoded_gets_one_line(
  workdir, tmp_path, args, message
):
  images = tmp_path / 'images.npz'
  np.savez(images, arr_0=np.zeros((2, 8, 8, 1), np.uint8))
  mode, out, *rest = (arg.replace('IMAGES', str(images)) for arg in args)
  out = out.replace('=', f'={tmp_path}/')
  checkpoint = f'--checkpoint={workdir / "student_00002"}'
  assert message in run(f'--mode={mode}', checkpoint, out, *rest)


def test_a_finished_run_is_evaluated_and_reported_again(workdir, capsys):
  rows = json.loads((workdir / 'report' / 'report.json').read_text())['rows']
  assert run(*TINY, f'--workdir={workdir}', '--mode=evaluate') is None
  again = json.loads((workdir / 'report' / 'report.json').read_text())['rows']
  for want, got in zip(rows, again, strict=True):
    assert want == got
  (workdir / 'report' / 'report.json').unlink()
  assert run(*TINY, f'--workdir={workdir}', '--mode=report') is None
  assert (workdir / 'report' / 'report.json').exists()
  capsys.readouterr()
  checkpoint = f'--checkpoint={workdir / "student_00002"}'
  assert run('--mode=evaluate', checkpoint) is None
  figures = json.loads(capsys.readouterr().out)
  assert figures['frechet_distance'] == pytest.approx(
    rows[0]['frechet_distance'], rel=1e-3
  )


def test_a_run_without_weights_is_measured_later(
  workdir, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(evaluator, 'Inception', Projections)
  config = [*TINY, '--config.eval.features=inception']
  copy = tmp_path / 'digits'
  shutil.copytree(workdir, copy)
  (copy / 'evaluations.jsonl').unlink()
  shutil.rmtree(copy / 'samples')
  here = f'--workdir={copy}'
  assert run(*config, here) is None
  told = capsys.readouterr().err
  assert told.count('FID will not be measured') == 1
  assert '--config.eval.inception_path=PATH' in told
  report = json.loads((copy / 'report' / 'report.json').read_text())
  assert report['metric'] is None and len(report['rows']) == 8
  for row in report['rows']:
    assert 'frechet_distance' not in row
    sampler, num_steps = row['sampler'], row['num_steps']
    grid = f'{row["round"]}_{sampler}_{num_steps:05}.png'
    want = np.asarray(Image.open(workdir / 'samples' / grid)).astype(int)
    got = np.asarray(Image.open(copy / 'samples' / grid)).astype(int)
    assert np.abs(want - got).max() <= 1
  assert not (copy / 'report' / 'fid_vs_steps.png').exists()

  checkpoint = f'--checkpoint={copy / "student_00002"}'
  for what in (here, checkpoint, f'--images={tmp_path}'):
    code = run(*config, what, '--mode=evaluate')
    assert 'inception_path=PATH' in code and '\n' not in code

  weights = [
    f'--config.eval.inception_path={tmp_path / "inception.pth"}',
    f'--config.eval.cache_dir={tmp_path / "cache"}',
  ]
  assert run(*config, here, '--mode=evaluate', *weights) is None
  report = json.loads((copy / 'report' / 'report.json').read_text())
  assert report['metric']['label'] == 'FID' and report['floor'] > 0
  for row in report['rows']:
    assert row.keys() > {'frechet_distance', 'sfid', 'inception_score', 'kid'}
  assert (copy / 'report' / 'fid_vs_steps.png').exists()
  assert not (copy / 'evaluation').exists()
  capsys.readouterr()
  assert run(*config, checkpoint, '--mode=evaluate', *weights) is None
  figures = json.loads(capsys.readouterr().out)
  assert figures['kid'] == pytest.approx(report['rows'][0]['kid'], rel=1e-3)


def test_a_kill_within_a_row_costs_a_batch(workdir, tmp_path, monkeypatch):
  copy, drawn = tmp_path / 'digits', []
  shutil.copytree(workdir, copy)
  (copy / 'evaluations.jsonl').unlink()
  save = shards.files.write_npz

  def write_until_killed(path, arrays):
    if len(drawn) == 3:
      raise KilledError
    drawn.append(f'{path.parent.name}/{path.name}')
    save(path, arrays)

  evaluate = [*TINY, f'--workdir={copy}', '--mode=evaluate']
  monkeypatch.setattr(shards.files, 'write_npz', write_until_killed)
  with pytest.raises(KilledError):
    run(*evaluate)
  monkeypatch.setattr(
    shards.files,
    'write_npz',
    lambda path, arrays: (drawn.append(path.name), save(path, arrays)),
  )
  assert run(*evaluate) is None
  # There are 8 rows of 2 batches, and each batch is drawn once.
  assert (
    len(drawn) == 16 and drawn[2] == 'student_00001_ddim_00001/00000000.npz'
  )
  assert drawn[3] == '00000008.npz'
  assert measured(copy) == measured(workdir)


def test_any_images_are_measured_as_samples_are(workdir, tmp_path, capsys):
  checkpoint = f'--checkpoint={workdir / "student_00002"}'
  for out in ('samples.npz', 'folder'):
    args = [checkpoint, '--seeds=0-15', f'--out={tmp_path / out}']
    assert run('--mode=sample', *args) is None
  rows = json.loads((workdir / 'report' / 'report.json').read_text())['rows']
  for out in ('samples.npz', 'folder'):
    capsys.readouterr()
    images = f'--images={tmp_path / out}'
    assert run(*TINY, images, '--mode=evaluate') is None
    figures = json.loads(capsys.readouterr().out)
    assert figures['metric']['num_samples'] == 16
    assert figures['frechet_distance'] == pytest.approx(
      rows[0]['frechet_distance'], rel=1e-3
    )
  code = run(*TINY, '--images=/nowhere', '--mode=evaluate')
  assert code.startswith('error: ') and '/nowhere' in code and '\n' not in code


@pytest.fixture
def foreign(workdir, tmp_path):
  """Writes a student's weights with another card, as other programs may."""

  def write(**changes):
    student = checkpoints.load(workdir / 'student_00002')
    path = tmp_path / 'foreign.safetensors'
    card = student.card.replace(**changes)
    safetensors.write(dataclasses.replace(student, card=card), path)
    return f'--checkpoint={path}'

  return write


def test_a_card_that_does_not_say_how_to_measure_it_is_refused(foreign):
  code = run('--mode=evaluate', foreign(config=None))
  assert 'give --config=FILE.py' in code and '\n' not in code


def test_the_files_that_a_card_names_are_not_touched(
  workdir, tmp_path, foreign, capsys
):
  config = checkpoints.read_card(workdir / 'student_00002').config
  places = {'cache_dir': str(tmp_path / 'cache'), 'reference_path': '/nowhere'}
  changed = {**config, 'eval': {**config['eval'], **places}}
  assert run('--mode=evaluate', foreign(config=changed)) is None
  assert json.loads(capsys.readouterr().out)['metric']['dataset'] == 'digits'
  assert [path.name for path in tmp_path.iterdir()] == ['foreign.safetensors']
  for wrong, message in (
    ({'name': 'folder', 'args': {'path': '/home'}}, 'is not opened'),
    ({'name': 'mnits', 'args': {}}, "unknown dataset.name 'mnits'"),
    ({'name': 'digits'}, 'args'),
  ):
    code = run('--mode=evaluate', foreign(config={**config, 'dataset': wrong}))
    assert message in code and '\n' not in code
    assert 'give --config=FILE.py' in code
  for wrong, message in (
    ({}, 'num_samples is None'),
    ({'num_samples': 'x', 'batch_size': 8}, 'does not say how to'),
    ({'num_samples': 16.0, 'batch_size': 8}, 'must be an integer, got 16.0'),
    ({'num_samples': 16, 'batch_size': 0}, 'batch_size must be 1 to '),
  ):
    code = run('--mode=evaluate', foreign(config={**config, 'eval': wrong}))
    assert message in code and '\n' not in code


def test_wrong_weights_or_references_end_a_run_at_its_start(tmp_path):
  workdir = f'--workdir={tmp_path / "run"}'
  weights = '--config.eval.inception_path=/nowhere'
  code = run(*TINY, workdir, weights, '--config.eval.features=inception')
  assert '/nowhere' in code and '\n' not in code
  code = run(*TINY, workdir, '--config.eval.reference_path=/nowhere.npz')
  assert '/nowhere.npz' in code and '\n' not in code
  assert not (tmp_path / 'run').exists()


def test_a_student_can_be_the_teacher(workdir, tmp_path):
  path = tmp_path / 'further'
  teacher = workdir / 'student_00002'
  args = [
    *TINY,
    f'--workdir={path}',
    f'--config.distillation.teacher_checkpoint_path={teacher}',
    '--config.distillation.start_num_steps=2',
  ]
  assert run(*args) is None
  card = checkpoints.read_card(path / 'student_00001')
  assert card.parent.startswith(str(teacher)) and card.parent_checksum
  report = json.loads((path / 'report' / 'report.json').read_text())
  assert report['compilations'] == {'train_step': 0, 'distill_step': 1}
  assert not (path / 'teacher').exists()
  # A longer round needs the teacher again.
  assert run(*args, '--config.distillation.steps_per_iter=5') is None
  assert checkpoints.read_card(path / 'student_00001').updates == 5


def test_plan_prints_the_ladder_and_runs_nothing(capsys):
  assert run(*TINY, '--mode=plan') is None
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines[3:]] == [
    'teacher',
    'student_00002',
    'student_00001',
    'total',
  ]
  # 6 and 2 x 3 updates of 16 images.
  assert lines[-1].split()[1:3] == ['12', '192']


def test_without_students_the_teacher_is_trained_and_measured(tmp_path):
  code = run(
    *TINY,
    '--config.distillation.objective=',
    '--config.teacher.train.num_updates=2',
    '--config.teacher.model.eval_sampling_num_steps=3',
    f'--workdir={tmp_path / "base"}',
  )
  assert code is None
  report = json.loads(
    (tmp_path / 'base' / 'report' / 'report.json').read_text()
  )
  assert rows_of(report) == [
    ('teacher', 'ddim', 3),
    ('teacher', 'ancestral', 3),
  ]
  assert [r['name'] for r in report['rounds']] == ['teacher']


def test_samplers_with_options_are_rows_of_their_own(workdir, tmp_path):
  copy = tmp_path / 'digits'
  shutil.copytree(workdir, copy)
  code = run(
    *TINY,
    f'--workdir={copy}',
    '--mode=evaluate',
    # Duplicates, by whatever spelling, are measured once.
    '--config.eval.samplers=("ancestral:gamma=0.30","ancestral:gamma=0.3")',
    '--config.eval.num_steps=(4,4,2)',
  )
  assert code is None
  report = json.loads((copy / 'report' / 'report.json').read_text())
  assert rows_of(report)[2:] == [
    ('teacher', 'ancestral:gamma=0.3', n) for n in (4, 2)
  ]
  lines = lines_of(copy / 'evaluations.jsonl')
  assert len(lines) == len(lines_of(workdir / 'evaluations.jsonl')) + 2
  assert lines[-1]['frechet_distance'] != lines[-3]['frechet_distance']
  assert 'gamma 0.3' in (copy / 'report' / 'index.html').read_text()


def test_a_class_can_be_asked_for(workdir, tmp_path):
  checkpoint = f'--checkpoint={workdir / "student_00002"}'
  out = tmp_path / 'samples.npz'

  def draw(*flags):
    args = [checkpoint, '--seeds=0-5', f'--out={out}', *flags]
    assert run('--mode=sample', *args) is None
    samples = np.load(out)
    return samples['arr_0'], samples['arr_1'].tolist()

  every, classes = draw()
  assert classes == [0, 1, 2, 3, 4, 5]
  threes, classes = draw('--class=3')
  assert classes == [3] * 6
  # Seed 3 has class 3 where all classes are drawn in turn.
  np.testing.assert_array_equal(threes[3], every[3])
  assert (threes[4] != every[4]).any()
  assert draw('--class=3,5')[1] == [3, 5] * 3
  code = run('--mode=sample', checkpoint, '--class=10', f'--out={tmp_path}/a')
  assert '--class=10 must be one or more of 0 to 9' in code


def test_a_finished_run_needs_no_teacher_and_may_be_moved(workdir, tmp_path):
  teacher = tmp_path / 'elsewhere'
  shutil.copytree(workdir / 'teacher', teacher)
  args = [*TINY, '--config.distillation.steps_per_iter=2']
  path = '--config.distillation.teacher_checkpoint_path'
  assert run(*args, f'--workdir={tmp_path / "a"}', f'{path}={teacher}') is None
  moved, there = tmp_path / 'b' / 'c', tmp_path / 'there'
  shutil.copytree(tmp_path / 'a', moved)
  shutil.move(teacher, there)
  here = f'--workdir={moved}'
  assert run(*args, here, f'{path}={teacher}', '--mode=report') is None
  assert run(*args, here, f'{path}={teacher}') is None
  # A round is missing: it is trained again from the same teacher only.
  shutil.rmtree(moved / 'student_00001')
  code = run(*args, here, f'{path}={teacher}')
  assert code.startswith(f'error: no checkpoint at {teacher}')
  code = run(*args, here, f'{path}={workdir / "student_00002"}')
  assert code.startswith('error: ') and '\n' not in code
  assert run(*args, here, f'{path}={there}') is None
  assert (moved / 'student_00001').exists()


WRONG = {
  'unknown key': (['--config.train.batchsize=3'], 'batchsize'),
  'unknown section': (['--config.trian.batch_size=3'], 'trian'),
  'wrong type': (['--config.train.batch_size=many'], 'many'),
  'a fraction': (['--config.train.batch_size=8.5'], '8.5'),
  'unknown flag': (['--workdri=x'], 'workdri'),
  'no flag': (['train'], "'train' is not a flag"),
  'unknown mode': (['--mode=distill'], 'train'),
  'no such config': (['--config=configs/nothing.py'], 'nothing.py'),
  'head': (['--config.model.mean_type=score'], 'known: x, eps, v, both'),
  'weighting': (
    ['--config.model.mean_loss_weight_type=snr1'],
    'known: constant',
  ),
  'schedule': (['--config.model.eval_logsnr_schedule.name=a'], 'known: cosine'),
  'sampler': (['--config.sampler=ddpm'], 'known: ddim, ancestral'),
  'optimizer': (['--config.train.optimizer=lion'], 'known: adam'),
  'data set': (['--config.dataset.name=mnits'], 'known: digits'),
  'steps': (['--config.distillation.start_num_steps=6'], 'power of two'),
  'devices': (['--config.train.batch_size=6'], 'multiple of 4 devices'),
  'no teacher': (
    ['--config.distillation.teacher_checkpoint_path=/nowhere'],
    'no checkpoint at /nowhere',
  ),
  'evaluated sampler': (
    ["--config.eval.samplers=('ddim','ddpm')"],
    'known: ddim, ancestral',
  ),
  'no workdir': (['--workdir='], '--workdir'),
  'unwritable workdir': (['--workdir=/dev/null/run'], '--workdir'),
}


@pytest.mark.parametrize(('args', 'message'), WRONG.values(), ids=WRONG)
def test_wrong_input_gets_one_line_and_writes_nothing(
  args, message, tmp_path, monkeypatch
):
  workdir = tmp_path / 'run'
  code = run(*TINY, f'--workdir={workdir}', *args)
  assert isinstance(code, str), code  # sys.exit(text): stderr and status 1
  assert code.startswith('error: ') and message in code and '\n' not in code
  assert not workdir.exists()


def test_your_own_images_must_be_named_before_anything_is_made(tmp_path):
  workdir = tmp_path / 'run'
  code = run('--config=configs/folder_distill.py', f'--workdir={workdir}')
  assert code.startswith('error: ') and '\n' not in code
  assert '--config.dataset.args.path' in code and not workdir.exists()


def test_another_config_s_folder_is_refused_and_untouched(workdir):
  before = files(workdir)
  code = run(*TINY, '--config.seed=3', f'--workdir={workdir}')
  assert 'seed: 0 there, 3 here' in code and '\n' not in code
  assert files(workdir) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('')
  assert 'not empty' in run(*TINY, f'--workdir={tmp_path}')
  assert len(list(tmp_path.iterdir())) == 1


def test_another_network_s_checkpoint_is_refused(workdir, tmp_path):
  teacher = (
    f'--config.distillation.teacher_checkpoint_path={workdir / "teacher"}'
  )
  new = f'--workdir={tmp_path / "new"}'
  code = run(*TINY, teacher, new, '--config.model.args.width=8')
  assert 'model.args.width=16 and the config 8' in code and '\n' not in code
  code = run(*TINY, teacher, new, '--config.model.mean_type=x')
  assert 'mean_type' in code and '\n' not in code
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--seeds=9-1'], '--seeds=9-1 is not valid'),
    (['--out='], '--mode=sample needs --out=PATH'),
    (['--out=/dev/null/x.npz'], 'cannot be written'),
    (['--checkpoint=/nowhere'], 'no checkpoint at /nowhere'),
    (['--num_steps=0'], 'num_steps'),
    (['--num_steps=two'], 'two'),
  ],
)
def test_wrong_requests_for_samples_are_refused(
  workdir, tmp_path, args, message
):
  out = tmp_path / 'samples.npz'
  code = run(
    '--mode=sample',
    f'--checkpoint={workdir / "teacher"}',
    f'--out={out}',
    *args,
  )
  assert code.startswith('error: ') and message in code and '\n' not in code
  assert not out.exists()


@pytest.mark.parametrize(
  'mode', ['train', 'evaluate', 'report', 'sample', 'plan']
)
def test_a_missing_flag_of_a_mode_is_named(mode):
  assert f'--mode={mode} needs ' in run(f'--mode={mode}')


@pytest.mark.parametrize(
  ('out', 'message'),
  [
    ('.', 'is a folder'),
    ('gs://bucket/file', 'is not local'),
    ('/dev/null/x', 'cannot be written'),
    ('x.pt', 'known: .safetensors, .flax, or none'),
  ],
)
def test_the_path_of_an_export_is_checked_first(tmp_path, out, message):
  out = tmp_path if out == '.' else out
  code = run('--mode=export', '--checkpoint=/nowhere', f'--out={out}')
  assert code.startswith('error: ') and message in code and '\n' not in code
  assert not any(tmp_path.iterdir())


def test_a_config_file_that_does_not_run_gets_one_line(tmp_path):
  path = tmp_path / 'config.py'
  path.write_text('def get_config():\n  return 1 / 0\n')
  code = run('--mode=plan', f'--config={path}')
  assert code.startswith('error: ') and '\n' not in code
  assert str(path) in code and 'ZeroDivisionError: division by zero' in code


def test_the_exit_status_is_1_and_there_is_no_traceback():
  done = subprocess.run(
    [sys.executable, MAIN, '--config=configs/digits_distill.py', '--mode=fly'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
