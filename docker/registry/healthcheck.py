#!/usr/bin/env python3
"""Healthy: the registry asks for its login."""

import pathlib
import ssl
import sys
import urllib.error
import urllib.request

scheme = "https" if pathlib.Path("/tls/cert.pem").exists() else "http"
# It asks itself, under a name that no certificate holds.
context = ssl._create_unverified_context()  # noqa: S323
try:
    urllib.request.urlopen(f"{scheme}://127.0.0.1:5000/v2/", timeout=4, context=context)  # noqa: S310
except urllib.error.HTTPError as answer:
    sys.exit(answer.code != 401)
sys.exit(1)
