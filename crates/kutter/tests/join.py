"""The steps of the join test: join.py STEP [ARGUMENT]. Talks to the API."""

import sys
import urllib.request

from api import SERVER, TLS, api, wait

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"


def node(name):
    """The Node, once it is ready and has a range of addresses."""

    def ready():
        found = api("GET", f"/api/v1/nodes/{name}") or {}
        conditions = found.get("status", {}).get("conditions", [])
        fine = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return found if fine and found["spec"].get("podCIDR") else None

    return wait(f"node {name} ready", ready)


def joined(name, address):
    found = node(name)
    addresses = [a["address"] for a in found["status"]["addresses"] if a["type"] == "InternalIP"]
    assert addresses == [address], addresses
    assert found["spec"]["podCIDR"] == "10.42.255.0/24", found["spec"]
    assert found["metadata"]["labels"]["zone"] == "far", found["metadata"]["labels"]


def pod(name, on):
    """A back end of the shop on this node, behind a load balancer of its own."""
    container = {"name": "c", "image": "localhost/shop:1", "args": ["backend"], "imagePullPolicy": "Never"}
    body = {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": on, "containers": [container], "tolerations": [{"operator": "Exists"}]},
    }
    api("POST", PODS, body)
    port = {"port": 80, "targetPort": 8080}
    service = {"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [port]}}
    api("POST", SERVICES, service)

    def running():
        found = api("GET", f"{PODS}/{name}")
        conditions = found["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    wait(f"pod {name} ready", running)


def address(name, kind):
    """Prints an address of the pod or its Service."""

    def found():
        if kind == "pod":
            return api("GET", f"{PODS}/{name}")["status"].get("podIP")
        service = api("GET", f"{SERVICES}/{name}")
        if kind == "cluster":
            return service["spec"]["clusterIP"]
        ingress = service["status"].get("loadBalancer", {}).get("ingress")
        return ingress and ingress[0]["ip"]

    print(wait(f"{kind} address of {name}", found))


def proxy(name):
    """The API server reaches the pod, and its kubelet."""
    path = f"{PODS}/{name}:8080/proxy/healthz"
    wait(f"{name} through the API", lambda: fetch(path))
    wait(f"log of {name}", lambda: fetch(f"{PODS}/{name}/log?limitBytes=100") is not None)


def fetch(path):
    try:
        with urllib.request.urlopen(SERVER + path, context=TLS, timeout=10) as answer:
            return answer.read().decode() or "empty"
    except urllib.error.HTTPError as error:
        print(path, error.code, error.read().decode(), file=sys.stderr)
        return None


def csr():
    """Every request was approved and signed, none is left open: those of both nodes for what they serve among them."""

    def signed():
        items = api("GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests")["items"]
        serving = {i["spec"]["username"] for i in items if i["spec"]["signerName"].endswith("kubelet-serving")}
        nodes = {"system:node:two.machine", "system:node:default-pool-0"}
        return serving == nodes and all(i["status"].get("certificate") for i in items)

    wait("every request signed", signed)


globals()[sys.argv[1]](*sys.argv[2:])
