"""A report as one HTML page that needs no other file and no network."""

import collections
import html
import importlib.resources
import json
import math
import re

from diffusion_distillation.report import (
  diagnosis,
  labels,
  methods,
  paper,
  pictures,
  plots,
  result,
)
from diffusion_distillation.runtime.log import duration


def make_page(report, *, row_images, real_images=None, entries=()):
  """Returns the report as one self-contained HTML page.

  Each row adds about 4 KB to it if images are 8x8, and at most 70 KB otherwise.

  Args:
    report: result of `report.make_report`.
    row_images: (round, sampler, num_steps) -> (N, H, W, C) uint8, the first
      samples of a row, drawn from the same noise for every row; 6 are enough.
      A row may be absent.
    real_images: (N, H, W, C) uint8, the first training images, or None; 100 are
      enough.
    entries: lines of metrics.jsonl: `stage`, the round's name, `step`, and
      metrics.
  """
  sections = (
    _header(report),
    _quality(report),
    _methods(report),
    _samples(report, row_images, real_images),
    _figures(report),
    _training(report, entries),
    _settings(report),
  )
  files = importlib.resources.files(__package__)
  css, js = ((files / name).read_text() for name in ('page.css', 'page.js'))
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(report['title'])}: distillation report</title>
<style>
{css}</style>
</head>
<body>
{''.join(sections)}<script>
{js}</script>
</body>
</html>
"""


def _header(report):
  """Returns the result in a sentence, and how it was measured."""
  first, *others = result.sentences(report)
  failure = ''
  if report['failure'] is not None:
    failure = (
      '<p class="failure"><strong>This run failed:</strong> '
      f'{_text(report["failure"])}</p>\n'
    )
  metric = report['metric']
  if metric is not None:
    others.append(
      f'{metric["label"]} of {metric["num_samples"]:,} samples against '
      f'{metric["reference"]}, in the features {metric["features"]}.'
    )
  if any('frechet_distance_error' in row for row in report['rows']):
    others.append(_errors(report))
  # Otherwise lines could break after the dashes of a flag.
  first = re.sub(r'--[\w.=]+', r'<code>\g<0></code>', _text(first))
  return (
    f'<header>\n<h1>{_text(report["title"])}: distillation report</h1>\n'
    f'{failure}<p class="result">{first}</p>\n{_notes(others)}</header>\n'
  )


def _errors(report):
  """Returns what the uncertainties of figures are."""
  if 'num_runs' in report:
    return (
      f'Figures are means of {report["num_runs"]} training seeds, and ± is the '
      'standard deviation between them; samples and trainings are those of the '
      "first. Two figures count as different if Student's t test says so at a "
      'level of 5 %.'
    )
  return (
    '± is one standard error, from the choice of samples. Two figures count as '
    'different if they are more than two errors of their difference apart.'
  )


def _quality(report):
  """Returns the curves of quality against what sampling costs."""
  label = labels.heading('frechet_distance', report['metric'])
  figures = []
  for x, what in plots.COSTS.items():
    figure = plots.plot_quality(report, x, legend=False)
    if figure is not None:
      ends = '; '.join(
        _describe(curve, x) for curve in plots.quality_curves(report, x)
      )
      alt = f'{label} against {what}. {ends}.'
      figures.append(f'<figure>{plots.to_svg(figure, alt)}</figure>\n')
  if not figures:
    return ''
  notes = [
    paper.note(report['metric']),
    'Broad grey line: the Pareto front, the rows that no other row beats in '
    'both cost and distance. If figures differ by less than their errors, a '
    'row may be on it by chance.',
  ]
  if report['floor'] is not None:
    (floor,) = labels.numbers([report['floor']])
    notes.append(
      'Dotted line: real images that are not trained on '
      f'({report["metric"]["heldout"]}) are at {floor}. Where they are fewer '
      'than the samples, samples can be below this line.'
    )
  curves = plots.quality_curves(report)
  if len(curves) > len(plots.COLORS):
    notes.append('Curves without a row on the front are faint.')
  if all(row['nfe'] == row['num_steps'] for row in report['rows']):
    notes.append(
      'Every sampler here evaluates the network once per step, so the number '
      'of steps is the NFE.'
    )
  legend = ''.join(
    f'<li><span style="color:{curve.color}" aria-hidden="true">'
    f'{plots.MARKERS[curve.marker]}</span> {_text(curve.label)}</li>'
    for curve in curves
  )
  if paper.curves(report['metric']):
    legend += '<li>thin lines: the paper</li>'
  legend = f'<ul class="legend">{legend}</ul>\n'
  return _section(
    'Quality against cost',
    f'<div class="quality">\n{_curves([*figures, legend])}</div>\n'
    f'{_notes(notes)}',
  )


def _describe(curve, x):
  """Returns the ends of a curve in words."""
  texts = labels.column(curve.rows, 'frechet_distance')
  first, last = curve.rows[0], curve.rows[-1]
  at = [f'{result.cost(row, x):.3g}' for row in (first, last)]
  end = '' if first is last else f' and {texts[-1]} at {at[1]}'
  return f'{curve.label}: {texts[0]} at {at[0]}{end}'


def _methods(report):
  """Returns the table of ways to few steps, if there are several."""
  if len(methods.names(report)) < 2 or report['metric'] is None:
    return ''
  lines = []
  for method in methods.compare(report):
    label, *texts = methods.cells(method)
    lines.append(_row(label, ''.join(f'<td>{text}</td>' for text in texts)))
  metric = labels.heading('frechet_distance', report['metric'])
  caption = (
    f'{metric} / precision / RMSE to the teacher, by network evaluations '
    '(NFE), and what training took after that of the teacher.'
  )
  table = _table('methods', caption, map(_text, methods.HEADINGS), [lines])
  return _section('Ways to few steps', table)


def _samples(report, row_images, real_images):
  """Returns one picture: samplers by rows, step counts by columns."""
  rows = report['rows']
  counts = sorted({row['num_steps'] for row in rows})
  figures = labels.numbers([row.get('frechet_distance') for row in rows])
  figures = dict(zip(map(_identity, rows), figures, strict=True))
  lines = []
  for label, members in labels.group(rows).items():
    cells = dict.fromkeys(counts, '')
    for row in members:
      images = row_images.get(_identity(row))
      if images is not None:
        alt = f'Samples of the {label}, {labels.steps(row["num_steps"])}.'
        picture = pictures.to_html(images, pictures.columns(images), alt)
        figure = f'<small>{figures[_identity(row)]}</small>'
        cells[row['num_steps']] = f'{picture}{figure}'
    if any(cells.values()):
      tds = ''.join(f'<td>{cell}</td>' for cell in cells.values())
      lines.append(_row(label, tds))
  if real_images is not None:
    width = max(1, len(counts))
    picture = pictures.to_html(
      real_images,
      width * pictures.columns(real_images),
      'Images of the training set.',
    )
    lines.append(
      _row('training images', f'<td colspan="{width}">{picture}</td>')
    )
  if not lines:
    return ''
  caption = 'All samplers start from the same noise; no image was selected.'
  if any(figures.values()):
    metric = labels.heading('frechet_distance', report['metric'])
    caption += f' Below them is the {metric}.'
  headings = ['sampler', *map(labels.steps, counts)]
  return _section(
    'Samples',
    _table('samples', caption, map(_text, headings), [lines]),
  )


def _figures(report):
  """Returns the table of everything that was measured."""
  rows = report['rows']
  if report['metric'] is None:
    return ''
  keys = [
    key
    for key in labels.COLUMNS
    if any(row.get(key) is not None for row in rows)
  ]
  columns = [_column(rows, key) for key in keys]
  cells = {
    _identity(row): ''.join(line)
    for row, *line in zip(rows, *columns, strict=True)
  }
  fronts = {
    kind: set(map(_identity, result.pareto_front(rows, cost)))
    for kind, cost in (('NFE', 'nfe'), ('time', 'seconds'))
  }
  bodies = []
  for label, members in labels.group(rows).items():
    body = []
    for row in members:
      kinds = [k for k, front in fronts.items() if _identity(row) in front]
      badges = [f'Pareto, {" and ".join(kinds)}'] if kinds else []
      if row['is_reference']:
        line = _row(label, cells[_identity(row)], ['reference', *badges])
        bodies.insert(0, [line.replace('<tr>', '<tr class="reference">')])
      else:
        body.append(_row(label, cells[_identity(row)], badges))
    bodies.append(body)
  headings = ['sampler', *(_heading(key, report['metric']) for key in keys)]
  caption = (
    'The best figure of a column is marked. Pareto: no other row beats this '
    'one in both the distance and the NFE, or the time.'
  )
  if any(row['is_reference'] for row in rows):
    caption += ' Reference: the teacher as it is distilled.'
  table = _table('sortable', caption, headings, filter(None, bodies))
  notes = []
  if 'images_per_second' in keys and report['hardware']:
    notes.append(
      'Images per second: the median of several batches, without compilation, '
      f'on {_hardware(report["hardware"])}.'
    )
  if 'memorization' in keys:
    notes.append(
      'Memorization: the share of samples that are nearer to a training image '
      'than 95 % of the held-out images are. It is 0.05 for new data and 1 for '
      'copies.'
    )
  if 'teacher_rmse' in keys:
    notes.append(
      "RMSE to the teacher's solution: of images in [-1, 1] from the same "
      f'noise; the solution is {report["metric"]["solution"]}.'
    )
  if report['train_classifier_score'] is not None:
    score = labels.number(report['train_classifier_score'])
    notes.append(f'The training images have a classifier score of {score}.')
  return _section('All figures', f'{table}{_notes(notes)}')


def _heading(key, metric):
  """Returns a column's heading as HTML, with the direction that is better."""
  better = {
    1: '&nbsp;<abbr title="higher is better">↑</abbr>',
    -1: '&nbsp;<abbr title="lower is better">↓</abbr>',
    0: '',
  }[labels.COLUMNS[key].better]
  return f'{_text(labels.heading(key, metric))}{better}'


