"""Makes inception_reference.npz with torch-fidelity; see README.md.

Run once, from the root of the repository, where PyTorch 2.13.0 and
torch-fidelity 0.4.0 are installed: `python -m
tests.data.make_inception_reference`. torchvision is not needed.
"""

import importlib
import pathlib
import sys
from unittest import mock

import numpy as np
import torch

from tests.make_inception_weights import make_inception_weights


def random_network(dtype):
  """Returns torch-fidelity's network with `make_inception_weights`."""
  parts = ('', '.datasets', '.models', '.transforms', '.transforms.functional')
  absent = {f'torchvision{part}': mock.MagicMock() for part in parts}
  with mock.patch.dict(sys.modules, absent):
    fidelity = importlib.import_module(
      'torch_fidelity.feature_extractor_inceptionv3'
    )
  network_type = fidelity.FeatureExtractorInceptionV3
  with (  # otherwise it would download trained weights
    mock.patch.object(torch, 'load'),
    mock.patch.object(network_type, 'load_state_dict'),
  ):
    network = network_type('inception', ['2048', 'logits_unbiased'], 'none')
  # The network's own argument would treat 'float64' as float32.
  network.to(dtype).feature_extractor_internal_dtype = dtype
  shapes = {
    name: tuple(tensor.shape)
    for name, tensor in network.state_dict().items()
    if not name.endswith('num_batches_tracked')
  }
  weights = make_inception_weights(shapes)
  network.load_state_dict(
    {name: torch.from_numpy(array) for name, array in weights.items()},
    strict=False,
  )
  return network


def activations(network, images):
  """Returns features, spatial features and probabilities of uint8 images."""
  seen = []
  branch = network.Mixed_6d.branch1x1
  hook = branch.register_forward_hook(lambda *args: seen.append(args[2]))
  images = np.broadcast_to(images, (*images.shape[:3], 3))
  batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  features, logits = network(batch)
  hook.remove()
  spatial = seen[0][:, :7].permute(0, 2, 3, 1).flatten(1)  # rows, columns, 7
  return [
    array.numpy().astype(np.float32)
    for array in (features, spatial, torch.softmax(logits.double(), dim=-1))
  ]


def main():
  images = {
    'small': np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)),
    'large': np.random.RandomState(1).randint(0, 256, (1, 320, 64, 3)),
    'grey': np.arange(28 * 28).reshape(1, 28, 28, 1) % 251,
  }
  arrays = {}
  for case in images:
    arrays[f'{case}_images'] = images[case].astype(np.uint8)
    exact, rounded = (
      activations(random_network(dtype), arrays[f'{case}_images'])
      for dtype in (torch.float64, torch.float32)
    )
    names = ('features', 'spatial', 'probabilities')
    for name, one, other in zip(names, exact, rounded, strict=True):
      key = f'{case}_{name}'
      arrays[key] = one
      arrays[f'{key}_rounding'] = rounding = np.abs(one - other).max()
      print(
        f'{key} {one.shape}: 0 to {one.max():.3g}, std {one.std():.3g}; '
        f'float32 differs by {rounding:.2g}'
      )
  path = pathlib.Path(__file__).with_name('inception_reference.npz')
  np.savez_compressed(path, **arrays)
  print(f'wrote {path}, {path.stat().st_size / 1024:.0f} KiB')


if __name__ == '__main__':
  main()
