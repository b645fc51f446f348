"""Files of torch.save, real and malicious ones; see tests/data/README.md."""

import io
import os
import pathlib
import tracemalloc
import zipfile

import numpy as np
import pytest

from diffusion_distillation.evaluation import inception_weights
from diffusion_distillation.evaluation.inception_weights import read_weights
from diffusion_distillation.runtime.errors import UserError

DATA = pathlib.Path(__file__).parents[1] / 'data'
NUMBERS = np.arange(24, dtype=np.float32)
# The arrays that make_torch_files.py saves, without the count of batches.
SAVED = {
  'conv.weight': NUMBERS.reshape(2, 3, 2, 2),
  'fc.weight': NUMBERS.reshape(4, 6).T,
  'part': NUMBERS[5:9],
  'half': np.float32([0.5, -2]),
  'double': np.float32([[1 / 3]]),
  'parameter': np.float32([1.5]),
}
SHAPES = {name: array.shape for name, array in SAVED.items()}
FORMATS = ['old_format.pth', 'new_format.pth', 'weights.npz']
W = {'w': (4,)}


def content_of(name):
  """Returns a file that holds SAVED."""
  if name == 'weights.npz':
    file = io.BytesIO()
    np.savez_compressed(file, **SAVED)
    return file.getvalue()
  return (DATA / name).read_bytes()


def read(tmp_path, content, shapes):
  path = tmp_path / 'file'
  path.write_bytes(content)
  return read_weights(path, shapes)


def refusal(tmp_path, content, shapes):
  """Returns the error for a file, which must be one line."""
  with pytest.raises(UserError) as error:
    read(tmp_path, content, shapes)
  assert '\n' not in str(error.value) and len(str(error.value)) < 600
  return str(error.value)


@pytest.mark.parametrize('name', FORMATS)
def test_files_of_torch_and_numpy_are_read(tmp_path, name):
  weights, _ = read(tmp_path, content_of(name), SHAPES)
  assert weights.keys() == SAVED.keys()
  for key, want in SAVED.items():
    assert weights[key].dtype == np.float32
    np.testing.assert_array_equal(weights[key], want)


def test_the_checksum_is_sha_256(tmp_path):
  # An archive of nothing is 'PK', 5, 6 and 18 zeros; the digest is sha256sum's.
  _, checksum = read(tmp_path, b'PK\5\6' + bytes(18), {})
  assert checksum == (
    '8739c76e681f900923b900c9df0ef75cf421d39cabb54650c4b9ad19b6a76d85'
  )


@pytest.mark.parametrize('name', FORMATS)
def test_every_truncation_is_refused(tmp_path, name):
  content = content_of(name)
  for length in range(0, len(content), 7):
    assert 'damaged' in refusal(tmp_path, content[:length], SHAPES)


@pytest.mark.parametrize('name', FORMATS)
def test_damage_is_refused_or_harmless(tmp_path, name):
  content = content_of(name)
  refused = 0
  for place in range(0, len(content), 3):
    damaged = bytearray(content)
    damaged[place] ^= 0xFF
    try:
      weights, _ = read(tmp_path, bytes(damaged), SHAPES)
    except UserError as error:
      assert '\n' not in str(error)
      refused += 1
    else:  # a number, or bytes that are not read
      assert {k: v.shape for k, v in weights.items()} == SHAPES
  assert refused > 100


@pytest.mark.parametrize('name', FORMATS)
def test_the_first_array_that_differs_is_named(tmp_path, name):
  content = content_of(name)
  missing = refusal(tmp_path, content, {**SHAPES, 'more': (3,)})
  assert 'more is absent in the file and (3,) in the network' in missing
  extra = refusal(tmp_path, content, {'conv.weight': (2, 3, 2, 2)})
  assert 'double is (1, 1) in the file and absent in the network' in extra
  wrong = refusal(tmp_path, content, {**SHAPES, 'part': (5,)})
  assert 'part is (4,) in the file and (5,) in the network' in wrong


@pytest.mark.parametrize(
  ('array', 'message'),
  [(np.arange(4), 'int64'), (np.full(4, np.nan), 'not finite')],
)
def test_other_numbers_are_refused(tmp_path, array, message):
  file = io.BytesIO()
  np.savez(file, w=array)
  assert message in refusal(tmp_path, file.getvalue(), W)


def test_a_missing_file_says_what_to_fetch(tmp_path):
  os.mkfifo(tmp_path / 'pipe.pth')  # which would wait for a writer
  for path in (tmp_path, tmp_path / 'absent.pth', tmp_path / 'pipe.pth'):
    with pytest.raises(UserError) as error:
      read_weights(path, W)
    assert inception_weights.FILE_NAME in str(error.value)
    assert 'mseitzer/pytorch-fid' in str(error.value)
    assert '--config.eval.inception_path=' in str(error.value)
  assert 'neither' in refusal(tmp_path, b'<html>not found</html>', W)


# The files below are ones that NumPy would not write.


class Evil:
  """An object that is pickled as a call of a function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def test_object_arrays_are_refused(tmp_path):
  mark = tmp_path / 'mark'
  evil = np.array([Evil(os.system, f'touch {mark}')] * 4, dtype=object)
  file = io.BytesIO()
  np.savez(file, w=evil)
  assert 'allow_pickle' in refusal(tmp_path, file.getvalue(), W)
  assert not mark.exists()


def npy(shape, data):
  file = io.BytesIO()
  header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(file, header)
  return file.getvalue() + data


def zipped(name, content):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, content)
  return file.getvalue()


@pytest.mark.parametrize(
  'content',
  [
    zipped('w.npy', npy((2**40,), b'')),
    zipped('w.npy', npy((2**22,), bytes(2**24))),
    zipped('a/data.pkl', bytes(2**24)),
  ],
  ids=['npy', 'npy bomb', 'pickle bomb'],
)
def test_huge_files_that_are_small_are_refused(tmp_path, content):
  tracemalloc.start()
  refusal(tmp_path, content, W)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()
