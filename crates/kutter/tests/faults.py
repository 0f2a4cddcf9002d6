"""What the tests of faults need besides a shell: archives that lie, requests to the API, DNS questions, pages."""

import hashlib
import http.client
import io
import json
import os
import socket
import struct
import sys
import tarfile
import time

PATIENCE = 60


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def saved(layer, digest, name):
    """What `docker save` writes."""
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest]}}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    encode = lambda value: json.dumps(value).encode()
    return [("config.json", encode(config)), ("layer.tar", layer), ("manifest.json", encode(manifest))]


def images(place):
    digest = lambda data: "sha256:" + hashlib.sha256(data).hexdigest()
    good, out = tar([("etc/motd", b"hello")]), tar([("../../../escaped", b"x")])
    write = lambda name, data: open(os.path.join(place, name), "wb").write(data)
    write("lying.tar", tar(saved(good, digest(b"something else"), "localhost/lying:1")))
    write("escaping.tar", tar(saved(out, digest(out), "localhost/escaping:1")))
    write("garbage.tar", b"\0\1\2\3" * 4096)
    config, _, manifest = saved(good, digest(good), "localhost/partial:1")
    write("partial.tar", tar([config, manifest]))


CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


def api(method, path, body=None):
    """Asks the API server; there must be a cluster by now."""
    import api as kubernetes

    return kubernetes.api(method, path, body)


def make(name, size=10):
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x" * size}}
    assert api("POST", CONFIGMAPS, body), name


def full():
    """Writes until the disk is full: then every write is refused and says why."""
    try:
        for number in range(200):
            make(f"filler-{number}", 500_000)
    except AssertionError as refused:
        assert "no space" in str(refused), refused
        return
    raise SystemExit("the disk never fills")


def again(name):
    """Writes as soon as it is possible again."""
    end = time.time() + PATIENCE
    while True:
        try:
            return make(name)
        except AssertionError:
            if time.time() > end:
                raise
        time.sleep(0.2)


def there(name):
    assert api("GET", f"{CONFIGMAPS}/{name}"), name


def service(namespace, name):
    print(api("GET", f"/api/v1/namespaces/{namespace}/services/{name}")["spec"]["clusterIP"])


def page():
    """The shop's page and its back end, through the ingress."""
    for path in ("/", "/api/products"):
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=PATIENCE)
        connection.request("GET", path, headers={"host": "shop.localhost"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200 and text, (path, answer.status, text)


def resolve(server, name, wanted):
    """Asks a DNS server for an address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE)
        asker.sendto(question, (server, 53))
        answer = asker.recv(4096)
    assert socket.inet_aton(wanted) in answer[len(question):], answer


def connect(address):
    socket.create_connection((address, 8080), timeout=PATIENCE).close()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
