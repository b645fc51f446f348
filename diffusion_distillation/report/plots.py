"""The curves of a report: quality against cost, and training."""

import html
import io
import math
import re
import typing

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from diffusion_distillation.report import labels, paper, result

# Each color has a contrast of 3:1 or more with the page, light or dark.
COLORS = (
  '#d64545',
  '#d97700',
  '#2f81d6',
  '#1a9464',
  '#9a63d2',
  '#c2528f',
  '#80823a',
  '#138f9c',
)
# Markers in matplotlib -> the same markers as characters.
MARKERS = {'o': '●', 's': '■', '^': '▲', 'D': '◆', 'v': '▼', 'P': '✚', '*': '★'}
_INK = '#1f2328'  # becomes the page's own text color in SVG
GREY = '#808890'  # for everything that is not a curve of this run
# What a sample costs, as `result.cost` names it -> label of the axis.
COSTS = {
  'num_steps': 'sampling steps',
  'nfe': 'network evaluations (NFE)',
  'seconds': 'seconds per image',
  'training': "FLOPs of training, without the teacher's",
}
_POINTS = 300  # largest number of points in a training curve
_STYLE = {
  'axes.axisbelow': True,
  'axes.edgecolor': _INK,
  'axes.labelcolor': _INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'font.size': 9,
  'grid.color': _INK,
  'legend.fontsize': 8,
  'legend.frameon': False,
  'svg.fonttype': 'none',
  'text.color': _INK,
  'text.parse_math': False,
  'xtick.color': _INK,
  'ytick.color': _INK,
}


class Curve(typing.NamedTuple):
  """One group of rows as a curve."""

  label: str
  color: str
  marker: str
  rows: list


def quality_curves(report, x='num_steps'):
  """Returns the Curves of the groups of rows that are measured.

  Args:
    report: result of `report.make_report`.
    x: a key of `COSTS`, which the rows of curves have.
  """
  curves = []
  for i, (label, rows) in enumerate(labels.group(report['rows']).items()):
    measured = [
      row
      for row in rows
      if row.get('frechet_distance', 0) > 0 and result.cost(row, x) is not None
    ]
    if measured:
      color = COLORS[i % len(COLORS)]
      marker = list(MARKERS)[i % len(MARKERS)]
      curves.append(Curve(label, color, marker, measured))
  return curves


def plot_quality(report, x='num_steps', *, legend=True):
  """Returns the Frechet distance against what sampling costs, log-log.

  Against steps, this is the paper's Figure 4 for this run, with the paper's own
  figures as thin lines. Bars are standard errors. The Pareto front is a broad
  line. If there are more curves than colors, those without a row on the front
  are faint.

  Args:
    report: result of `report.make_report`.
    x: a key of `COSTS`.
    legend: whether the figure names its curves.

  Returns:
    a matplotlib Figure; None if nothing is measured, if no cost is known or,
    against NFE, if every sampler evaluates the network once per step.
  """
  curves = quality_curves(report, x)
  points = [row for curve in curves for row in curve.rows]
  one_per_step = all(row['nfe'] == row['num_steps'] for row in points)
  if not points or (x == 'nfe' and one_per_step):
    return None
  many = len(curves) > len(COLORS)
  with matplotlib.rc_context(_STYLE):
    size = (9.8, 0.19 * len(curves) + 1) if many and legend else (6.2, 3.7)
    figure, axes = _axes(size)
    axes.set_xscale('log', base=2 if x in ('num_steps', 'nfe') else 10)
    axes.set_yscale('log')
    # Steps are a cost only where each is one evaluation.
    front = result.pareto_front(points, 'nfe' if x == 'num_steps' else x)
    for curve in curves:
      faint = many and not any(row in front for row in curve.rows)
      _draw(axes, curve, x, 0.4 if faint else 1)
    if x != 'num_steps' or one_per_step:
      axes.plot(
        [result.cost(row, x) for row in front],
        [row['frechet_distance'] for row in front],
        color=GREY,
        alpha=0.35,
        linewidth=7,
        solid_capstyle='round',
        zorder=1,
        label='Pareto front',
      )
    published = paper.curves(report['metric']) if x == 'num_steps' else {}
    for key, fid in published.items():
      same = [c.color for c in curves if paper.key(c.rows[0]) == key]
      color = same[0] if same else GREY
      axes.plot(*zip(*sorted(fid.items()), strict=True), color=color, lw=0.7)
    if published:
      axes.plot([], [], color=GREY, lw=0.7, label='thin: the paper')
    if report['floor']:
      axes.axhline(
        report['floor'], color=GREY, ls=':', lw=1.2, label='held-out images'
      )
    axes.set_xlabel(COSTS[x])
    axes.set_ylabel(labels.heading('frechet_distance', report['metric']))
    if x == 'seconds':
      _round_ticks(axes.xaxis)
    elif x == 'training':
      axes.xaxis.set_major_formatter(_scientific)
      axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    else:
      axes.xaxis.set_major_locator(ticker.LogLocator(base=2, numticks=15))
      axes.xaxis.set_minor_locator(ticker.NullLocator())
      axes.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
    _round_ticks(axes.yaxis)
    if legend and many:
      figure.legend(loc='outside right upper')
    elif legend:
      axes.legend()
  return figure


