"""Writes calibration.npy, the images on which the scales of `digits-int8` are chosen: 256 of the training set of `digits`.

    pip install -r models/requirements.txt
    python -m models.digits.calibration OUTPUT.npy      # from the root of the repository
"""

import sys

import numpy as np

from models.digits.train import load

if __name__ == "__main__":
    train, _, _, _ = load()
    np.save(sys.argv[1], train[:256])
