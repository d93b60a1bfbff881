#!/usr/bin/env python3
"""llama.cpp's server on weights from the folder /models: OpenAI's interface, for who has the key.

MODEL_API_KEY    required; sent as a bearer token
MODEL_FILE       which file of the folder (*.gguf); without, the only one
MODEL_NAME       what the model is called
LLAMA_SLOTS      answers side by side (2); each has room for CONTEXT_TOKENS and MAX_TOKENS
LLAMA_THREADS    threads that work on them; 0, or without: one for each processor
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

PORT = 8000
FOLDER = Path("/models")
STOP = {signal.SIGTERM, signal.SIGINT}


def refuse(sentence: str) -> None:
    """End, with a sentence for people."""
    sys.exit(f"Refusing to start.\n{sentence}")


def number(name: str, default: int) -> int:
    """What the variable ``name`` says."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        refuse(f"{name}: must be a number")
    return int(value)


def weights(folder: Path, name: str) -> Path:
    """The file called ``name``, or else the only one there is."""
    there = sorted(folder.glob("*.gguf"))
    if name:
        there = [one for one in there if one.name == name]
    if len(there) != 1:
        names = ", ".join(one.name for one in sorted(folder.glob("*.gguf"))) or "no *.gguf"
        refuse(f"MODEL_FILE: name a file of weights of the folder MODEL_FOLDER, where there is {names}")
    return there[0]


def main() -> None:
    """Serve until a signal says stop."""
    key = os.environ.get("MODEL_API_KEY", "")
    if not key or key.startswith("change-me"):
        refuse("MODEL_API_KEY: required: openssl rand -hex 32 makes one")
    path = weights(FOLDER, os.environ.get("MODEL_FILE", ""))
    slots = max(1, number("LLAMA_SLOTS", 2))

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {os.environ.get("MODEL_NAME") or path.stem}
    params.hostnames, params.port, params.api_keys = ["0.0.0.0"], PORT, [key]  # noqa: S104 - a container has this one only
    params.n_parallel = slots
    params.n_ctx = slots * (number("CONTEXT_TOKENS", 8192) + number("MAX_TOKENS", 4096))
    params.cpuparams.n_threads = number("LLAMA_THREADS", 0) or os.process_cpu_count() or 1
    params.ui, params.endpoint_slots, params.offline = False, False, True
    # Also in the threads that it begins: else one of them would be told to stop.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    server = xllamacpp.Server(params)
    print(f"{path.name} answers at {server.listening_address}", flush=True)
    signal.sigwait(STOP)


if __name__ == "__main__":
    main()