def plot_training(entries, rounds, key, label):
  """Returns a logged metric over the updates of rounds, one after the other.

  Args:
    entries: lines of metrics.jsonl: `stage`, the round's name, `step`, and
      metrics.
    rounds: rounds to draw, name -> label in the figure.
    key: key of the metric in `entries`.
    label: name of the metric.

  Returns:
    a matplotlib Figure; None if the metric was not logged.
  """
  with matplotlib.rc_context(_STYLE):
    figure, axes = _axes((4.4, 2.8))
    # Losses of score matching may be negative.
    log = not any(e['stage'] in rounds and e.get(key, 0) < 0 for e in entries)
    if log:
      axes.set_yscale('log')
    start = 0
    for name, text in rounds.items():
      updates, values = _history(entries, name, key, log)
      if not len(updates):
        continue
      axes.plot(start + updates, values, color=COLORS[2], lw=1.2)
      if start:
        axes.axvline(start, color=_INK, alpha=0.3, lw=0.7)
      if len(rounds) > 1:
        axes.text(
          start + updates[-1] / 2,
          1.01,
          text,
          ha='center',
          transform=axes.get_xaxis_transform(),
        )
      start += updates[-1]
    if not start:
      return None
    axes.set_xlim(0, start)
    axes.set_xlabel('updates')
    axes.set_ylabel(label)
    if log:
      _round_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
  return figure


def to_png(figure):
  """Returns a figure as the bytes of a PNG file."""
  file = io.BytesIO()
  figure.savefig(file, format='png')
  return file.getvalue()


def to_svg(figure, description):
  """Returns a figure as an SVG element to be put into an HTML page.

  Its text is text in the page's own font and color, and its background is
  transparent, so that it can be read on light and on dark pages.

  Args:
    figure: a matplotlib Figure of this module.
    description: a sentence for readers who cannot see the figure.
  """
  file = io.StringIO()
  # Names within a figure derive from the salt, and differ from other figures'.
  with matplotlib.rc_context(_STYLE | {'svg.hashsalt': description}):
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(file, format='svg', transparent=True, metadata=nothing)
  svg = file.getvalue()
  svg = svg[svg.index('<svg') :].replace(_INK, 'currentColor')
  # Names of groups repeat from figure to figure; nothing refers to them.
  svg = re.sub(r'<g id="[^"]*"', '<g', svg)
  svg = re.sub(r'<style.*?</style>', '', svg, flags=re.DOTALL)
  label = html.escape(description)
  box = re.search(r'viewBox="[^"]*"', svg)[0]
  return re.sub(
    r'<svg[^>]*>',
    lambda _: f'<svg role="img" aria-label="{label}" {box}>',
    svg,
    count=1,
  )


def _axes(size):
  # pyplot would change the state of a notebook that calls this.
  figure = Figure(figsize=size, dpi=150, layout='constrained')
  axes = figure.subplots()
  axes.grid(alpha=0.15)
  return figure, axes


def _draw(axes, curve, x, alpha):
  """Draws a Curve with its error bars."""
  values = np.array([row['frechet_distance'] for row in curve.rows])
  errors = np.array(
    [row.get('frechet_distance_error') or 0 for row in curve.rows]
  )
  costs = [result.cost(row, x) for row in curve.rows]
  # On a logarithmic axis, a bar down to zero would have no end.
  bars = np.minimum(errors, 0.9 * values), errors
  look = {'color': curve.color, 'alpha': alpha}
  axes.errorbar(costs, values, yerr=bars, fmt='none', lw=1, **look)
  axes.plot(
    costs,
    values,
    **look,
    label=curve.label,
    linestyle='--' if curve.rows[0]['network'] == 'teacher' else '-',
    linewidth=1.5,
    marker=curve.marker,
    markersize=5,
  )


def _scientific(value, position):
  """Returns the text of a tick, such as '2e12'."""
  del position
  return f'{value:.0e}'.replace('e+', 'e')


def _round_ticks(axis):
  """Puts round numbers on a logarithmic axis, whatever its range."""
  low, high = axis.get_view_interval()
  if high / low < 5:
    axis.set_major_locator(ticker.MaxNLocator(6))
  else:
    digits = (1, 2, 5) if high / low < 1e3 else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=digits))
  axis.set_minor_locator(ticker.NullLocator())
  axis.set_major_formatter(ticker.StrMethodFormatter('{x:,g}'))


def _history(entries, name, key, log):
  """Returns updates and values of a round's metric, averaged to few points.

  For a logarithmic axis, values of 0 are left out.
  """
  points = sorted(
    (entry['step'], entry[key])
    for entry in entries
    if entry['stage'] == name and key in entry
    if entry[key] > 0 or not log
  )
  size = max(1, math.ceil(len(points) / _POINTS))
  parts = [points[i : i + size] for i in range(0, len(points), size)]
  return (
    np.array([part[-1][0] for part in parts]),
    np.array([np.mean([value for _, value in part]) for part in parts]),
  )