def _column(rows, key):
  """Returns the cells of a column as HTML, the best marked."""
  texts, better = labels.column(rows, key), labels.COLUMNS[key].better
  known = [
    (better * row[key], text)
    for row, text in zip(rows, texts, strict=True)
    if text and math.isfinite(row[key])
  ]
  best = max(known)[1].split(' ')[0] if better and len(known) > 1 else None
  cells = []
  for row, text in zip(rows, texts, strict=True):
    if not text:
      cells.append('<td></td>')
      continue
    # Figures with the same text count as equally good.
    is_best = text.split(' ')[0] == best
    content = f'<span class="best">{text}</span>' if is_best else text
    cells.append(f'<td data-value="{row[key]}">{content}</td>')
  return cells


def _training(report, entries):
  """Returns the trainings: a table, and their curves."""
  rounds = report['rounds']
  names = {training['name']: training['num_steps'] for training in rounds}
  # A training that failed has entries, but is not a finished round.
  names |= {e['stage']: e['stage'] for e in entries if e['stage'] not in names}
  networks = {}  # the teacher, the students, or those of each method
  for name, text in names.items():
    network = name.rpartition('_')[0] or name
    networks.setdefault(network, {})[name] = text
  figures = []
  metric = labels.heading('frechet_distance', report['metric'])
  for key, label in (
    ('loss', 'loss'),
    ('step_error', 'step error'),
    ('frechet_distance', metric),
  ):
    for network, part in networks.items():
      figure = plots.plot_training(entries, part, key, label)
      if figure is not None:
        who = "students'" if network == 'student' else f"{network}'s"
        caption = f'The {who} {label} while training.'
        if len(part) > 1:
          caption += ' Rounds follow each other, with their step counts above.'
        figures.append(
          f'<figure>{plots.to_svg(figure, caption)}'
          f'<figcaption>{_text(caption)}</figcaption></figure>\n'
        )
  distances = [_distance(report['rows'], each) for each in rounds]
  table = _rounds(rounds, distances, metric) if rounds else ''
  if not table and not figures:
    return ''
  counts = '; '.join(
    f'{step} was compiled {"once" if count == 1 else f"{count} times"}'
    for step, count in report['compilations'].items()
    if count
  )
  notes = _notes([*diagnosis.warnings(rounds), f'{counts}.' if counts else ''])
  return _section('Training', f'{table}{notes}{_curves(figures)}')


