"""What uvicorn runs: ``uvicorn orchestrator.main:app``."""

from common.settings import load
from orchestrator.app import create_app
from orchestrator.settings import OrchestratorSettings

app = create_app(load(OrchestratorSettings))
