"""Training: the trainer, its hooks, loaders, evaluators and checks. Needs Detectron2."""

import warnings

# Detectron2 calls it as it is imported, which users can do nothing about; this is imported first.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
