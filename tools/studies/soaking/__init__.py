"""What ``tools/studies/soak.py`` puts jobs through."""
