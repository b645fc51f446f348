"""The paper's figures, shown beside those of a run.

They are FIDs for numbers of sampling steps (Salimans & Ho 2022, Figure 4), from
50,000 samples compared with the training images. CIFAR-10 is unconditional, and
the mean of 4 runs; ImageNet 64x64 is class-conditional, and one run. Figure 4
leaves out FIDs above 20, and so does this table.
"""

# data set -> the paper's sampler -> sampling steps -> FID
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
# the paper's sampler -> network, sampler
_CURVES = {
  'distilled': ('student', 'ddim'),
  'ddim': ('teacher', 'ddim'),
  'ancestral': ('teacher', 'ancestral'),
}
_SAMPLES = 50_000
_TRAINING_IMAGES = {'cifar10': 50_000, 'imagenet64': 1_281_167}
_READ_OFF = (
  "The paper's FIDs are read off its Figure 4, to within 0.02 (0.1 above 9)"
)
_NOTES = {
  'cifar10': f'{_READ_OFF}, except those of 1 to 8 student steps, which are in '
  'its Table 2',
  'imagenet64': _READ_OFF,
}
_TUNED = 'Its ancestral sampler has a variance tuned for each number of steps.'


def curves(metric):
  """Returns the paper's FID, (network, sampler) -> sampling steps -> FID.

  The result is {} for data sets that the paper does not have, and for metrics
  other than FID.

  Args:
    metric: an Evaluator's protocol, or None.
  """
  if metric is None or metric['label'] != 'FID':
    return {}
  fid = _FID.get(metric['dataset'], {})
  return {_CURVES[name]: curve for name, curve in fid.items()}


def figure(metric, row):
  """Returns {'paper': FID} for a row that the paper also has, or {}.

  Args:
    metric: an Evaluator's protocol, or None.
    row: row of a report.
  """
  fid = curves(metric).get(key(row), {}).get(row['num_steps'])
  return {} if fid is None else {'paper': fid}


def key(row):
  """Returns the key of `curves` that a row of a report is compared with.

  The paper's ancestral sampler is compared with one of any variance, since the
  paper tunes the variance.

  Args:
    row: row of a report.
  """
  sampler = row['sampler']
  if sampler.startswith('ancestral:'):
    sampler = 'ancestral'
  return row['network'], sampler


def note(metric):
  """Returns the source of the paper's figures, and whether they are comparable.

  The result is '' for data sets and metrics that the paper does not have.

  Args:
    metric: an Evaluator's protocol, or None.
  """
  if not curves(metric):
    return ''
  name = metric['dataset']
  sentences = [f'{_NOTES[name]}.', _TUNED]
  if metric['num_samples'] != _SAMPLES:
    sentences.append(
      f'They are not comparable with these: the paper has {_SAMPLES:,} '
      f'samples, this report {metric["num_samples"]:,}, and fewer samples give '
      'a larger FID.'
    )
  against = f'{name} train, {_TRAINING_IMAGES[name]} images'
  if not metric['reference'].startswith(against):
    sentences.append(
      f'They are not comparable with these: the paper compares with {against}.'
    )
  return ' '.join(sentences)
