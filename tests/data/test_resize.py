"""Resizing as TensorFlow does; image files of every kind, and broken ones."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.data.resize import (
  central_square,
  crop_and_resize,
  decode,
  resize,
)
from diffusion_distillation.runtime.errors import UserError

# Made by make_resize_reference.py, with TensorFlow 2.21.
with np.load(pathlib.Path(__file__).with_name('resize_reference.npz')) as file:
  REFERENCE = dict(file)
RESIZED = [name for name in REFERENCE if name.count('_') == 3]

COLORS = np.array([[[250, 10, 30], [0, 128, 255]]], np.uint8)  # (1, 2, 3)


def encode(image, kind='PNG', **kwargs):
  buffer = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(buffer, kind, **kwargs)
  return buffer.getvalue()


@pytest.mark.parametrize('name', RESIZED)
def test_resizing_equals_tensorflow_s(name):
  kind, shape, method, size = name.split('_')
  got = resize(REFERENCE[f'{kind}_{shape}'], int(size), method)
  # TensorFlow's result is not rounded: half a grey level, and float32 rounding.
  np.testing.assert_allclose(got, REFERENCE[name], atol=0.501, rtol=0)


def test_the_reference_covers_both_methods_shrinking_and_enlarging():
  assert {name.split('_')[2] for name in RESIZED} == {'area', 'antialias'}
  sizes = [(REFERENCE[n].shape[0], n.split('_')[1]) for n in RESIZED]
  assert (16, '64x64') in sizes and (27, '9x9') in sizes


@pytest.mark.parametrize('method', ['area', 'antialias'])
@pytest.mark.parametrize(('source', 'size'), [(375, 64), (50, 64), (7, 3)])
def test_a_constant_image_stays_constant(method, source, size):
  image = np.full((source, source, 3), 201, np.uint8)
  assert np.all(resize(image, size, method) == 201)


def test_area_averages_blocks():
  image = np.random.RandomState(0).randint(0, 256, (6, 6, 3), np.uint8)
  blocks = image.reshape(3, 2, 3, 2, 3).mean((1, 3))
  got = resize(image, 3, 'area')
  assert np.abs(got - blocks).max() <= 0.5


@pytest.mark.parametrize(
  ('shape', 'rows', 'columns'),
  [
    # The offset is the difference of the halves: 6 // 2 - 5 // 2 = 1.
    ((6, 5), slice(1, 6), slice(0, 5)),
    ((5, 6), slice(0, 5), slice(1, 6)),
    ((4, 9), slice(0, 4), slice(2, 6)),
    ((3, 3), slice(0, 3), slice(0, 3)),
  ],
)
def test_the_central_square_is_the_original_s(shape, rows, columns):
  image = np.arange(np.prod(shape), dtype=np.uint8).reshape(*shape, 1)
  np.testing.assert_array_equal(central_square(image), image[rows, columns])


def test_a_small_image_is_enlarged_after_its_crop():
  image = np.zeros((3, 9, 3), np.uint8)
  image[:, 3:6] = 77  # the central square
  assert np.all(crop_and_resize(image, 8, 'area') == 77)


def sixteen_bits():
  """Returns a PNG with 16-bit RGB, which Pillow cannot write."""
  row = b'\0' + (COLORS.astype('>u2') * 256 + 99).astype('>u2').tobytes()

  def chunk(kind, data):
    crc = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + crc

  header = struct.pack('>IIBBBBB', 2, 1, 16, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    chunk(*pair)
    for pair in [
      (b'IHDR', header),
      (b'IDAT', zlib.compress(row)),
      (b'IEND', b''),
    ]
  )


def files():
  """Yields (kind, bytes of a file, the pixels that it stands for)."""
  grey = np.array([[7, 200]], np.uint8)
  yield 'grey', encode(grey), grey[..., None].repeat(3, 2)
  yield (
    'grey, 16 bits',
    encode(grey.astype(np.uint16) * 256 + 255),
    grey[..., None].repeat(3, 2),
  )
  yield 'RGB, 16 bits', sixteen_bits(), COLORS
  yield (
    'two levels',
    encode(Image.fromarray(grey > 100)),
    np.array([[[0] * 3, [255] * 3]]),
  )
  alpha = np.array([[[0], [128]]], np.uint8)
  yield 'RGBA', encode(np.concatenate([COLORS, alpha], -1)), COLORS
  palette = Image.fromarray(np.array([[1, 0]], np.uint8))
  palette.putpalette([*COLORS[0, 1], *COLORS[0, 0]])
  yield 'palette', encode(palette), COLORS
  yield 'transparent palette', encode(palette, transparency=b'\0\x80'), COLORS
  yield 'BMP', encode(COLORS, 'BMP'), COLORS
  # R = (255 - C)(255 - K) / 255, and so on.
  cmyk = Image.fromarray(np.array([[[0, 255, 51, 0]] * 2], np.uint8), 'CMYK')
  yield 'CMYK', encode(cmyk, 'TIFF'), np.array([[[255, 0, 204]] * 2])
  later = [Image.fromarray(np.zeros_like(COLORS))]
  yield (
    'animation',
    encode(COLORS, 'PNG', save_all=True, append_images=later),
    COLORS,
  )


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  ('data', 'want'),
  [pytest.param(*case, id=kind) for kind, *case in files()],
)
def test_every_kind_of_file_becomes_rgb(data, want):
  got = decode(data, 'x')
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, want)


def test_with_one_channel_grey_is_kept_and_colours_become_luma():
  grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
  got = decode(encode(grey), 'x', channels=1)
  np.testing.assert_array_equal(got, grey[..., None])
  got = decode(encode(COLORS), 'x', channels=1)
  luma = COLORS @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
  np.testing.assert_allclose(got[..., 0], luma, atol=0.51)


@pytest.mark.parametrize('mode', ['CMYK', 'L', 'RGB'])
def test_jpegs_of_every_colour_space_are_read(mode):
  image = Image.new('RGB', (16, 16), (90, 160, 40)).convert(mode)
  want = np.asarray(image.convert('RGB')).astype(int)
  got = decode(encode(image, 'JPEG', quality=100), 'x')
  assert np.abs(got - want).max() <= 2


def test_exif_orientation_is_applied_on_request():
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees, clockwise
  data = encode(COLORS, 'PNG', exif=exif)
  np.testing.assert_array_equal(decode(data, 'x'), COLORS)
  turned = decode(data, 'x', upright=True)
  np.testing.assert_array_equal(turned, np.rot90(COLORS, -1))


NOISE = np.random.RandomState(0).randint(0, 256, (40, 40, 3), np.uint8)
BROKEN = {
  'empty': b'',
  'text': b'not an image at all',
  'a JPEG cut short': encode(NOISE, 'JPEG')[:700],
  'a PNG cut short': encode(NOISE)[:700],
  'a PNG with a flipped bit': (
    encode(NOISE)[:600] + bytes([encode(NOISE)[600] ^ 1]) + encode(NOISE)[601:]
  ),
  '32 bits': encode(np.ones((2, 2), np.float32), 'TIFF'),
}


@pytest.mark.parametrize('data', BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_in_one_line(data):
  with pytest.raises(UserError, match=r'^cat\.png cannot be read') as error:
    decode(data, 'cat.png')
  assert '\n' not in str(error.value) and 'BytesIO' not in str(error.value)
