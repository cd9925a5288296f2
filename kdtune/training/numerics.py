"""The version of what a trial computes."""

# Raise it when equal configurations may come to other numbers than before: in data, networks, losses, the loop, mIoU.
# Trials of two versions are not comparable, and a launch refuses to mix them unless told to.
NUMERICS = 3
