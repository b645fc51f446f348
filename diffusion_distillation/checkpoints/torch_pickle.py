"""Reads the pickles in a file of torch.save, and runs nothing that they say.

A pickle is a program. `load` follows the few instructions that torch.save
writes for a dict of tensors, and turns them into plain data: it imports no name
that the pickle mentions and calls nothing.
"""

import pickletools
from typing import NamedTuple

import numpy as np

_DICT = 'collections OrderedDict'
_TENSOR = 'torch._utils _rebuild_tensor_v2'
_PARAMETER = 'torch._utils _rebuild_parameter'
_DTYPES = {
  'torch HalfStorage': '<f2',
  'torch FloatStorage': '<f4',
  'torch DoubleStorage': '<f8',
  'torch LongStorage': '<i8',
}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}


class Storage(NamedTuple):
  """Elements in a row, of which tensors are views."""

  dtype: np.dtype
  key: str
  size: int


class Tensor(NamedTuple):
  """A view; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple
  strides: tuple


def load(file):
  """Returns the value of the pickle at the file's position, which moves on.

  Raises:
    ValueError: it takes an instruction, or a name, that tensors do not take.
  """
  stack, marks, memo = [], [], {}
  for instruction, argument, _ in pickletools.genops(file):
    match instruction.name:
      case 'PROTO':
        pass
      case 'BINUNICODE' | 'BININT' | 'BININT1' | 'BININT2' | 'LONG1':
        stack.append(argument)
      case 'NONE' | 'NEWTRUE' | 'NEWFALSE':
        stack.append(_CONSTANTS[instruction.name])
      case 'EMPTY_DICT':
        stack.append({})
      case 'EMPTY_LIST':
        stack.append([])
      case 'EMPTY_TUPLE':
        stack.append(())
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        stack.append(tuple(_pop(stack, -int(instruction.name[-1]))))
      case 'MARK':
        marks.append(len(stack))
      case 'TUPLE':
        stack.append(tuple(_pop(stack, marks.pop())))
      case 'APPEND':
        stack[-2].append(stack.pop())
      case 'APPENDS':
        items = _pop(stack, marks.pop())
        stack[-1].extend(items)
      case 'SETITEM' | 'SETITEMS':
        is_one = instruction.name == 'SETITEM'
        items = _pop(stack, -2 if is_one else marks.pop())
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
      case 'BINPUT' | 'LONG_BINPUT':
        memo[argument] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'GLOBAL':
        known = argument in (_DICT, _TENSOR, _PARAMETER, *_DTYPES)
        check(known, f'it calls for {argument}; that was not run')
        stack.append(argument)
      case 'REDUCE':
        stack.append(_rebuild(*_pop(stack, -2)))
      case 'BUILD':  # a dict's attributes, which are versions of modules
        stack.pop()
      case 'BINPERSID':
        stack.append(_storage(*stack.pop()))
      case 'STOP':
        return stack.pop()
      case other:
        raise ValueError(f'its pickle has {other}, which tensors do not take')


def _pop(stack, start):
  """Returns what a list holds from an index on, and takes it from there."""
  items = stack[start:]
  del stack[start:]
  return items


def _rebuild(name, arguments):
  """Returns what torch.save means by a call of `name`."""
  if name == _DICT:
    return {}
  if name == _PARAMETER:
    return arguments[0]
  check(name == _TENSOR, f'it calls {name}; that was not run')
  storage, offset, shape, strides, *_ = arguments
  check(isinstance(storage, Storage), 'a tensor has no storage')
  return Tensor(storage, offset, shape, strides)


def _storage(kind, type_name, key, _location, size, view=None):
  check(kind == 'storage' and view is None, f'it has a {kind} of another age')
  return Storage(np.dtype(_DTYPES[type_name]), key, size)


def check(condition, text):
  """Raises ValueError of a text unless a condition holds."""
  if not condition:
    raise ValueError(text)
