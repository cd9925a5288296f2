"""From a dataset's files to the batches of a trial: packed once per node, cropped on the device.

Knows datasets and recipes; nothing of networks or losses. Begin with ``batches.train_batches``, a pure function of
seed and step; ``pack`` decodes each image once, ``content`` says whether two nodes hold the same data.
"""
