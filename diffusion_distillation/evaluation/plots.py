"""Pictures: sample grids, and quality against what sampling costs."""

import pathlib

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use('Agg')

from matplotlib import pyplot, ticker

from diffusion_distillation.samplers import METHODS

_COLUMNS, _ROWS = 20, 5
_STYLES = {
  'distilled': ('Distilled (this run)', 'C3', 'o-'),
  'ddim': ('DDIM, not distilled', 'C0', 's--'),
  'ancestral': ('Ancestral, not distilled', 'C2', '^:'),
}
# With ten colors, every sampler there may be gets a look of its own.
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


def save_grid(images, path):
  """Writes the `grid` of images as a PNG, and its folder where needed."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  to_image(grid(images)).save(path)


def plot_fid_vs_steps(report, path):
  """Writes the paper's Figure 4 of this run: quality against steps, log-log.

  Args:
    report: as `report.json` has it.
    path: of the PNG.
  """
  figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=150)
  for sampler, (label, color, style) in _STYLES.items():
    rows = [row for row in report['rows'] if row['sampler'] == sampler]
    rows = sorted(rows, key=lambda row: row['num_steps'])
    if rows:
      axes.plot(
        [row['num_steps'] for row in rows],
        [row['frechet_distance'] for row in rows],
        style,
        color=color,
        label=label,
      )
  axes.axhline(
    report['floor'], color='0.6', lw=1, label=report['metric']['heldout']
  )
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%d'))
  axes.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  axes.set_xlabel('Sampling steps')
  axes.set_ylabel(f'Frechet distance ({report["metric"]["features"]})')
  axes.set_title(
    f'{report["metric"]["num_samples"]} samples against '
    f'{report["metric"]["reference"]}',
    fontsize=10,
  )
  axes.grid(alpha=0.3, which='both')
  axes.legend(frameon=False)
  figure.tight_layout()
  figure.savefig(path)
  pyplot.close(figure)


def plot_fid_vs_evaluations(rows, path, *, ylabel='Frechet distance'):
  """Writes the curve of each integrator: quality against its cost, log-log.

  Steps of a method of higher order ask the network more often, so the number of
  network evaluations is what makes them comparable (paper, appendix C).

  Args:
    rows: dicts with `sampler`, `num_steps` and, where it was measured,
      `frechet_distance`; those of the methods that draw no noise are drawn.
    path: of the PNG.
    ylabel: what the distance is measured in.
  """
  figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=150)
  flows = [name for name in METHODS if not METHODS[name].draws_noise]
  for i, name in enumerate(flows):
    method = METHODS[name]
    points = sorted(
      (method.num_evaluations(row['num_steps']), row['frechet_distance'])
      for row in rows
      if row['sampler'] == name and 'frechet_distance' in row
    )
    if points:
      axes.plot(
        *zip(*points, strict=True),
        f'{_MARKERS[i % len(_MARKERS)]}-',
        color=f'C{i}',
        markersize=5,
        lw=1.3,
        label=f'{name} (order {method.order})',
      )
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%d'))
  axes.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  axes.set_xlabel('Network evaluations per image')
  axes.set_ylabel(ylabel)
  axes.set_title('Integrators of the probability-flow ODE', fontsize=10)
  axes.grid(alpha=0.3, which='both')
  axes.legend(frameon=False)
  figure.tight_layout()
  figure.savefig(path)
  pyplot.close(figure)
