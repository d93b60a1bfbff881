"""What only this repository has: its base image, its stores, its tests and its measurements."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""This repository."""
