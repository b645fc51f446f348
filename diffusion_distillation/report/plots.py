"""Pictures: sample grids, and quality against what sampling costs."""

import os
import pathlib
import textwrap

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_distillation.report import paper
from diffusion_distillation.samplers import METHODS

_COLUMNS, _ROWS = 20, 5
_OF = 'Description'  # of PNG's own keywords
GRID_IMAGES = _COLUMNS * _ROWS
_STYLES = {
  'distilled': ('Distilled (this run)', 'C3', 'o-'),
  'distilled_stochastic': ('Distilled, stochastic sampler', 'C1', 'd-.'),
  'ddim': ('DDIM, not distilled', 'C0', 's--'),
  'ancestral': ('Ancestral, not distilled', 'C2', '^:'),
}
# For as many as there may be: all methods, of teacher and students.
_OTHER_COLORS = matplotlib.colormaps['tab20b'].colors
_MARKERS = 'sovD^X*'


def grid(images, columns=_COLUMNS, rows=_ROWS):
  """Returns the first images side by side, with a line between them.

  Args:
    images: (N, H, W, C) uint8, C 1 or 3; small ones are enlarged.
    columns: at most.
    rows: at most.
  """
  images = images[: columns * rows]
  columns = min(columns, len(images))
  rows = -(-len(images) // columns)
  _, height, width, channels = images.shape
  scale = max(1, round(40 / height))
  images = images.repeat(scale, axis=1).repeat(scale, axis=2)
  page = np.full(
    (
      rows * (height * scale + 1) + 1,
      columns * (width * scale + 1) + 1,
      channels,
    ),
    96,
    np.uint8,
  )
  for i, image in enumerate(images):
    top = i // columns * (height * scale + 1) + 1
    left = i % columns * (width * scale + 1) + 1
    page[top : top + height * scale, left : left + width * scale] = image
  return page


def to_image(array):
  """Returns a (H, W, C) uint8 array, C 1 or 3, as a PIL image."""
  return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_grid(images, path, of=''):
  """Writes the `grid` of images as a PNG, whole, and its folder if needed.

  Args:
    images: as `grid` takes them.
    path: of the file.
    of: what they are; see `shows`.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  new, text = path.with_name(f'{path.name}.new'), PngInfo()
  text.add_text(_OF, of)
  to_image(grid(images)).save(new, format='png', pnginfo=text)
  os.replace(new, path)


def shows(path, of):
  """Returns whether a file is the picture that was saved as `of` that."""
  try:
    with Image.open(path) as image:
      image.load()
      return image.info.get(_OF) == of
  except Exception:  # absent, or damaged: what is raised is not to be foreseen
    return False


def plot_fid_vs_steps(report, path):
  """Writes the paper's Figure 4 of this run: quality against steps, log-log.

  Args:
    report: as `report.json` has it.
    path: of the PNG.
  """
  metric, rows = report['metric'], report['rows']
  figure, axes = _log_axes()
  published = paper.figures(metric)
  colors = iter(_OTHER_COLORS)
  for sampler in dict.fromkeys(row['sampler'] for row in rows):
    if sampler in _STYLES:
      label, color, style = _STYLES[sampler]
    else:
      label, color, style = sampler.replace('_', ' '), next(colors), 'd-.'
    curve = {
      row['num_steps']: row['frechet_distance']
      for row in rows
      if row['sampler'] == sampler and 'frechet_distance' in row
    }
    _plot(axes, curve, style, color=color, label=label)
    if sampler in published:
      label = f'{sampler}, in the paper'
      _plot(axes, published[sampler], '-', color=color, label=label, lw=0.6)
  if report['floor'] is not None:
    axes.axhline(report['floor'], color='0.6', lw=1, label=metric['heldout'])
  axes.set_xlabel('Sampling steps')
  axes.set_ylabel(f'{metric["label"]} ({metric["features"]})')
  title = f'{metric["num_samples"]} samples against {metric["reference"]}'
  axes.set_title(textwrap.fill(title, 80), fontsize=10)
  _save(figure, axes, path)


def plot_fid_vs_evaluations(report, path):
  """Writes the curve of each integrator: quality against its cost, log-log.

  Steps of a method of higher order ask the network more often, so the number of
  network evaluations is what makes them comparable (paper, appendix C).

  Args:
    report: as `report.json` has it; the teacher's rows by methods that draw no
      noise are drawn.
    path: of the PNG.
  """
  metric = report['metric']
  figure, axes = _log_axes()
  for i, name in enumerate(flows(report['rows'])):
    method = METHODS[name]
    curve = {
      method.num_evaluations(row['num_steps']): row['frechet_distance']
      for row in report['rows']
      if row['sampler'] == name and 'frechet_distance' in row
    }
    style, label = f'{_MARKERS[i]}-', f'{name} (order {method.order})'
    _plot(axes, curve, style, label=label, markersize=5, lw=1.3)
  axes.set_xlabel('Network evaluations per image')
  axes.set_ylabel(f'{metric["label"]} ({metric["features"]})')
  axes.set_title('Integrators of the probability-flow ODE', fontsize=10)
  _save(figure, axes, path)


def flows(rows):
  """Returns the names of the methods without noise that rows are of."""
  names = {row['sampler'] for row in rows}
  return [n for n in METHODS if n in names and not METHODS[n].draws_noise]


def _log_axes():
  # Not pyplot, whose state, and window, would be a notebook's own.
  figure = Figure(figsize=(7, 4.5), dpi=150)
  axes = figure.subplots()
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%d'))
  axes.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  axes.yaxis.set_minor_formatter(ticker.LogFormatter())  # where one is needed
  axes.grid(alpha=0.3, which='both')
  return figure, axes


def _plot(axes, curve, style, **look):
  """Draws a mapping from steps, or what they cost, to a figure."""
  if curve:
    axes.plot(*zip(*sorted(curve.items()), strict=True), style, **look)


def _save(figure, axes, path):
  axes.legend(frameon=False, fontsize=8)
  figure.tight_layout()
  figure.savefig(path)
