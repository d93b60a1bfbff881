"""What uvicorn runs: ``uvicorn memory.main:app``."""

from common.settings import load
from memory.app import create_app
from memory.settings import MemorySettings

app = create_app(load(MemorySettings))
