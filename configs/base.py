"""Every key of a config, with its default and what it does.

Other configs start from `get_config()` and change what differs. A distill
config then calls `to_distill()`. All sections exist in every config.
"""

from ml_collections import ConfigDict, config_dict


def get_config():
  """Returns a config; `dataset` and `train.num_updates` are still to be set."""
  config = ConfigDict()

  # Seed of everything random: parameters, data order, noise; 0 to 2^32 - 1.
  config.seed = 0
  # What the teacher learns: a name in OBJECTIVES, with its options after a
  # colon, such as 'sliced_score_matching:projections=4'.
  config.objective = 'denoising'
  # The teacher's default sampler: a name in SAMPLERS, with its options after a
  # colon, such as 'ddim' or 'ancestral:gamma=0.3'.
  config.sampler = 'ddim'

  # Folder where JAX keeps compiled programs, so that the next start is faster;
  # an empty string keeps none.
  config.compilation_cache_dir = config_dict.FieldReference(
    '~/.cache/diffusion_distillation/xla', field_type=str
  )

  config.dataset = ConfigDict()
  # The data set: a name in DATASETS.
  config.dataset.name = config_dict.placeholder(str)
  # Arguments of the data set's load function.
  config.dataset.args = ConfigDict()

  config.model = _model()
  config.train = _train()
  config.eval = _eval()
  config.distillation = _distillation()
  config.teacher = _teacher(config.model, config.train)
  return config


def _model():
  """Returns the section `model`: network, parameterization, noise schedules."""
  model = ConfigDict()
  # The network: a name in NETWORKS; `args` are its arguments.
  model.name = 'unet_iddpm'
  model.args = ConfigDict()
  # Channels at full resolution.
  model.args.ch = 128
  # Width of the embedding of the noise level and the class.
  model.args.emb_ch = 512
  # Channels of each resolution in multiples of ch; each halves the one before.
  model.args.ch_mult = (1, 2, 2)
  # Residual blocks per resolution on the way down; there is one more going up.
  model.args.num_res_blocks = 2
  # Image heights at which self-attention follows each residual block.
  model.args.attn_resolutions = (16, 8)
  # Number of attention heads; set either this or head_dim.
  model.args.num_heads = config_dict.placeholder(int)
  # Channels of each attention head; set either this or num_heads.
  model.args.head_dim = config_dict.placeholder(int)
  # Dropout rate in training.
  model.args.dropout = 0.0
  # How the log-SNR enters the network: 'inv_cos', 'linear' or 'sigmoid'.
  model.args.logsnr_input_type = 'inv_cos'
  # The log-SNRs that the 'linear' input maps to 0 and 1.
  model.args.logsnr_scale_range = (-10.0, 10.0)
  # True resamples inside residual blocks, False by separate convolutions.
  model.args.resblock_resample = True
  # Type that the network computes in, 'float32' or 'bfloat16'; the parameters
  # and everything outside the network stay float32.
  model.args.dtype = 'float32'
  # Recompute residual blocks in the backward pass: much less memory for a
  # fifth more FLOPs.
  model.args.remat = False
  # GroupNorm and swish of residual blocks: 'flax', or 'fused', one operation
  # with a kernel for NVIDIA GPUs that has not been measured on one yet.
  model.args.norm = 'flax'
  # What the network predicts: 'x', 'eps', 'v', 'both' (x and eps), 'edm' or
  # 'edm_consistency'.
  model.mean_type = 'v'
  # Weighting of the loss: 'constant', 'snr', 'snr_trunc', 'v_mse' (SNR + 1) or
  # 'karras' (SNR + 4).
  model.mean_loss_weight_type = 'snr_trunc'
  # Number of discrete times that the teacher is trained at; 0 is continuous.
  model.train_num_steps = config_dict.FieldReference(0, field_type=int)
  # Sampling steps that the teacher is used with by default.
  model.eval_sampling_num_steps = config_dict.FieldReference(
    1024, field_type=int
  )
  # Noise schedule in training: 'cosine' or 'uniform', and the range of log-SNR.
  model.train_logsnr_schedule = ConfigDict(
    {'name': 'cosine', 'logsnr_min': -20.0, 'logsnr_max': 20.0}
  )
  # Noise that images are trained with: 'gaussian', or 'gamma' for noise that is
  # skewed near data. Sampling does not read it: `gamma_ddim` is the sampler of
  # Gamma noise, and a network trained with it may be sampled by all others.
  model.noise = 'gaussian'
  # The scale of Gamma noise where alpha is 1; the sampler's theta_0 is to equal
  # it.
  model.theta_0 = 0.001
  # Noise schedule in sampling.
  model.eval_logsnr_schedule = ConfigDict(
    {'name': 'cosine', 'logsnr_min': -20.0, 'logsnr_max': 20.0}
  )
  # Whether sampling clips each x_hat to [-1, 1]; training never does.
  model.eval_clip_denoised = True
  return model


