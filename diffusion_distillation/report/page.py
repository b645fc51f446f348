"""The report as a page: one HTML file that needs no other."""

import base64
import html
import json

from diffusion_distillation.report import paper
from diffusion_distillation.report.rows import FIGURES
from diffusion_distillation.runtime.log import duration
from diffusion_distillation.runtime.run_folder import versions

_COLUMNS = (
  'sampler',
  'num_steps',
  'frechet_distance',
  'paper',
  'ratio',
  *(figure for figure in FIGURES if figure != 'frechet_distance'),
)


def make_page(config, report, curves, grids):
  """Returns the report as one self-contained HTML page.

  Args:
    config: of the run.
    report: of `report.make_report`.
    curves: paths of the pictures of quality against what sampling costs.
    grids: paths of the pictures of samples; some may be absent.
  """
  name = html.escape(config.dataset.name)
  found = set().union(*report['rows'])
  columns = [c for c in _COLUMNS if c in found]
  table = _table(
    [_heading(c, report['metric']) for c in columns],
    [[row.get(c, '') for c in columns] for row in report['rows']],
  )
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
.failure {{ border-left: 4px solid #b00020; padding-left: 1rem; }}
pre {{ background: #f6f6f6; padding: 1rem; overflow: auto; }}
</style></head><body>
<h1>{name}</h1>
{_failure(report)}
{_text(report)}
{''.join(map(_picture, curves))}
<h2>Samplers</h2>{table}
<h2>Training</h2>{times}
<p>Compilations: {html.escape(json.dumps(report['compilations']))}</p>
<h2>Samples, all from the same initial noise</h2>{pictures}
<h2>Settings</h2><p>{html.escape(made_with)}</p><pre>{settings}</pre>
</body></html>
"""


def _failure(report):
  """Returns why a run ended before its end, in HTML; '' where it did not."""
  if report['failure'] is None:
    return ''
  return (
    '<p class="failure"><strong>This run failed.</strong> '
    f'{html.escape(report["failure"])}</p>'
  )


def _text(report):
  """Returns how the figures came about, in HTML."""
  metric = report['metric']
  if metric is None:
    return (
      '<p>Nothing is measured yet; --mode=evaluate does it, for data sets '
      'other than digits with --config.eval.inception_path=PATH.</p>'
    )
  lines = [
    f'{metric["label"]} in the features {metric["features"]} of '
    f'{metric["num_samples"]} samples against {metric["reference"]}.'
  ]
  if report['floor'] is not None:
    lines.append(
      f'Held out: against {metric["heldout"]}. These themselves are '
      f'{report["floor"]:.3g} from the training images: that is real data, but '
      'few images, which raises the figure, so more samples can come below it.'
    )
  if report['train_classifier_score'] is not None:
    lines.append(
      'The training images have a score of '
      f'{report["train_classifier_score"]:.3g}.'
    )
  lines.append(
    'Ratio: to the teacher at its own steps. Seconds are for drawing all '
    'samples, without compilation. In one step, ancestral sampling is DDIM.'
  )
  lines.append(paper.note(metric))
  protocol = '; '.join(f'{k}: {v}' for k, v in metric.items() if v is not None)
  return (
    f'<p>{html.escape(" ".join(lines))}</p>'
    f'<p><small>Protocol: {html.escape(protocol)}</small></p>'
  )


def _heading(column, metric):
  """Returns the name of a column of the table of samplers."""
  if metric and column.startswith('frechet_distance'):
    return column.replace('frechet_distance', metric['label'])
  return {'ratio': 'to the teacher', 'paper': 'FID in the paper'}.get(
    column, column
  )


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

  head = ''.join(
    f'<th>{html.escape(c.replace("_", " "))}</th>' for c in columns
  )
  body = ''.join(f'<tr>{"".join(map(cell, row))}</tr>' for row in rows)
  return f'<table><tr>{head}</tr>{body}</table>'
