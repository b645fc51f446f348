import errno
import os
import pathlib

import numpy as np
import pytest

from diffusion_distillation.generation.shards import Shards
from diffusion_distillation.report.rows import Row
from diffusion_distillation.runtime.errors import UserError

ROW = Row('ddim', 'ddim', 4, 100, pathlib.Path('teacher'))


class KilledError(Exception):
  pass


class Counting:
  """Stands in for a Generator: an image is its seed; it counts and dies."""

  def __init__(self, dies_at=None):
    self.drawn, self._dies_at = [], dies_at

  def drawer(self, weights, method, num_images):
    assert method == 'ddim' and num_images == 4

    def draw(seeds, num_steps):
      if num_steps > 1:  # one step is to compile
        if self._dies_at in seeds:
          raise KilledError
        self.drawn.extend(seeds.tolist())
      return np.broadcast_to(
        seeds.astype(np.uint8)[:, None, None, None], (len(seeds), 2, 2, 1)
      )

    return draw


class Shown:
  def __init__(self):
    self.shown = []

  def show(self, done):
    self.shown.append(done)


class Nothing:
  weights = None


def drawn(folder, generator, row=ROW, num_samples=10, batch_size=4):
  these = Shards(folder, row, num_samples, batch_size)
  shown = Shown()
  these.draw(generator, Nothing, shown)
  return np.concatenate(list(these.images()))[:, 0, 0, 0].tolist(), shown.shown


def test_a_kill_costs_no_more_than_a_batch(tmp_path):
  folder = tmp_path / 'ddim_00004'
  killed = Counting(dies_at=9)
  with pytest.raises(KilledError):
    drawn(folder, killed)
  assert killed.drawn == list(range(8))
  again = Counting()
  assert drawn(folder, again) == (list(range(10)), [10])
  assert again.drawn == [8, 9]
  nothing = Counting(dies_at=0)
  assert drawn(folder, nothing) == (list(range(10)), [])
  these = Shards(folder, ROW, 10, 4)
  assert these.seconds() >= 0
  these.remove()
  assert not folder.exists()


@pytest.mark.parametrize(
  ('row', 'num_samples', 'reused'),
  [
    (Row('ddim', 'ddim', 4, 100, pathlib.Path('elsewhere')), 10, 10),
    (Row('ddim', 'ddim', 8, 100, pathlib.Path('teacher')), 10, 0),
    (Row('ddim', 'ddim', 4, 101, pathlib.Path('teacher')), 10, 0),
    (Row('distilled', 'ddim', 4, 100, pathlib.Path('teacher')), 10, 0),
    (ROW, 11, 8),  # the last batch has other seeds
    (ROW, 8, 8),
  ],
)
def test_images_of_another_row_are_drawn_anew(
  tmp_path, row, num_samples, reused
):
  drawn(tmp_path, Counting())
  generator = Counting()
  images, shown = drawn(tmp_path, generator, row, num_samples)
  assert images == list(range(num_samples))
  assert generator.drawn == list(range(reused, num_samples))
  assert shown[-1:] == ([num_samples] if reused < num_samples else [])


def test_a_damaged_file_is_drawn_anew(tmp_path):
  drawn(tmp_path, Counting())
  path = tmp_path / '00000004.npz'
  path.write_bytes(path.read_bytes()[:-30])
  (tmp_path / '00000008.npz').write_bytes(b'')
  generator = Counting()
  assert drawn(tmp_path, generator)[0] == list(range(10))
  assert generator.drawn == list(range(4, 10))


def test_any_damage_to_a_file_means_that_it_is_drawn_anew(tmp_path):
  want, _ = drawn(tmp_path, Counting())
  path = tmp_path / '00000004.npz'
  good = path.read_bytes()
  for at in (6, 30, len(good) // 2, len(good) - 12):  # the zip's own fields
    for bit in range(8):
      bad = bytearray(good)
      bad[at] ^= 1 << bit
      path.write_bytes(bad)
      assert drawn(tmp_path, Counting())[0] == want


def test_a_file_that_cannot_be_read_for_now_is_kept(tmp_path, monkeypatch):
  drawn(tmp_path, Counting())
  before = sorted(tmp_path.iterdir())

  def fail(path, **kwargs):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

  monkeypatch.setattr(np, 'load', fail)
  with pytest.raises(UserError, match='cannot be read now: Too many open'):
    drawn(tmp_path, Counting())
  assert sorted(tmp_path.iterdir()) == before
  monkeypatch.undo()
  before[0].unlink()
  with pytest.raises(UserError, match='damaged or gone'):
    list(Shards(tmp_path, ROW, 10, 4).images())
