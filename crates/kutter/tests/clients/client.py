"""The Python client: typed and dynamic objects, watch, patches and server-side apply."""

import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException

config.load_kube_config()
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()


def refused(code, reason, call, *arguments, **options):
    """The call must fail with this code and reason."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == code and f'"reason":"{reason}"' in error.body.replace('": ', '":'), error
        return
    raise AssertionError(f"{call} was not refused")


assert client.VersionApi().get_code().minor == "36"

# Typed objects.
body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data={"k": "1"})
made = core.create_namespaced_config_map("default", body)
assert made.metadata.uid and made.data == {"k": "1"}
refused(409, "AlreadyExists", core.create_namespaced_config_map, "default", body)
patched = core.patch_namespaced_config_map("a", "default", {"data": {"k": "2", "l": "3"}})
assert patched.data == {"k": "2", "l": "3"}
refused(409, "Conflict", core.replace_namespaced_config_map, "a", "default", made)
patched.data["k"] = "4"
assert core.replace_namespaced_config_map("a", "default", patched).data["k"] == "4"
names = [m.metadata.name for m in core.list_namespaced_config_map("default", label_selector="x in (y, z)").items]
assert names == ["a"], names
refused(404, "NotFound", core.read_namespaced_config_map, "b", "default")
refused(422, "Invalid", core.create_namespaced_config_map, "default",
        client.V1ConfigMap(metadata=client.V1ObjectMeta(name="Not A Name")))

# A strategic merge keeps the other container; a workload's controller answers.
containers = [client.V1Container(name="one", image="i"), client.V1Container(name="two", image="i")]
template = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=client.V1PodSpec(containers=containers))
spec = client.V1DeploymentSpec(selector={"matchLabels": {"app": "web"}}, template=template, replicas=2)
apps.create_namespaced_deployment(
    "default", client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
change = {"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "j"}]}}}}
images = {c.name: c.image for c in apps.patch_namespaced_deployment(
    "web", "default", change).spec.template.spec.containers}
assert images == {"one": "i", "two": "j"}, images
until = time.monotonic() + 30
while len(core.list_namespaced_pod("default", label_selector="app=web").items) < 2:
    assert time.monotonic() < until, "the deployment has no two pods"
    time.sleep(0.05)
job = client.V1Job(metadata=client.V1ObjectMeta(generate_name="job-"), spec=client.V1JobSpec(
    template=client.V1PodTemplateSpec(spec=client.V1PodSpec(
        restart_policy="Never", containers=[client.V1Container(name="c", image="i")]))))
job = batch.create_namespaced_job("default", job)
assert job.metadata.name.startswith("job-") and job.spec.selector.match_labels, job

# Watch from a revision.
since = core.list_namespaced_secret("default").metadata.resource_version
secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"p": "q"})
assert core.create_namespaced_secret("default", secret).data == {"p": "cQ=="}
core.delete_namespaced_secret("s", "default")
events = watch.Watch().stream(
    core.list_namespaced_secret, "default", resource_version=since, timeout_seconds=20)
assert [next(events)["type"], next(events)["type"]] == ["ADDED", "DELETED"]

# Objects of kinds that are found out at run time, and server-side apply.
kinds = dynamic.DynamicClient(client.ApiClient())
definitions = kinds.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
schema = {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
definitions.create({
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "toys.example.com"},
    "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"},
             "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}})
until = time.monotonic() + 30
while True:
    try:
        kinds.resources.invalidate_cache()
        toys = kinds.resources.get(api_version="example.com/v1", kind="Toy")
        toys.get(namespace="default")
        break
    except (dynamic.exceptions.ResourceNotFoundError, dynamic.exceptions.NotFoundError):
        assert time.monotonic() < until, "the new kind is not served"
        time.sleep(0.05)
toy = {"apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": "t"}, "spec": {"colour": "red"}}
toys.create(toy, namespace="default")
toys.server_side_apply(toy | {"spec": {"size": 3}}, namespace="default", name="t", field_manager="python")
assert toys.get(name="t", namespace="default").spec.to_dict() == {"colour": "red", "size": 3}
toys.delete(name="t", namespace="default")
print("ok")
