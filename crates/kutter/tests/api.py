"""The Kubernetes API for test steps: who we are comes from the kubeconfig."""

import base64
import json
import os
import re
import ssl
import tempfile
import time
import urllib.error
import urllib.request

PATIENCE_S = 60


def context():
    """The administrator's TLS identity and the server's address, from the kubeconfig."""
    with open(os.environ["KUBECONFIG"], encoding="utf-8") as file:
        text = file.read()

    def field(name):
        # Long values are folded to a line of their own.
        return re.search(rf"{name}: (?:>-\s+)?[\"']?([^\"'\s]+)", text).group(1)

    def data(name):
        return base64.b64decode(field(name)).decode()

    tls = ssl.create_default_context(cadata=data("certificate-authority-data"))
    with tempfile.NamedTemporaryFile("w") as pair:
        pair.write(data("client-certificate-data") + "\n" + data("client-key-data"))
        pair.flush()
        tls.load_cert_chain(pair.name)
    return field("server"), tls


SERVER, TLS = context()


def api(method, path, body=None, kind="application/json"):
    """The answer's object; None when there is none of that name."""
    request = urllib.request.Request(
        SERVER + path, method=method, data=None if body is None else json.dumps(body).encode(), headers={"content-type": kind}
    )
    try:
        with urllib.request.urlopen(request, context=TLS, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error


def wait(what, holds):
    """Waits until the condition holds, and gives what it gave."""
    end = time.monotonic() + PATIENCE_S
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > end:
            for kind in ["pods", "persistentvolumeclaims", "persistentvolumes", "nodes", "events"]:
                print(json.dumps(api("GET", f"/api/v1/{kind}"), indent=1)[-4000:])
            raise AssertionError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.05)