def _distance(rows, training):
  """Returns the distance of a round's samples in its own number of steps."""
  found = [
    row.get('frechet_distance')
    for row in rows
    if row['round'] == training['name']
    and row['num_steps'] == training['num_steps']
  ]
  return next(iter(found), None)


def _rounds(rounds, distances, metric):
  """Returns the table of trainings, with their sum.

  Args:
    rounds: those of a report.
    distances: the Frechet distance of each, or None.
    metric: name of this distance.
  """
  losses = labels.numbers([t['final_loss'] for t in rounds], 4)
  measured = labels.numbers(distances, 2)
  diagnosed = [
    labels.numbers([t.get(key) for t in rounds], 3)
    for key in ('step_error', 'relative_loss')
  ]
  lines = [
    f'<tr><th scope="row"><code>{_text(training["name"])}</code></th>'
    f'<td>{_text(training["objective"])}</td><td>{training["num_steps"]:,}</td>'
    f'<td>{training["updates"]:,}</td><td>{duration(training["seconds"])}</td>'
    f'<td>{loss}</td><td>{error}</td><td>{relative}</td><td>{distance}</td>'
    f'<td>{_percent(training.get("mfu"))}</td></tr>\n'
    for training, distance, loss, error, relative in zip(
      rounds, measured, losses, *diagnosed, strict=True
    )
  ]
  updates = sum(training['updates'] for training in rounds)
  seconds = duration(sum(training['seconds'] for training in rounds))
  foot = (
    f'<tfoot><tr><th scope="row">all</th><td></td><td></td><td>{updates:,}</td>'
    f'<td>{seconds}</td>{"<td></td>" * 5}</tr></tfoot>\n'
  )
  return _table(
    'rounds',
    'The training of each network, in order. Times are h:mm:ss. The step error '
    'is the distance between the end of the step of the student and the end of '
    'the step that its target asks for, relative to the length of the latter. '
    'The relative loss is divided by that of the teacher against the clean '
    'images. The distance is '
    'that of samples in as many steps. MFU is the share of the FLOP/s of large '
    'matrix products that training reaches.',
    (
      'folder',
      'objective',
      'steps',
      'updates',
      'time',
      'final loss',
      'step error',
      'relative loss',
      _text(metric),
      'MFU',
    ),
    [lines],
    foot,
  )


