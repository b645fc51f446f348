"""The U-Net, the steps and DDIM in PyTorch, for `versus_torch`.

Written as PyTorch is written for speed: channels_last, fused attention, fused
Adam, operations on lists of tensors, no wait for the device within a step.
Images and noise come as (B, H, W, C), and are (B, C, H, W) inside.
"""

import functools
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_programs = {}  # of this process, name -> function without arguments


class Block(nn.Module):
  """A residual block, and the attention that may follow it."""

  def __init__(self, in_ch, out_ch, args, *, resample=None, attends=False):
    super().__init__()
    self.resample, self.dropout = resample, args['dropout']
    self.norm1, self.conv1 = _norm(in_ch), _conv(in_ch, out_ch)
    self.temb_proj = nn.Linear(args['emb_ch'], 2 * out_ch)
    self.norm2, self.conv2 = _norm(out_ch), _conv(out_ch, out_ch)
    same = in_ch == out_ch
    self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_ch, out_ch, 1)
    self.attn = Attention(out_ch, args) if attends else nn.Identity()

  def forward(self, x, emb):
    h = self.conv1(self._resampled(functional.silu(self.norm1(x))))
    scale, shift = self.temb_proj(emb)[:, :, None, None].chunk(2, dim=1)
    h = functional.silu(self.norm2(h) * (1 + scale) + shift)
    h = self.conv2(functional.dropout(h, self.dropout, self.training))
    return self.attn(self.nin_shortcut(self._resampled(x)) + h)

  def _resampled(self, x):
    if self.resample == 'down':
      return functional.avg_pool2d(x, 2)
    return functional.interpolate(x, scale_factor=2) if self.resample else x


class Attention(nn.Module):
  """Self-attention over the pixels, with a skip connection."""

  def __init__(self, ch, args):
    super().__init__()
    self.heads = args['num_heads'] or max(1, ch // args['head_dim'])
    self.norm = _norm(ch)
    self.qkv, self.proj_out = nn.Linear(ch, 3 * ch), nn.Linear(ch, ch)

  def forward(self, x):
    h = self.norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
    h = self.qkv(h).unflatten(2, (3, self.heads, -1)).transpose(1, 3)
    h = functional.scaled_dot_product_attention(*h.unbind(2))
    h = self.proj_out(h.transpose(1, 2).flatten(2))
    return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class UNet(nn.Module):
  """The network of `networks/unet.py` with its head."""

  def __init__(self, model, image_shape):
    """Makes the layers.

    Args:
      model: the section `model` of a config, a dict.
      image_shape: (H, W, C).
    """
    super().__init__()
    self.model, args = model, model['args']
    ch, emb_ch, ch_mult = args['ch'], args['emb_ch'], args['ch_mult']
    self.dense0, self.dense1 = nn.Linear(ch, emb_ch), nn.Linear(emb_ch, emb_ch)
    self.conv_in = _conv(image_shape[-1], ch)
    self.blocks, skips = nn.ModuleDict(), [ch]

    def add(name, in_ch, out_ch, **kwargs):
      self.blocks[name] = Block(in_ch, out_ch, args, **kwargs)
      return out_ch

    def attends(level):
      return {'attends': image_shape[0] >> level in args['attn_resolutions']}

    h = ch
    for level, mult in enumerate(ch_mult):
      for i in range(args['num_res_blocks']):
        h = add(f'down_{level}_block_{i}', h, ch * mult, **attends(level))
        skips.append(h)
      if level < len(ch_mult) - 1:
        skips.append(add(f'down_{level}_downsample', h, h, resample='down'))
    add('mid_block_1', h, h, attends=True)
    add('mid_block_2', h, h)
    for level, mult in reversed(list(enumerate(ch_mult))):
      for i in range(args['num_res_blocks'] + 1):
        name, in_ch = f'up_{level}_block_{i}', h + skips.pop()
        h = add(name, in_ch, ch * mult, **attends(level))
      if level > 0:
        add(f'up_{level}_upsample', h, h, resample='up')
    self.norm_out, self.conv_out = _norm(h), _conv(h, image_shape[-1])

  def forward(self, z, logsnr):
    """Returns the output of the head."""
    half, dtype = len(self.dense0.weight[0]) // 2, self.model['args']['dtype']
    frequencies = 1000 * torch.exp(
      torch.arange(half, device=z.device) * (-math.log(10000) / (half - 1))
    )
    position = torch.atan(torch.exp(-logsnr.clamp(-20, 20) / 2)) / (math.pi / 2)
    angles = position[:, None] * frequencies
    emb = torch.cat([angles.sin(), angles.cos()], dim=1)
    with torch.autocast(
      z.device.type, getattr(torch, dtype), enabled=dtype != 'float32'
    ):
      emb = functional.silu(self.dense1(functional.silu(self.dense0(emb))))
      h = self.conv_in(z)
      skips = [h]
      for name, block in self.blocks.items():
        if name.startswith('up') and 'block' in name:
          h = torch.cat([h, skips.pop()], dim=1)
        h = block(h, emb)
        if name.startswith('down'):
          skips.append(h)
    return self.conv_out(functional.silu(self.norm_out(h.float())))

  def denoise(self, z, logsnr):
    """Returns x_hat."""
    output = self(z, logsnr)
    alpha, sigma = _alpha_sigma(logsnr)
    is_v = self.model['mean_type'] == 'v'
    return alpha * z - sigma * output if is_v else output

  @torch.no_grad()
  def copy(self, params):
    """Copies Flax parameters, a mapping from paths to arrays."""
    targets = dict(self.named_parameters())
    for (first, *rest), array in params.items():
      names = [first, *rest[:-1]]
      if '.' in first:  # 'down_0.attn_1' belongs to 'down_0_block_1'
        block = first.replace('.', '_').replace('attn', 'block')
        names = ['blocks', block, *['attn'] * ('attn' in first), *rest[:-1]]
      name, leaf = names.pop(), 'bias' if rest[-1] == 'bias' else 'weight'
      layer = 'qkv' if name in 'qkv' else name
      target = targets['.'.join([*names, layer, leaf])]
      if layer == 'qkv':
        target = target.chunk(3)['qkv'.index(name)]
      tensor = torch.tensor(array)
      if tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1)
      elif rest[-1] == 'kernel':
        tensor = tensor.reshape(target.shape[1], target.shape[0]).T
      target.copy_(tensor.reshape(target.shape))


