"""What a program with the Python client does, in the kubeconfig's namespace, which holds a pod `web` that serves a page."""

import os
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import portforward, stream

config.load_kube_config()
NAMESPACE = config.list_kube_config_contexts()[1]["context"]["namespace"]
core = client.CoreV1Api()
assert [pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE).items] == ["web"]

# A watch from the list's version sees each change once, in order.
version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="map"), data={"a": "1"}))
core.patch_namespaced_config_map("map", NAMESPACE, {"data": {"a": "2", "b": "3"}})
core.patch_namespaced_config_map("map", NAMESPACE, [{"op": "remove", "path": "/data/b"}])
core.delete_namespaced_config_map("map", NAMESPACE)
seen = []
watcher = watch.Watch()
for event in watcher.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=30):
    seen.append((event["type"], event["object"].data))
    if event["type"] == "DELETED":
        watcher.stop()
assert seen == [("ADDED", {"a": "1"}), ("MODIFIED", {"a": "2", "b": "3"}), ("MODIFIED", {"a": "2"}), ("DELETED", {"a": "2"})], seen

command = ["sh", "-c", "read line; echo got $line; echo error >&2; exit 3"]
session = stream(
    core.connect_get_namespaced_pod_exec, "web", NAMESPACE, command=command,
    stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False,
)
session.write_stdin("word\n")
session.run_forever(timeout=30)
assert (session.read_stdout(), session.read_stderr(), session.returncode) == ("got word\n", "error\n", 3)

forward = portforward(core.connect_get_namespaced_pod_portforward, "web", NAMESPACE, ports="8080")
connection = forward.socket(8080)
connection.setblocking(True)
connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
page = b""
while part := connection.recv(4096):
    page += part
assert page.endswith(b"hello\n"), page
assert core.read_namespaced_pod_log("web", NAMESPACE) == "started\n"

deployments = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="apps/v1", kind="Deployment")


def applied(replicas):
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "busybox:1"}]}}
    body = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "applied"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    return deployments.server_side_apply(body=body, namespace=NAMESPACE, name="applied", field_manager="test")


applied(0)
assert applied(1).spec.replicas == 1, "a manager may change what it created"
client.AppsV1Api().delete_namespaced_deployment("applied", NAMESPACE, propagation_policy="Foreground")

try:
    core.read_namespaced_pod("none", NAMESPACE)
    raise AssertionError("there is no such pod")
except ApiException as error:
    assert (error.status, error.reason) == (404, "Not Found")

leading = threading.Event()
election = electionconfig.Config(
    ConfigMapLock("leader", NAMESPACE, "me"), lease_duration=3, renew_deadline=2, retry_period=1,
    onstarted_leading=leading.set, onstopped_leading=lambda: None,
)
threading.Thread(target=leaderelection.LeaderElection(election).run, daemon=True).start()
assert leading.wait(30), "nobody else wants to lead"

print("all is well", flush=True)
# The election's thread goes on for as long as the program does, and may be in the middle of printing when Python takes itself apart.
os._exit(0)
