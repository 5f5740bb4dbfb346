"""The engine of resumable jobs; what jobs make is in ``kinds``."""