def _norm(channels):
  return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def _conv(in_ch, out_ch):
  return nn.Conv2d(in_ch, out_ch, 3, padding=1)


def _alpha_sigma(logsnr):
  logsnr = logsnr[:, None, None, None]
  return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def _cosine(t, *, logsnr_min, logsnr_max, **_):
  """Returns the log-SNR of times, as `core/schedules.py` does."""
  at_data = math.atan(math.exp(-logsnr_max / 2))
  at_noise = math.atan(math.exp(logsnr_min / 2))
  slope = math.pi / 2 - at_data - at_noise
  near_data = torch.tan(slope * t.clamp(max=0.5) + at_data)
  near_noise = torch.tan(slope * (1 - t.clamp(min=0.5)) + at_noise)
  return torch.where(t < 0.5, -2 * near_data.log(), 2 * near_noise.log())


def _diffuse(images, eps, logsnr):
  """Returns clean and noisy images."""
  x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
  alpha, sigma = _alpha_sigma(logsnr)
  return x, alpha * x + sigma * eps.permute(0, 3, 1, 2)


def _ddim_step(z_t, x_hat, logsnr_t, logsnr_s):
  _, sigma_t = _alpha_sigma(logsnr_t)
  alpha_s, sigma_s = _alpha_sigma(logsnr_s)
  weight = alpha_s * torch.expm1((logsnr_t - logsnr_s) / 2)[:, None, None, None]
  return (sigma_s / sigma_t) * z_t - weight * x_hat


def _distillation_target(teacher, z, index, num_steps, schedule):
  t = _cosine((index + 1) / num_steps, **schedule)
  m = _cosine((2 * index + 1) / (2 * num_steps), **schedule)
  u = _cosine(index / num_steps, **schedule).where(index > 0, math.inf)
  x1 = teacher.denoise(z, t)
  x2 = teacher.denoise(_ddim_step(z, x1, t, m), m)
  a, b = (m - t) / 2, (u - t) / 2
  w = torch.exp(a - b) * torch.expm1(-a) / torch.expm1(-b)
  return x2 + w[:, None, None, None] * (x1 - x2)


def _loss(x_target, x_hat, logsnr):
  mse = (x_target - x_hat).square().mean((1, 2, 3))
  return (logsnr.exp().clamp(min=1) * mse).mean()  # the weighting 'snr_trunc'


class Step:
  """An update of a network, (images, times=None, eps=None) -> loss, norm."""

  def __init__(self, network, loss, draw, training):
    """Makes the state of a training.

    Args:
      network: the UNet to train.
      loss: (images, times, eps) -> scalar.
      draw: number of images -> times.
      training: 'train', that section of a config, and 'rates', the learning
        rates of the first updates, the last of which is kept.
    """
    self.loss, self.draw, train = loss, draw, training['train']
    self.train, self.rates = train, training['rates']
    self.params = list(network.train().parameters())
    self.average = [p.detach().clone() for p in self.params]
    self.optimizer = torch.optim.AdamW(
      self.params, weight_decay=train['weight_decay'], fused=True
    )
    self.made = 0

  def __call__(self, images, times=None, eps=None):
    device = self.params[0].device
    images = images.to(device, non_blocking=True)
    if times is None:
      times = self.draw(len(images))
      eps = torch.randn(images.shape, device=images.device)
    loss = self.loss(images, times, eps)
    self.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(
      self.params, self.train['grad_clip'], foreach=True
    )
    rate = self.rates[min(self.made, len(self.rates) - 1)]
    self.optimizer.param_groups[0]['lr'] = rate
    self.optimizer.step()
    if self.train['ema_decay']:
      decay = min(self.train['ema_decay'], (1 + self.made) / (10 + self.made))
      with torch.no_grad():
        torch._foreach_lerp_(self.average, self.params, 1 - decay)
    self.made += 1
    return loss.detach(), norm


