"""training.fit with networks that drop nothing: the same options, the same numbers, by any cluster.

What a dropout layer drops depends on the shape of what it is given, and workers have shares.
"""

import functools
import sys

import training.fit

training.fit.MODELS = {
    name: functools.partial(build, dropout=0.0) for name, build in training.fit.MODELS.items()
}

if __name__ == "__main__":
    sys.exit(training.fit.main())
