"""What uvicorn runs: ``uvicorn auth.main:app``."""

from auth.app import create_app
from auth.settings import AuthSettings
from common.settings import load

app = create_app(load(AuthSettings))