def start(inputs, *, threads, compiled):
  """Makes the programs of this process, and returns their answers.

  Args:
    inputs: see `versus_torch.prepare`.
    threads: number of threads.
    compiled: whether torch.compile compiles the programs.
  """
  device = _set_up(threads)
  num_steps, images = inputs['num_steps'], torch.tensor(inputs['images'])
  trainings = inputs['trainings']

  def network(model):
    made = UNet(model, images.shape[1:])
    made.copy(inputs['params'])
    return made.to(device, memory_format=torch.channels_last)

  def program(function, *args):
    function = functools.partial(function, *args)
    if not compiled:
      return function
    mode = 'max-autotune' if device == 'cuda' else 'default'
    return torch.compile(function, mode=mode, dynamic=False)

  def draw_times(count):
    return torch.rand(count, device=device)

  def draw_index(count):
    return torch.randint(num_steps, (count,), dtype=torch.int32, device=device)

  trained, distilled = (network(t['model']) for t in trainings.values())
  parent = network(distilled.model).eval().requires_grad_(False)
  draw = functools.partial(
    _sample,
    program(_sampling_step, parent),
    parent.model['eval_logsnr_schedule'],
    inputs['sampling_steps'],
  )
  _programs['sampler'] = lambda: draw(torch.randn(images.shape, device=device))
  tensor = functools.partial(torch.tensor, device=device)
  z, logsnr = tensor(inputs['z']), tensor(inputs['logsnr'])
  with torch.no_grad():
    output = parent(z.permute(0, 3, 1, 2), logsnr).permute(0, 2, 3, 1)
  answers = {'output': output.cpu().numpy(), 'sampler': draw(z)}
  distill_loss = program(_distill_loss, distilled, parent, num_steps)
  for name, *parts in (
    ('train_step', trained, program(_train_loss, trained), draw_times),
    ('distill_step', distilled, distill_loss, draw_index),
  ):
    update = Step(*parts, trainings[name])
    _programs[name] = functools.partial(update, images)
    answers[name] = np.array(
      [
        [float(value) for value in update(images, *map(tensor, draws))]
        for draws in trainings[name]['draws']
      ]
    )
  return answers


def _set_up(threads):
  """Sets threads and precision, and returns the name of the device."""
  torch.set_num_threads(threads)
  if not torch.cuda.is_available():
    return 'cpu'
  torch.set_float32_matmul_precision('high')  # JAX's default is TF32, too
  torch.backends.cudnn.benchmark = True
  return 'cuda'


def _train_loss(student, images, t, eps):
  logsnr = _cosine(t, **student.model['train_logsnr_schedule'])
  x, z = _diffuse(images, eps, logsnr)
  return _loss(x, student.denoise(z, logsnr), logsnr)


def _distill_loss(student, parent, num_steps, images, index, eps):
  schedule = parent.model['train_logsnr_schedule']
  logsnr = _cosine((index + 1) / num_steps, **schedule)
  _, z = _diffuse(images, eps, logsnr)
  with torch.no_grad():
    target = _distillation_target(parent, z, index, num_steps, schedule)
  return _loss(target, student.denoise(z, logsnr), logsnr)


def _sampling_step(network, z, logsnr_t, logsnr_s):
  x_hat = network.denoise(z, logsnr_t).clamp(-1, 1)
  return _ddim_step(z, x_hat, logsnr_t, logsnr_s)


@torch.no_grad()
def _sample(step, schedule, num_steps, z):
  """Returns uint8 images of noise, on the host.

  Args:
    step: (z, logsnr_t, logsnr_s) -> z.
    schedule: arguments of `_cosine`.
    num_steps: number of steps.
    z: (B, H, W, C) noise.
  """
  z = z.permute(0, 3, 1, 2)
  times = torch.arange(num_steps + 1, device=z.device) / num_steps
  logsnr = _cosine(times, **schedule)
  logsnr[0] = math.inf
  for i in range(num_steps, 0, -1):
    levels = (logsnr[j].expand(len(z)) for j in (i, i - 1))
    # A clone, since CUDA graphs reuse the memory of their results.
    z = step(z, *levels).clone()
  x = ((z + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
  return x.permute(0, 2, 3, 1).cpu().numpy()


def seconds(name, calls):
  """Returns the mean seconds of some calls of a program of this process."""
  started = time.perf_counter()
  for _ in range(calls):
    _programs[name]()
  if torch.cuda.is_available():
    torch.cuda.synchronize()
  return (time.perf_counter() - started) / calls
