"""Every key there is, with what it does. Other configs change what differs."""

import copy

from ml_collections import ConfigDict, config_dict


def get_config():
  """Returns a base config; `dataset` and `train.num_updates` are to be set."""
  config = ConfigDict()

  # Seed of everything random: parameters, data order, noise. int >= 0.
  config.seed = 0
  # How the teacher is sampled by default: 'ddim', 'ancestral', or another
  # name in diffusion_distillation/samplers/methods.py.
  config.sampler = 'ddim'

  # Folder that keeps what XLA compiled, for the next start; empty: none.
  config.compilation_cache_dir = config_dict.FieldReference(
    '~/.cache/diffusion_distillation/xla', field_type=str
  )

  config.dataset = ConfigDict()
  # Which data set; see diffusion_distillation/data/dataset.py.
  config.dataset.name = config_dict.placeholder(str)
  # Arguments of the data set's load function.
  config.dataset.args = ConfigDict()

  config.model = _model()
  config.train = _train()

  config.eval = _eval()

  # A distill config has sections here: see `to_distill`.
  config.distillation = None
  config.teacher = None
  return config


def _model():
  """Returns the section `model`: network, parameterization, sampling."""
  model = ConfigDict()
  # Network, a name in NETWORKS of diffusion_distillation/networks/denoiser.py.
  model.name = 'unet_iddpm'
  model.args = ConfigDict()
  # Channels of the first level.
  model.args.ch = 128
  # Width of the embedding of noise level and class.
  model.args.emb_ch = 512
  # Channels of each level, in units of ch; each level halves the image.
  model.args.ch_mult = (1, 2, 2)
  # Residual blocks per level; there is one more on the way up.
  model.args.num_res_blocks = 2
  # Image heights at which self-attention follows each block.
  model.args.attn_resolutions = (16, 8)
  # Attention heads; absent where head_dim, the channels of each, is given.
  model.args.num_heads = config_dict.placeholder(int)
  # See num_heads.
  model.args.head_dim = config_dict.placeholder(int)
  # Dropout rate while training.
  model.args.dropout = 0.0
  # How the network sees the noise level: 'inv_cos', 'linear' or 'sigmoid'.
  model.args.logsnr_input_type = 'inv_cos'
  # The log-SNR that the 'linear' input maps to 0 and 1.
  model.args.logsnr_scale_range = (-10.0, 10.0)
  # Down- and upsample in residual blocks, else by convolutions.
  model.args.resblock_resample = True
  # Of the network's computation; parameters and the rest stay float32.
  model.args.dtype = 'float32'
  # Recompute blocks in the gradient: far less memory, a fifth more FLOPs.
  model.args.remat = False
  # What the network predicts: 'x', 'eps', 'v' or 'both' (x and eps).
  model.mean_type = 'v'
  # Variance of ancestral sampling: 'fixed_small', 'fixed_large' or
  # 'fixed_medium:g', which interpolates the log variance by g in [0, 1].
  model.logvar_type = 'fixed_large'
  # Loss weighting: 'constant', 'snr', 'snr_trunc' or 'v_mse' (SNR + 1).
  model.mean_loss_weight_type = 'snr_trunc'
  # Discrete times that a teacher is trained at; 0 is continuous time.
  model.train_num_steps = 0
  # Steps that a teacher is sampled with by default.
  model.eval_sampling_num_steps = 1024
  # Noise schedule in training: 'cosine' or 'uniform', and its ends.
  model.train_logsnr_schedule = ConfigDict(
    {'name': 'cosine', 'logsnr_min': -20.0, 'logsnr_max': 20.0}
  )
  # Noise schedule in sampling.
  model.eval_logsnr_schedule = ConfigDict(
    {'name': 'cosine', 'logsnr_min': -20.0, 'logsnr_max': 20.0}
  )
  # Whether sampling clips x_hat to [-1, 1]; distillation targets never do.
  model.eval_clip_denoised = True
  return model


