"""The storage steps of the cluster test: storage.py STEP [ARGUMENT]. Talks to the API and to the demo's shop."""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

from api import api, wait

CLAIM = "/api/v1/namespaces/shop/persistentvolumeclaims/data-database-0"
POD = "/api/v1/namespaces/shop/pods/database-0"
SET = "/apis/apps/v1/namespaces/shop/statefulsets/database"
NOTE = os.path.join(os.environ["WORK"], "volume")


def shop(method):
    """What the shop says of its orders; None while it cannot."""
    port = urllib.parse.urlsplit(os.environ["SHOP"]).port or 80
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/orders",
        method=method,
        data=b"anchor" if method == "POST" else None,
        headers={"host": "shop.localhost"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode().strip()
    except (urllib.error.URLError, OSError):
        return None


def ready():
    pod = api("GET", POD)
    conditions = (pod or {}).get("status", {}).get("conditions", [])
    good = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return pod if good else None


def noted():
    with open(NOTE, encoding="utf-8") as file:
        return json.load(file)


def bound(_):
    pod, claim = wait("the database is ready", ready), api("GET", CLAIM)
    assert claim["status"]["phase"] == "Bound", claim
    volume = api("GET", "/api/v1/persistentvolumes/" + claim["spec"]["volumeName"])
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["values"] == [pod["spec"]["nodeName"]], volume
    path = volume["spec"]["local"]["path"]
    assert os.path.isdir(path), path
    proxy = f"/api/v1/nodes/{pod['spec']['nodeName']}/proxy"
    summary = api("GET", proxy + "/stats/summary")
    mine = [p for p in summary["pods"] if p["podRef"]["name"] == "database-0"]
    claims = [v["pvcRef"]["name"] for v in mine[0]["volume"] if "pvcRef" in v]
    assert claims == ["data-database-0"], mine
    container = mine[0]["containers"][0]
    for part in (container["rootfs"], container["logs"], mine[0]["ephemeral-storage"]):
        assert 0 < part["usedBytes"] <= part["capacityBytes"] and part["inodesUsed"] > 0, mine
    assert all(c["usageNanoCores"] >= 0 for c in (container["cpu"], mine[0]["cpu"], summary["node"]["cpu"])), summary
    assert summary["node"]["swap"]["swapUsageBytes"] >= 0, summary["node"]
    with open(NOTE, "w", encoding="utf-8") as file:
        json.dump({"name": volume["metadata"]["name"], "path": path, "node": pod["spec"]["nodeName"]}, file)


def order(times):
    for i in range(int(times)):
        wait(f"order {i}", lambda: shop("POST"))


def count(want):
    wait(f"{want} orders", lambda: shop("GET") == want)


def replace(_):
    old = api("GET", POD)["metadata"]["uid"]
    api("DELETE", POD)
    wait("another database is ready", lambda: (ready() or {"metadata": {"uid": old}})["metadata"]["uid"] != old)


def grow(_):
    size = {"spec": {"resources": {"requests": {"storage": "128Mi"}}}}
    api("PATCH", CLAIM, size, "application/merge-patch+json")
    wait("the claim has grown", lambda: api("GET", CLAIM)["status"]["capacity"]["storage"] == "128Mi")
    volume = api("GET", "/api/v1/persistentvolumes/" + noted()["name"])
    assert volume["spec"]["capacity"]["storage"] == "128Mi", volume


def release(_):
    """A claim in use stays until its pod is gone."""
    api("DELETE", CLAIM)
    assert api("GET", CLAIM)["metadata"]["deletionTimestamp"]
    assert os.path.isdir(noted()["path"])


def drop(_):
    api("DELETE", SET)
    api("DELETE", POD + "?gracePeriodSeconds=0")
    wait("the claim is gone", lambda: api("GET", CLAIM) is None)
    wait("the volume is released", lambda: api("GET", "/api/v1/persistentvolumes/" + noted()["name"])["status"]["phase"] != "Bound")
    assert os.path.isdir(noted()["path"])


def gone(_):
    wait("the volume is gone", lambda: api("GET", "/api/v1/persistentvolumes/" + noted()["name"]) is None)
    assert not os.path.exists(noted()["path"])


def node(_):
    print(noted()["node"])


def nodes(want):
    """Nodes that are scaled away are taken out of the API."""
    wait(f"{want} nodes", lambda: len(api("GET", "/api/v1/nodes")["items"]) == int(want))


STEPS = {f.__name__: f for f in [bound, order, count, replace, grow, release, drop, gone, node, nodes]}
STEPS[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else None)
