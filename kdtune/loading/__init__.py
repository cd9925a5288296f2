"""From a dataset's files to the batches of a trial: packed once per node, cropped on the device."""
