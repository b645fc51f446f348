"""The figures of the paper, to be shown beside one's own.

FID against sampling steps (Salimans & Ho 2022, Figure 4), of 50,000 samples
against the training images. CIFAR-10 is unconditional and the mean of 4 runs,
ImageNet 64x64 class-conditional and of one run. The figure ends at 20.
"""

# data set -> sampler, named as here -> sampling steps -> FID
_FID = {
  'cifar10': {
    'distilled': {
      1: 9.12,
      2: 4.51,
      4: 3.00,
      8: 2.57,
      16: 2.46,
      32: 2.40,
      64: 2.40,
      128: 2.38,
      256: 2.38,
      512: 2.39,
    },
    'ddim': {16: 9.67, 32: 6.00, 64: 4.27, 128: 3.29, 256: 2.80, 512: 2.59},
    'ancestral': {
      16: 9.93,
      32: 4.55,
      64: 3.05,
      128: 2.47,
      256: 2.37,
      512: 2.36,
    },
  },
  'imagenet64': {
    'distilled': {
      1: 16.1,
      2: 7.36,
      4: 3.88,
      8: 2.95,
      16: 2.67,
      32: 2.60,
      64: 2.57,
      128: 2.57,
      256: 2.56,
      512: 2.56,
    },
    'ddim': {
      8: 13.6,
      16: 6.75,
      32: 4.53,
      64: 3.64,
      128: 3.05,
      256: 2.77,
      512: 2.65,
    },
    'ancestral': {
      16: 9.71,
      32: 4.56,
      64: 3.11,
      128: 2.33,
      256: 2.17,
      512: 2.14,
    },
  },
}
_SAMPLES = 50_000
_TRAINING_IMAGES = {'cifar10': 50_000, 'imagenet64': 1_281_167}
_NOTE = (
  'The paper prints its FID of CIFAR-10 at 1 to 8 distilled steps; the others '
  'are read off its Figure 4, to about 0.02 (0.1 above 9). Its ancestral '
  'sampler has a variance tuned for each number of steps.'
)


def figures(protocol):
  """Returns the paper's FID, sampler -> steps -> FID; {} where it has none.

  Args:
    protocol: of an Evaluator, or None.
  """
  if protocol is None or protocol['label'] != 'FID':
    return {}
  return _FID.get(protocol['dataset'], {})


def note(protocol):
  """Returns what to know before one compares with the paper, or ''.

  Args:
    protocol: of an Evaluator, or None.
  """
  if not figures(protocol):
    return ''
  name, text = protocol['dataset'], _NOTE
  if protocol['num_samples'] != _SAMPLES:
    text += (
      f' Not comparable: the paper has {_SAMPLES:,} samples, this report '
      f'{protocol["num_samples"]:,}; fewer samples have a larger FID.'
    )
  against = f'{name} train, {_TRAINING_IMAGES[name]} images'
  if not protocol['reference'].startswith(against):
    text += f' Not comparable: the paper compares with {against}.'
  return text
