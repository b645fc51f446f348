"""Counts what the compiled steps write to memory, from their optimized HLO.

An accelerator reads and writes memory more slowly than it computes: with a
bfloat16 network, few activations should be written in float32, and there should
be no converts, transposes and copies of activations between convolutions. What
happens within a fusion stays in registers and does not count. The CPU computes
bfloat16 in float32, so its numbers say nothing about an accelerator.
"""

import collections
import math
import re

from diffusion_distillation.runtime import devices

_BYTES = {'f64': 8, 'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'f16': 2}
_MOVES = 'convert', 'transpose', 'copy'
# '%name = f32[8,32,32,3]{3,2,1,0} convert(...': type, shape, operation.
_INSTRUCTION = re.compile(r'= (\w+)\[([\d,]*)\]\S* ([\w-]+)\((.*)$')


def rows(subject):
  """Returns the megabytes that each step writes, by kind.

  Args:
    subject: a Subject.
  """
  found = []
  for batch_size in subject.batch_sizes:
    batches = devices.shard([subject.batch(batch_size)])
    for training in subject.teacher_and_students():
      text = subject.compiled_text(training, batches)
      name = training.step_name.removesuffix('_step')
      found.append({'step': name, 'batch': batch_size, **written(text)})
  return found


def written(text):
  """Returns what a program writes, kind -> MB, from its optimized HLO.

  Args:
    text: as `jax.stages.Compiled.as_text` returns it.
  """
  megabytes = collections.Counter()
  for line in _outside_fusions(text):
    match = _INSTRUCTION.search(line)
    if match is None or match[1] not in _BYTES:
      continue
    operation = match[3]
    if operation in ('parameter', 'constant', 'bitcast', 'get-tuple-element'):
      continue
    shape = [int(size) for size in match[2].split(',') if size]
    size = _BYTES[match[1]] * math.prod(shape) / 1e6
    megabytes[match[1]] += size
    # A fusion of one operation is named after it.
    wrapped = re.search(r'calls=%wrapped_(\w+?)(_computation|\.|,|$)', match[4])
    operation = wrapped[1] if wrapped else operation
    if operation in _MOVES:
      megabytes[operation] += size
  kinds = ('f32', 'bf16', *_MOVES)
  return {f'{kind}, MB': megabytes[kind] for kind in kinds}


def _outside_fusions(text):
  """Yields the instructions of computations that are not fused."""
  fused = set(re.findall(r'fusion\(.*calls=%([\w.-]+)', text))
  inside = False
  for line in text.splitlines():
    if line.endswith('{') and not line.startswith(' '):
      name = re.match(r'(?:ENTRY )?%?([\w.-]+)', line)
      inside = bool(name) and name[1] in fused
    elif not inside:
      yield line