def _train():
  """Returns the section `train`: optimization and logging."""
  train = ConfigDict()
  # Length of a teacher's training, in updates; to be set.
  train.num_updates = config_dict.placeholder(int)
  # Examples per update, over all devices.
  train.batch_size = 128
  # Parts that a replica's batch is cut into, one gradient after the other: the
  # result is the same, and the memory less.
  train.accumulate = 1
  # 'adam', 'momentum' or 'nesterov'.
  train.optimizer = 'adam'
  # After the warm-up, before annealing.
  train.learning_rate = 2e-4
  # Updates over which the learning rate grows linearly; 0 is none.
  train.learning_rate_warmup_steps = 0
  # 'constant', or 'linear' to 0.
  train.learning_rate_anneal_type = 'constant'
  # Updates until it is 0; absent: the length of this training or round.
  train.learning_rate_anneal_steps = config_dict.placeholder(int)
  # Decoupled weight decay (Adam becomes AdamW).
  train.weight_decay = 0.0
  # Of the moving average of the parameters, which is then what is sampled and
  # distilled; 0 keeps none.
  train.ema_decay = 0.9999
  # Global norm that gradients are clipped to; inf for none.
  train.grad_clip = 1.0
  # Updates per dispatch on accelerators; on CPU always 1.
  train.substeps = 1
  # Updates between two lines of the log.
  train.log_loss_every_steps = 100
  # Seconds between two checkpoints; one more comes before each evaluation, when
  # the run is told to stop, and at the end.
  train.checkpoint_every_secs = 900
  # Updates between two evaluations while training; absent: none.
  train.eval_every_steps = config_dict.placeholder(int)
  return train


def _eval():
  """Returns the section `eval`; it may change after a run."""
  settings = ConfigDict()
  # Generated images per figure.
  settings.num_samples = 50_000
  # Images drawn at once, over all devices; it does not change them.
  settings.batch_size = 512
  # Samplers of the teacher that are measured beside the students.
  settings.samplers = ('ddim', 'ancestral')
  # Samplers that the students are measured with.
  settings.student_samplers = ('ddim',)
  # Step counts of `samplers`; empty: those of the students and the teacher.
  settings.num_steps = ()
  # What has more sampling steps is not measured; absent: all is.
  settings.max_num_steps = config_dict.placeholder(int)
  # File of Inception's weights, .pth or .npz; absent: no FID is measured.
  settings.inception_path = config_dict.placeholder(str)
  # A .npz of `mu` and `sigma` to compare with; absent: the training images.
  settings.reference_path = config_dict.placeholder(str)
  # Folder that keeps the training images' statistics; empty: none is kept.
  settings.cache_dir = config_dict.FieldReference(
    '~/.cache/diffusion_distillation', field_type=str
  )
  return settings


def to_distill(config):
  """Turns a teacher's config into a distill config, and returns it.

  Its section `teacher` keeps what differs, or only has a meaning, while the
  teacher is trained; all else then speaks of teacher and students alike.
  """
  model = config.model
  config.teacher = ConfigDict(
    {
      'model': {
        'args': {'dropout': model.args.dropout},
        'train_num_steps': model.train_num_steps,
        'eval_sampling_num_steps': model.eval_sampling_num_steps,
      },
    }
  )
  # deepcopy keeps the types of absent values, so that flags can set them.
  config.teacher.train = copy.deepcopy(config.train)
  del config.train.num_updates
  del model.train_num_steps
  del model.eval_sampling_num_steps
  # As in the paper: no dropout, no warm-up, no average, to a rate of 0.
  model.args.dropout = 0.0
  config.train.update(
    learning_rate_warmup_steps=0,
    learning_rate_anneal_type='linear',
    weight_decay=0.0,
    ema_decay=0.0,
  )

  config.distillation = ConfigDict()
  # The checkpoint to distill; absent: train the teacher first.
  config.distillation.teacher_checkpoint_path = config_dict.placeholder(str)
  # Sampling steps of the teacher, a power of two times those of the end.
  config.distillation.start_num_steps = 1024
  # Sampling steps of the last student.
  config.distillation.end_num_steps = 1
  # Updates of each round: a number, or a mapping from the student's steps.
  config.distillation.steps_per_iter = config_dict.FieldReference(
    50_000, field_type=object
  )
  return config
