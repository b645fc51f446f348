import errno
import os
import pathlib

import numpy as np
import pytest

from diffusion_distillation.generation import shards
from diffusion_distillation.generation.shards import Shards
from diffusion_distillation.runtime.errors import UserError

IDENTITY = {'sampler': 'ddim', 'num_steps': 4, 'updates': 100}


class KilledError(Exception):
  pass


class Counting:
  """Draws images that equal their seeds, counts them, and may die at one."""

  def __init__(self, dies_at=None, clock=None):
    self.drawn, self._dies_at, self._clock = [], dies_at, clock

  def __call__(self, seeds, num_steps):
    if num_steps == 4:  # one step is only to compile
      if self._dies_at in seeds:
        raise KilledError
      self.drawn.extend(seeds.tolist())
    if self._clock:
      self._clock.tick(num_steps)
    return np.broadcast_to(
      seeds.astype(np.uint8)[:, None, None, None], (len(seeds), 2, 2, 1)
    )


class Shown:
  def __init__(self):
    self.shown = []

  def show(self, done):
    self.shown.append(done)


def drawn(folder, draw, identity=IDENTITY, num_samples=10, batch_size=4):
  these, shown = Shards(folder, identity, num_samples, batch_size), Shown()
  these.draw(lambda: draw, 4, shown)
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
  these = Shards(folder, IDENTITY, 10, 4)
  # If all images exist, the weights are not loaded.
  these.draw(lambda: pytest.fail('opened'), 4, Shown())
  these.remove()
  assert not folder.exists()


@pytest.mark.parametrize(
  ('identity', 'num_samples', 'reused'),
  [
    (dict(IDENTITY), 10, 10),
    ({**IDENTITY, 'num_steps': 8}, 10, 0),
    ({**IDENTITY, 'updates': 101}, 10, 0),
    ({**IDENTITY, 'sampler': 'ancestral:gamma=0.3'}, 10, 0),
    (IDENTITY, 11, 8),  # the last batch has other seeds
    (IDENTITY, 8, 8),
  ],
)
def test_other_images_are_drawn_again(tmp_path, identity, num_samples, reused):
  drawn(tmp_path, Counting())
  draw = Counting()
  images, shown = drawn(tmp_path, draw, identity, num_samples)
  assert images == list(range(num_samples))
  assert draw.drawn == list(range(reused, num_samples))
  assert shown[-1:] == ([num_samples] if reused < num_samples else [])


def test_any_damage_to_a_file_means_that_it_is_drawn_again(tmp_path):
  want, _ = drawn(tmp_path, Counting())
  path = tmp_path / '00000004.npz'
  good = path.read_bytes()
  damaged = [b'', good[:-30]]
  # The zip's own fields, and the names in its directory.
  names = good.rindex(b'images.npy'), good.rindex(b'seconds.npy')
  for at in (6, 30, len(good) // 2, len(good) - 12, *names):
    for bit in range(8):
      bad = bytearray(good)
      bad[at] ^= 1 << bit
      damaged.append(bytes(bad))
  redrawn = 0
  for content in damaged:
    path.write_bytes(content)
    draw = Counting()
    assert drawn(tmp_path, draw)[0] == want
    assert draw.drawn in ([], [4, 5, 6, 7])
    redrawn += bool(draw.drawn)
  assert redrawn > 30  # some bits, as of a date, mean nothing


def test_a_file_that_cannot_be_read_is_an_error_and_kept(tmp_path, monkeypatch):
  drawn(tmp_path, Counting())
  before = sorted(tmp_path.iterdir())

  def fail(path):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

  monkeypatch.setattr(pathlib.Path, 'read_bytes', fail)
  with pytest.raises(UserError, match='Too many open files'):
    drawn(tmp_path, Counting())
  assert sorted(tmp_path.iterdir()) == before
  monkeypatch.undo()
  before[0].unlink()
  with pytest.raises(UserError, match='missing or damaged; rerun the same'):
    list(Shards(tmp_path, IDENTITY, 10, 4).images())


def test_speed_is_by_the_median_batch_and_without_compilation(
  tmp_path, monkeypatch
):
  class Clock:
    """Compilation, at one step, takes 100 seconds."""

    def __init__(self):
      self.now, self._takes = 0.0, iter([2.0, 8.0, 2.0])

    def monotonic(self):
      return self.now

    def tick(self, num_steps):
      self.now += 100 if num_steps == 1 else next(self._takes)

  clock = Clock()
  monkeypatch.setattr(shards, 'time', clock)
  drawn(tmp_path, Counting(clock=clock))
  # The last batch has two images, but takes as long as one of four.
  assert Shards(tmp_path, IDENTITY, 10, 4).images_per_second() == 4 / 2
