"""Pictures: sample grids, and quality against sampling steps."""

import os
import pathlib

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use('Agg')

from matplotlib import pyplot, ticker

from diffusion_distillation.evaluation import paper

_COLUMNS, _ROWS = 20, 5
GRID_IMAGES = _COLUMNS * _ROWS
_STYLES = {
  'distilled': ('Distilled (this run)', 'C3', 'o-'),
  'ddim': ('DDIM, not distilled', 'C0', 's--'),
  'ancestral': ('Ancestral, not distilled', 'C2', '^:'),
}


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


def save_grid(images, path):
  """Writes the `grid` of images as a PNG, whole, and its folder if needed."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_name(f'{path.name}.new')
  to_image(grid(images)).save(new, format='png')
  os.replace(new, path)


def plot_fid_vs_steps(report, path):
  """Writes the paper's Figure 4 of this run: quality against steps, log-log.

  Args:
    report: as `report.json` has it.
    path: of the PNG.
  """
  figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=150)
  metric, rows = report['metric'], report['rows']
  published = paper.figures(metric)
  for i, sampler in enumerate(dict.fromkeys(row['sampler'] for row in rows)):
    label = sampler.replace('_', ' ')
    label, color, style = _STYLES.get(sampler, (label, f'C{i + 4}', 'd-.'))
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
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%d'))
  axes.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  axes.yaxis.set_minor_formatter(ticker.LogFormatter())  # where one is needed
  axes.set_xlabel('Sampling steps')
  axes.set_ylabel(f'{metric["label"]} ({metric["features"]})')
  axes.set_title(
    f'{metric["num_samples"]} samples against {metric["reference"]}',
    fontsize=10,
  )
  axes.grid(alpha=0.3, which='both')
  axes.legend(frameon=False, fontsize=8)
  figure.tight_layout()
  figure.savefig(path)
  pyplot.close(figure)


def _plot(axes, curve, style, **look):
  """Draws a mapping from steps to a figure."""
  if curve:
    axes.plot(*zip(*sorted(curve.items()), strict=True), style, **look)
