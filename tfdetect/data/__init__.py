"""From a dataset spec to a catalogue of files and tf.data pipelines."""
