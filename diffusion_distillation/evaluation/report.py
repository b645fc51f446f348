"""The report of a run: report.json, its curve, and one page to look at."""

import base64
import html
import json

from diffusion_distillation.errors import UserError
from diffusion_distillation.evaluation import plots
from diffusion_distillation.evaluation.evaluate import (
  Evaluator,
  Rows,
  example_images,
  plan_rows,
)
from diffusion_distillation.training import checkpoints, files
from diffusion_distillation.training.log import duration
from diffusion_distillation.training.run_folder import versions
from diffusion_distillation.training.settings import rounds

_FIGURES = (
  'frechet_distance',
  'frechet_distance_heldout',
  'classifier_score',
  'precision',
  'recall',
  'seconds',
)


def make_report(config, dataset, workdir):
  """Returns the report of a run as JSON values.

  Args:
    config: of the run.
    dataset: its Dataset.
    workdir: its folder, absolute, with checkpoints and evaluations.

  Raises:
    UserError: something that the report needs is not there yet.
  """
  rows, measured = [], Rows(workdir)
  for wanted, _ in plan_rows(config, workdir):
    row = measured.find(wanted)
    if row is None:
      raise UserError(
        f'{workdir} has no evaluation of {wanted["sampler"]} at '
        f'{wanted["num_steps"]} steps yet; --mode=evaluate makes it'
      )
    rows.append({k: row[k] for k in ('sampler', 'num_steps', *_FIGURES)})
  evaluator = Evaluator(dataset, config.eval.num_samples)
  teacher, compilations = None, {'train_step': 0}
  if (workdir / 'teacher').exists():
    teacher = checkpoints.read_card(workdir / 'teacher')['training']
    compilations['train_step'] = teacher['compilations']
  report_rounds = []
  if config.distillation is not None:
    trainings = [
      {'num_steps': this.num_steps}
      | checkpoints.read_card(workdir / this.name)['training']
      for this in rounds(config.distillation)
    ]
    # The most that one process needed: a run that is resumed compiles anew.
    compilations['distill_step'] = max(t['compilations'] for t in trainings)
    keys = ('num_steps', 'updates', 'seconds', 'final_loss')
    report_rounds = [{k: t[k] for k in keys} for t in trainings]
  return {
    'metric': evaluator.description,
    'rows': rows,
    'floor': evaluator.floor,
    'train_classifier_score': evaluator.train_score,
    'teacher': teacher,
    'rounds': report_rounds,
    'compilations': compilations,
  }


def write_report(config, dataset, workdir):
  """Writes report.json, fid_vs_steps.png and index.html; returns their folder.

  Args:
    config: of the run.
    dataset: its Dataset.
    workdir: its folder, absolute.
  """
  report = make_report(config, dataset, workdir)
  folder = workdir / 'report'
  folder.mkdir(exist_ok=True)
  files.write_text(folder / 'report.json', json.dumps(report, indent=2) + '\n')
  plots.plot_fid_vs_steps(report, folder / 'fid_vs_steps.png')
  real = workdir / 'samples' / 'training_images.png'
  plots.save_grid(example_images(dataset.train), real)
  grids = [real] + [
    workdir / 'samples' / f'{row["sampler"]}_{row["num_steps"]:05}.png'
    for row in report['rows']
  ]
  page = _page(config, report, folder / 'fid_vs_steps.png', grids)
  files.write_text(folder / 'index.html', page)
  return folder


def _page(config, report, curve, grids):
  """Returns the report as one self-contained HTML page."""
  metric = report['metric']
  name = html.escape(config.dataset.name)
  columns = ('sampler', 'num_steps', *_FIGURES)
  table = _table(columns, [[row[c] for c in columns] for row in report['rows']])
  trainings = [(f'{r["num_steps"]} steps', r) for r in report['rounds']]
  if report['teacher']:
    trainings.insert(0, ('teacher', report['teacher']))
  times = _table(
    ('training', 'updates', 'time', 'final loss'),
    [
      [what, t['updates'], duration(t['seconds']), t['final_loss']]
      for what, t in trainings
    ],
  )
  pictures = ''.join(
    f'<figure><figcaption>{html.escape(_caption(path))}</figcaption>'
    f'{_picture(path)}</figure>'
    for path in grids
    if path.exists()
  )
  settings = html.escape(json.dumps(config.to_dict(), indent=2))
  made_with = ', '.join(f'{k} {v}' for k, v in versions().items())
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{name}: distillation report</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .2rem .8rem; text-align: right;
         border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }} figure {{ margin: 1rem 0; }}
pre {{ background: #f6f6f6; padding: 1rem; overflow: auto; }}
</style></head><body>
<h1>{name}</h1>
<p>Frechet distance in {html.escape(metric['features'])} of
{metric['num_samples']} samples against {html.escape(metric['reference'])}, and
(heldout) against {html.escape(metric['heldout'])}. The held-out images
themselves are {report['floor']:.3g} from the training images: that is real
data, but few images, which raises the figure, so more samples can come below
it. The training images have a classifier score of
{report['train_classifier_score']:.3g}. Seconds are for drawing all samples,
without compilation. In one step, ancestral sampling is DDIM.</p>
{_picture(curve)}
<h2>Samplers</h2>{table}
<h2>Training</h2>{times}
<p>Compilations: {html.escape(json.dumps(report['compilations']))}</p>
<h2>Samples, all from the same initial noise</h2>{pictures}
<h2>Settings</h2><p>{html.escape(made_with)}</p><pre>{settings}</pre>
</body></html>
"""


def _caption(path):
  sampler, _, num_steps = path.stem.rpartition('_')
  if not num_steps.isdigit():
    return path.stem.replace('_', ' ')
  return f'{sampler}, {int(num_steps)} step{"s" * (int(num_steps) > 1)}'


def _picture(path):
  data = base64.b64encode(path.read_bytes()).decode()
  return f'<img alt="{path.stem}" src="data:image/png;base64,{data}">'


def _table(columns, rows):
  """Returns an HTML table; floats get three significant digits."""

  def cell(value):
    text = f'{value:.3g}' if isinstance(value, float) else str(value)
    return f'<td>{html.escape(text)}</td>'

  head = ''.join(f'<th>{c.replace("_", " ")}</th>' for c in columns)
  body = ''.join(f'<tr>{"".join(map(cell, row))}</tr>' for row in rows)
  return f'<table><tr>{head}</tr>{body}</table>'