def _percent(share):
  return '' if share is None else f'{share:.0%}'


def _settings(report):
  """Returns the command, settings and versions of the run."""
  facts = {
    'started': report['date'],
    'commit': report['commit'],
    'hardware': report['hardware'] and _hardware(report['hardware']),
    'parameters': report['parameters'] and f'{report["parameters"]:,}',
    'versions': ', '.join(f'{k} {v}' for k, v in report['versions'].items()),
  }
  command = ''
  if report['command']:
    command = (
      '<p>To repeat the run:</p>\n'
      f'<pre class="command">{_text(report["command"])}</pre>\n'
    )
  protocol = ''
  if report['metric'] is not None:
    protocol = (
      '<details><summary>Protocol of the figures</summary>\n'
      f'{_facts(report["metric"])}</details>\n'
    )
  config = _text(json.dumps(report['config'], indent=2))
  return _section(
    'Settings',
    f'{command}{_facts(facts)}{protocol}<details><summary>Configuration'
    f'</summary>\n<pre>{config}</pre></details>\n',
  )


def _identity(row):
  return row['round'], row['sampler'], row['num_steps']


def _hardware(hardware):
  """Returns the name of the hardware in words."""
  counts = collections.Counter(hardware['devices'])
  devices = ', '.join(
    f'{count}\N{MULTIPLICATION SIGN}{name}' for name, count in counts.items()
  )
  return f'{hardware["cpu"]}, {hardware["cores"]} cores; {devices}'


def _text(value):
  """Returns a value as text of an HTML page."""
  return html.escape(str(value))


def _section(title, content):
  return f'<section>\n<h2>{title}</h2>\n{content}</section>\n'


def _notes(sentences):
  return ''.join(f'<p class="muted">{_text(s)}</p>\n' for s in sentences if s)


def _facts(facts):
  """Returns names and values, without unknown values."""
  items = ''.join(
    f'<dt>{_text(name.replace("_", " "))}</dt><dd>{_text(value)}</dd>\n'
    for name, value in facts.items()
    if value
  )
  return f'<dl>\n{items}</dl>\n'


def _curves(figures):
  return f'<div class="curves">\n{"".join(figures)}</div>\n'


def _row(label, cells, badges=()):
  marks = ''.join(f' <span class="badge">{badge}</span>' for badge in badges)
  return f'<tr><th scope="row">{_text(label)}{marks}</th>{cells}</tr>\n'


def _table(kind, caption, headings, bodies, foot=''):
  """Returns a table that scrolls if the page is too narrow.

  Args:
    kind: class of the table in page.css.
    caption: a sentence.
    headings: headings of the columns, as HTML.
    bodies: lists of rows, as HTML.
    foot: the table's last rows, as HTML.
  """
  head = ''.join(f'<th scope="col">{heading}</th>' for heading in headings)
  caption = f'<caption><span>{_text(caption)}</span></caption>'
  bodies = ''.join(f'<tbody>\n{"".join(rows)}</tbody>\n' for rows in bodies)
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{kind}">\n'
    f'<table class="{kind}">\n{caption}\n'
    f'<thead><tr>{head}</tr></thead>\n{bodies}{foot}</table>\n</div>\n'
  )
