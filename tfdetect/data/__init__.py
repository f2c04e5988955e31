"""From a dataset spec to a catalog of files and tf.data pipelines."""
