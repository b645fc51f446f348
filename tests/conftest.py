"""Sets up four CPU devices, strict arithmetic, and small networks."""

import gc
import os
import pathlib
import tempfile

# These settings must come before JAX starts. The steps are tested on four
# replicas. The programs of the tests run only a few times, and take longer to
# compile than to run: without optimization and with the older emitters,
# compilation takes a third of the time.
os.environ['JAX_NUM_CPU_DEVICES'] = '4'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_backend_optimization_level=0'
  + ' --xla_cpu_use_fusion_emitters=false'
  + ' --xla_cpu_parallel_codegen_split_count=1'
)

import jax
import numpy as np
import pytest

from diffusion_distillation.commands import config_file
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.report import plots
from diffusion_distillation.runtime import allocator

TOY = pathlib.Path(__file__).with_name('toy_distill.py')

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Most of the suite's time is compilation, often of the same small programs.
_cache = tempfile.TemporaryDirectory()
jax.config.update('jax_compilation_cache_dir', _cache.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.02)
# Without the places of operations in the source, tracing takes less time.
jax.config.update('jax_traceback_in_locations_limit', 0)


def pytest_collection_modifyitems(items):
  """Puts files with slow tests first, so that no process ends with them."""
  slow = {item.path for item in items if item.get_closest_marker('slow')}
  items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
  """Makes garbage collection rarer, since tracing makes millions of objects."""
  gc.freeze()
  gc.set_threshold(100_000)


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
  """Frees compiled programs after a test file; the disk cache keeps them."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(autouse=True, scope='session')
def _return_freed_memory():
  """Keeps main.py from telling malloc to hold on to freed memory."""
  keep = allocator.keep_freed_memory
  allocator.keep_freed_memory = lambda: None
  yield
  allocator.keep_freed_memory = keep


def pytest_unconfigure():
  """Removes the compilation cache."""
  _cache.cleanup()


def tiny_config():
  """Returns the config of tests/toy_distill.py: it compiles in a second."""
  return config_file.load(str(TOY)).lock()


@pytest.fixture(autouse=True)
def strict_types(request):
  """Forbids implicit type promotion in our mathematics; optax needs it."""
  # The path is relative: a checkout may be in a folder with such a name.
  path = request.path.relative_to(request.config.rootpath)
  ours = {'core', 'samplers', 'networks'} & set(path.parts)
  with jax.numpy_dtype_promotion('strict' if ours else 'standard'):
    yield


@pytest.fixture(autouse=True)
def _no_figures(request, monkeypatch):
  """Leaves the figures out of reports, of whose time they take two thirds.

  Tests in the folder `report` and those with the marker draw them, and so do
  fixtures of a larger scope, such as the run of tests/test_main.py.
  """
  marked = request.node.get_closest_marker('figures')
  if not marked and request.path.parent.name != 'report':
    monkeypatch.setattr(plots, 'to_svg', lambda figure, alt: '<svg></svg>')
    monkeypatch.setattr(plots, 'to_png', lambda figure: b'')


@pytest.fixture
def config():
  return tiny_config()


@pytest.fixture(scope='session')
def denoiser():
  """The Denoiser of `tiny_config`."""
  return build_denoiser(tiny_config().model, (8, 8, 1), 10)


@pytest.fixture(scope='session')
def params(denoiser):
  """Parameters with no zero layer, made without compiling anything."""
  rng = np.random.RandomState(0)

  def leaf(path, shape):
    scale = str(path[-1]).count('scale')
    return (scale + 0.2 * rng.standard_normal(shape.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(leaf, denoiser.param_shapes())