def _train():
  """Returns the section `train`: optimization, log and checkpoints."""
  train = ConfigDict()
  # Updates of the teacher's training; required.
  train.num_updates = config_dict.placeholder(int)
  # Examples per update, over all devices.
  train.batch_size = 128
  # Number of parts that each device's batch is split into, to add up their
  # gradients one after the other: the same result with less memory.
  train.accumulate = 1
  # 'adam', 'radam', 'momentum' or 'nesterov'.
  train.optimizer = 'adam'
  # Learning rate after the warm-up and before annealing.
  train.learning_rate = 2e-4
  # Updates over which the learning rate rises linearly from 0; 0: no warm-up.
  train.learning_rate_warmup_steps = 0
  # 'constant', or 'linear' for a linear decay to 0.
  train.learning_rate_anneal_type = 'constant'
  # Updates after which a linear decay reaches 0; None is the whole training.
  train.learning_rate_anneal_steps = config_dict.placeholder(int)
  # Decoupled weight decay (Adam becomes AdamW).
  train.weight_decay = 0.0
  # EMA decay of the parameters; the averaged weights are sampled and distilled;
  # 0 keeps no average.
  train.ema_decay = 0.9999
  # Largest global norm of the gradient; larger gradients are scaled down to it.
  train.grad_clip = 1.0
  # Updates per call of the compiled step on a GPU or TPU; always 1 on a CPU.
  train.substeps = 1
  # Updates between two lines of the log.
  train.log_loss_every_steps = 100
  # Seconds between two checkpoints. One is also saved before each evaluation,
  # when the run is asked to stop, and at the end.
  train.checkpoint_every_secs = 900
  # Updates between two evaluations during training; None evaluates at the end.
  train.eval_every_steps = config_dict.placeholder(int)
  return train


def _eval():
  """Returns the section `eval`, which may change between commands of a run."""
  settings = ConfigDict()
  # Number of runs with the seeds `seed`, `seed` + 1, ..., whose figures are
  # averaged; their folders are in that of --workdir.
  settings.seeds = 1
  # Generated images per row of the report.
  settings.num_samples = 50_000
  # Images drawn at once, over all devices; the images do not depend on it.
  settings.batch_size = 512
  # Samplers that the teacher is evaluated with.
  settings.samplers = ('ddim', 'ancestral')
  # Samplers that the students are evaluated with.
  settings.student_samplers = ('ddim',)
  # Step counts that the teacher is evaluated at; () takes its own default and
  # those of the students.
  settings.num_steps = ()
  # Largest number of steps that is evaluated; None evaluates all.
  settings.max_num_steps = config_dict.placeholder(int)
  # Largest number of network evaluations (NFE) that the teacher is evaluated
  # with, except by its own sampler `config.sampler`; None evaluates all.
  settings.max_nfe = config_dict.placeholder(int)
  # DDIM steps of the teacher's solution, to which the images of samplers that
  # draw no noise are compared; None compares none.
  settings.solution_num_steps = config_dict.placeholder(int)
  # Features to measure with: 'inception' for FID, or 'classifier' for those of
  # a small classifier, which is trained on the data set and needs its labels.
  settings.features = 'inception'
  # File with the weights of Inception, .pth or .npz; None measures no FID.
  settings.inception_path = config_dict.placeholder(str)
  # Rule that resizes images for Inception: 'tf1' as in the original FID, or
  # 'pytorch' as in pytorch-fid. It must be the rule of `reference_path`.
  settings.resize = 'tf1'
  # File of reference statistics, a .npz with `mu` and `sigma`; None compares
  # with the training images.
  settings.reference_path = config_dict.placeholder(str)
  # Folder that keeps the training images' statistics; an empty string keeps
  # none.
  settings.cache_dir = config_dict.FieldReference(
    '~/.cache/diffusion_distillation', field_type=str
  )
  return settings


def _distillation():
  """Returns the section `distillation`: the students."""
  distillation = ConfigDict()
  # What the students learn: a name in OBJECTIVES, with its options after a
  # colon, such as 'tract:factor=8'. None, or an empty string, trains no
  # students, but a teacher alone, as the section `teacher` says.
  distillation.objective = config_dict.placeholder(str)
  # Checkpoint of the teacher; None trains the teacher first.
  distillation.teacher_checkpoint_path = config_dict.placeholder(str)
  # Sampling steps of the teacher; for progressive distillation and TRACT,
  # end_num_steps times a power of their factor.
  distillation.start_num_steps = 1024
  # Sampling steps of the last student.
  distillation.end_num_steps = 1
  # Several ways to distill the same teacher, to compare them: the name of each
  # and the keys of `distillation`, `train` and `model` that it changes, such as
  # {'tract': {'train': {'ema_decay': 0.99}}}. Empty: one, as this config says.
  distillation.methods = ConfigDict()
  # Updates of each round: one number, or a dict from a student's steps to it.
  distillation.steps_per_iter = config_dict.FieldReference(
    50_000, field_type=object
  )
  return distillation


def _teacher(model, train):
  """Returns the section `teacher`: what differs while the teacher is trained.

  A key that is None takes its value from `model` or `train`. All keys are None
  in a config without students.
  """
  teacher = ConfigDict()
  teacher.model = _unset(model, ('train_num_steps', 'eval_sampling_num_steps'))
  teacher.model.args = _unset(model.args, ('dropout',))
  teacher.train = _unset(train, train)
  return teacher


def _unset(section, keys):
  """Returns some keys of a section, with their types and the value None."""
  return ConfigDict(
    {key: config_dict.placeholder(section.get_type(key)) for key in keys}
  )


def to_distill(config):
  """Turns the config of a teacher into that of its distillation.

  `model` and `train` then describe the students, and `teacher` keeps what they
  said about the teacher. The keys that only a teacher has, the length of its
  training and its numbers of steps, are None in `model` and `train`.

  Args:
    config: the config of a teacher, which is changed in place.

  Returns:
    The same config.
  """
  model, train, teacher = config.model, config.train, config.teacher
  teacher.model.args.dropout = model.args.dropout
  teacher.train.update(train.to_dict())
  for key in ('train_num_steps', 'eval_sampling_num_steps'):
    teacher.model[key], model[key] = model[key], None
  # The paper's students have no dropout, no warm-up, no average, and a linear
  # decay of the learning rate.
  model.args.dropout = 0.0
  train.update(
    num_updates=None,
    learning_rate_warmup_steps=0,
    learning_rate_anneal_type='linear',
    weight_decay=0.0,
    ema_decay=0.0,
  )
  config.distillation.objective = 'progressive'
  return config
