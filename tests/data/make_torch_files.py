"""Makes old_format.pth and new_format.pth; see README.md.

Run once, from the root of the repository, where PyTorch 2.13.0 is installed:
`python -m tests.data.make_torch_files`.
"""

import collections
import pathlib

import torch


def state_dict():
  """Returns what a module's state_dict may hold, of known values."""
  numbers = torch.arange(24, dtype=torch.float32)
  tensors = collections.OrderedDict(
    {
      'conv.weight': numbers.reshape(2, 3, 2, 2),
      # Views, as of weights that came from TensorFlow: strided, and of the same
      # storage.
      'fc.weight': numbers.reshape(4, 6).T,
      'part': numbers[5:9],
      'half': torch.tensor([0.5, -2.0], dtype=torch.float16),
      'double': torch.tensor([[1 / 3]], dtype=torch.float64),
      'parameter': torch.nn.Parameter(torch.tensor([1.5])),
      'bn.num_batches_tracked': torch.tensor(7),
    }
  )
  tensors._metadata = collections.OrderedDict({'': {'version': 1}})
  return tensors


def main():
  folder = pathlib.Path(__file__).parent
  for name, is_new in (('old_format', False), ('new_format', True)):
    torch.save(
      state_dict(),
      folder / f'{name}.pth',
      _use_new_zipfile_serialization=is_new,
    )


if __name__ == '__main__':
  main()
