"""Training: the trainer, its hooks, loaders, evaluators and checks. Needs Detectron2."""
