"""Tiny data sets as TensorFlow Datasets would have prepared them."""

from array_record.python import array_record_module
from tensorflow_datasets.core import naming, splits
from tensorflow_datasets.proto import tf_example_pb2

from diffusion_distillation.data import tfds


def write_records(name, data_dir, files):
  """Writes a prepared data set: the real files, without TensorFlow.

  Args:
    name: one of tfds.SOURCES.
    data_dir: folder of TensorFlow Datasets.
    files: split -> list of (bytes of an image file, label).
  """
  builder = tfds.open_builder(name, str(data_dir))
  builder.data_path.mkdir(parents=True)
  builder.info.set_file_format('array_record', override=True)
  template = naming.ShardedFileTemplate(
    data_dir=builder.data_path,
    dataset_name=builder.name,
    filetype_suffix='array_record',
  )
  infos = []
  for split, examples in files.items():
    infos.append(
      splits.SplitInfo(
        name=split,
        shard_lengths=[len(examples)],
        num_bytes=sum(len(file) for file, _ in examples),
        filename_template=template.replace(split=split),
      )
    )
    _write_shard(str(infos[-1].filepaths[0]), builder, examples)
  builder.info.set_splits(splits.SplitDict(infos))
  builder.info.write_to_directory(builder.data_path)


def _write_shard(path, builder, examples):
  writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')
  for index, (file, label) in enumerate(examples):
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature['image'].bytes_list.value.append(file)
    for key in builder.info.features:
      if key == 'label':
        feature[key].int64_list.value.append(label)
      elif key != 'image':  # an identifier
        feature[key].bytes_list.value.append(b'%d' % index)
    writer.write(example.SerializeToString())
  writer.close()
