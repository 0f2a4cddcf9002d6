"""The node pool steps: pools.py STEP [ARGUMENT]."""

import glob
import os
import sys
import urllib.request

from api import SERVER, TLS, api, wait

NODE = "/api/v1/nodes/"


def ready(name):
    node = api("GET", NODE + name)
    conditions = (node or {}).get("status", {}).get("conditions", [])
    return node if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) else None


def limits(name):
    """What the kernel holds the node to: microseconds of processor a period, bytes of memory."""

    def read(*patterns):
        found = [f for p in patterns for f in glob.glob(p)]
        assert len(found) == 1, (patterns, found)
        with open(found[0], encoding="utf-8") as file:
            return file.read().split()[0]

    root = "/sys/fs/cgroup"
    group = os.environ["GROUP"] + name
    cpu = read(f"{root}/cpu/{group}/cpu.cfs_quota_us", f"{root}/{group}/cpu.max")
    memory = read(f"{root}/memory/{group}/memory.limit_in_bytes", f"{root}/{group}/memory.max")
    return int(cpu), int(memory)


def size(name, cpus, memory_mib, pods):
    node = wait("a ready node", lambda: ready(name))
    capacity, allocatable = node["status"]["capacity"], node["status"]["allocatable"]
    assert capacity["cpu"] == allocatable["cpu"] == cpus, capacity
    assert capacity["memory"] == f"{memory_mib}Mi", capacity
    assert allocatable["memory"] == f"{int(memory_mib) - 100}Mi", allocatable
    assert capacity["pods"] == allocatable["pods"] == pods, capacity
    assert limits(name) == (int(cpus) * 100_000, int(memory_mib) << 20), limits(name)


def marked(name):
    node = wait("a ready node", lambda: ready(name))
    labels = node["metadata"]["labels"]
    assert labels["disk"] == "ssd" and labels["kutter.dev/nodepool"] == "tiny", labels
    taints = [t for t in node["spec"]["taints"] if t["key"] == "dedicated"]
    assert taints == [{"key": "dedicated", "value": "tiny", "effect": "NoSchedule"}], taints


def remarked(name):
    """Another value, a new taint; the label and nothing else is gone."""

    def changed():
        node = ready(name)
        taints = sorted(f"{t['key']}={t.get('value', '')}:{t['effect']}" for t in (node or {"spec": {}})["spec"].get("taints", []))
        return node and taints == ["dedicated=small:NoSchedule", "extra=:NoExecute"] and "disk" not in node["metadata"]["labels"]

    wait("changed labels and taints", changed)
    assert ready(name)["metadata"]["labels"]["kutter.dev/nodepool"] == "tiny"


def counted(name):
    """The node's metrics have what its network counts."""
    with urllib.request.urlopen(f"{SERVER}{NODE}{name}/proxy/metrics", context=TLS, timeout=10) as answer:
        text = answer.read().decode()
    for line in ['kutter_dns_answers_total{source="cluster"} ', "kubeproxy_sync_proxy_rules_nftables_sync_failures_total 0"]:
        assert "\n" + line in text, text


def grown(name, pods):
    wait("more pods on the node", lambda: ready(name) and ready(name)["status"]["capacity"]["pods"] == pods)


globals()[sys.argv[1]](*sys.argv[2:])
