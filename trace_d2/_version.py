"""The version, without the package around it: set-up and files that state it read it from here."""

__version__ = "0.1.0"
