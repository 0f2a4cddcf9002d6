"""The steps of the turns test: turns.py STEP."""

import sys

from api import api, wait

NOTE = "/api/v1/namespaces/default/configmaps"


def untouched():
    """No container was started again by what happened to the processes around it."""

    def calm():
        pods = api("GET", "/api/v1/namespaces/shop/pods")["items"]
        started = [p for p in pods if p["status"]["phase"] == "Running"]
        return started and all(c["restartCount"] == 0 for p in started for c in p["status"]["containerStatuses"])

    wait("pods without restarts", calm)


def note():
    api("POST", NOTE, {"metadata": {"name": "note"}, "data": {"said": "before the fall"}})


def noted():
    assert api("GET", f"{NOTE}/note")["data"]["said"] == "before the fall"


globals()[sys.argv[1]]()
