"""Downloads a data set and converts it to array_record files.

python -m diffusion_distillation.data.prepare --dataset=cifar10 [--data_dir=DIR]

This needs `pip install -r requirements-data.txt`; reading the result does not.
If it is interrupted, rerun the same command: finished downloads are kept.
"""

import argparse
import importlib.util
import io
import os
import sys

from diffusion_distillation.data import tfds
from diffusion_distillation.runtime.errors import UserError

_MODULES = ('tensorflow', 'importlib_resources', 'lmdb')
_IMAGENET_FILES = ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar')


def prepare(name, data_dir):
  """Prepares a data set if needed, and returns its folder.

  Args:
    name: a key of tfds.SOURCES.
    data_dir: the folder of TensorFlow Datasets; None: its default.

  Raises:
    UserError: a package or a file is missing, or the data set is damaged.
    OSError: the network or the file system fails.
  """
  builder = tfds.open_builder(name, data_dir)
  if tfds.is_prepared(name, builder):
    return builder.data_path
  if (builder.data_path / 'dataset_info.json').exists():
    raise UserError(
      f'{builder.data_path} is incomplete: a split or one of its files is '
      'missing; move the folder away and rerun this command'
    )
  missing = [m for m in _MODULES if importlib.util.find_spec(m) is None]
  if missing:
    raise UserError(
      f'this needs {" and ".join(missing)}: '
      'pip install -r requirements-data.txt'
    )
  downloads = builder.data_dir_root / 'downloads'
  if name == 'imagenet64':
    _check_imagenet(downloads / 'manual')
  if name.startswith('lsun'):
    # TensorFlow Datasets would read the database with tensorflow-io, which does
    # not work with current versions of TensorFlow.
    builder._generate_examples = _lmdb_examples
  _remove_leftovers(builder, downloads)
  tfds.download(builder)
  return builder.data_path


def _check_imagenet(folder):
  missing = [name for name in _IMAGENET_FILES if not (folder / name).exists()]
  if missing:
    raise UserError(
      f'ImageNet can only be downloaded with an account: get '
      f'{" and ".join(missing)} from https://image-net.org, put them into '
      f'{folder}, and rerun this command'
    )


def _lmdb_examples(extracted_dir, file_path):
  """Yields (key, example) of an LSUN database, as TensorFlow Datasets would."""
  import lmdb

  path = os.path.join(extracted_dir, file_path)
  with (
    lmdb.open(path, readonly=True, lock=False) as database,
    database.begin() as transaction,
  ):
    for index, (key, file) in enumerate(transaction.cursor()):
      yield index, {'id': key.decode(), 'image': io.BytesIO(file)}


def _remove_leftovers(builder, downloads):
  """Removes the unfinished files of an interrupted run."""
  folder = builder.data_path
  for path in (
    folder,
    *folder.parent.glob('incomplete.*'),
    *downloads.glob('*.tmp.*'),
    *(downloads / 'extracted').glob('*incomplete*'),
  ):
    if path.is_dir():
      path.rmtree()
    else:
      path.unlink(missing_ok=True)


def main():
  parser = argparse.ArgumentParser(
    prog='python -m diffusion_distillation.data.prepare',
    description='Downloads a data set and converts it to array_record files.',
  )
  parser.add_argument('--dataset', required=True, choices=list(tfds.SOURCES))
  parser.add_argument(
    '--data_dir',
    help='folder of TensorFlow Datasets; default: ~/tensorflow_datasets',
  )
  args = parser.parse_args()
  try:
    folder = prepare(args.dataset, args.data_dir)
  except (UserError, OSError) as error:
    sys.exit(f'error: {" ".join(str(error).split())}')
  except KeyboardInterrupt:
    sys.exit('stopped; rerun the same command to resume')
  print(f'{args.dataset} is prepared in {folder}')


if __name__ == '__main__':
  main()
