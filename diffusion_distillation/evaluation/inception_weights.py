"""The file of weights of the Inception network."""

HOW_TO_GET = (
  'fetch pt_inception-2015-12-05-6726825d.pth from the release fid_weights of '
  'mseitzer/pytorch-fid on GitHub, and say where it is with '
  '--config.eval.inception_path=PATH'
)
