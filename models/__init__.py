"""Sample models, and the scripts that made them."""

import os

# One BLAS thread: more would add partial sums in another order and so change the last bits of a trained model.
# It stands here because it must happen before numpy is loaded.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
