"""What a program with the Python client does, in the kubeconfig's namespace, which holds a pod `web` that serves a page."""

import base64
import os
import queue
import socket
import threading
import urllib.parse

import urllib3
import yaml
from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
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

# What is sent as YAML is what was meant, also to readers of YAML 1.1, to whom many a word is no text.
words = {"a": "yes", "b": "2026-01-01", "c": "on", "d": "1e3", "e": "one\n\ntwo: 2\n", "f": "=", "g": "~", "h": "017", "i": "12:30:45", "j": "- x"}
core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="words"), data=words))
url = f"{core.api_client.configuration.host}/api/v1/namespaces/{NAMESPACE}/configmaps/words"
text = core.api_client.call_api("GET", url, header_params={"Accept": "application/yaml"}).read()
assert yaml.safe_load(text)["data"] == words, text
assert isinstance(yaml.safe_load(text)["metadata"]["creationTimestamp"], str)

try:
    core.read_namespaced_pod("none", NAMESPACE)
    raise AssertionError("there is no such pod")
except ApiException as error:
    assert (error.status, error.reason) == (404, "Not Found")



class Wire:
    """Between the client and the server, and can be cut: nobody gets through until it is mended."""

    def __init__(self, far):
        self.far, self.port, self.sockets = far, 0, []
        self.mend()

    def mend(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.far)
            self.sockets += [near, far]
            for one, other in [(near, far), (far, near)]:
                threading.Thread(target=self.pass_on, args=[one, other], daemon=True).start()

    @staticmethod
    def pass_on(one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        for end in one, other:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        # A thread that waits for a connection is woken by this, and not by closing alone.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for end in self.sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sockets.clear()


server = urllib.parse.urlparse(client.Configuration.get_default_copy().host)
wire = Wire((server.hostname, server.port))
over_wire = client.Configuration.get_default_copy()
over_wire.host = f"https://127.0.0.1:{wire.port}"
over_wire.retries = False
wired = client.CoreV1Api(client.ApiClient(over_wire))


def on_wire(name):
    core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"wire": ""})))


# A watch whose connection is cut goes on by its version, and misses nothing.
on_wire("stays")
on_wire("goes")
watcher = watch.Watch()
version = wired.list_namespaced_config_map(NAMESPACE, label_selector="wire").metadata.resource_version
events = watcher.stream(wired.list_namespaced_config_map, NAMESPACE, label_selector="wire", resource_version=version)
core.patch_namespaced_config_map("stays", NAMESPACE, {"data": {"a": "1"}})
assert next(events)["object"].data == {"a": "1"}
version = watcher.resource_version
wire.cut()
try:
    next(events)
    raise AssertionError("the connection is cut")
except (urllib3.exceptions.HTTPError, StopIteration):
    pass
core.delete_namespaced_config_map("goes", NAMESPACE)
on_wire("comes")
wire.mend()
seen = []
watcher = watch.Watch()
for event in watcher.stream(wired.list_namespaced_config_map, NAMESPACE, label_selector="wire", resource_version=version):
    seen.append((event["type"], event["object"].metadata.name))
    if len(seen) == 2:
        watcher.stop()
assert seen == [("DELETED", "goes"), ("ADDED", "comes")], seen

# So much happens meanwhile that its version is not kept any more: it is told 410. The text is one that packing does not shorten.
noise = base64.b64encode(os.urandom(675_000)).decode()
for count in range(20):
    core.patch_namespaced_config_map("stays", NAMESPACE, {"data": {"a": f"{count}{noise}"}})
try:
    for event in watch.Watch().stream(wired.list_namespaced_config_map, NAMESPACE, label_selector="wire", resource_version=version):
        raise AssertionError(f"that is gone: {event['type']}")
    raise AssertionError("the watch ended without a word")
except ApiException as error:
    assert error.status == 410, error
names = [map.metadata.name for map in wired.list_namespaced_config_map(NAMESPACE, label_selector="wire").items]
assert names == ["comes", "stays"], names

# Two candidates. The first one dies: its requests get nowhere, and it renews no more.
leaders = queue.Queue()


def candidate(identity, api):
    lock = LeaseLock("leader", NAMESPACE, identity)
    lock.api_instance = client.CoordinationV1Api(api)
    election = electionconfig.Config(
        lock, lease_duration=3, renew_deadline=2, retry_period=1,
        onstarted_leading=lambda: leaders.put(identity), onstopped_leading=lambda: None,
    )
    threading.Thread(target=leaderelection.LeaderElection(election).run, daemon=True).start()


candidate("one", wired.api_client)
assert leaders.get(timeout=30) == "one", "nobody else wants to lead yet"
candidate("other", core.api_client)
wire.cut()
assert leaders.get(timeout=30) == "other", "the dead leader's lease runs out"

print("all is well", flush=True)
# The election's thread goes on for as long as the program does, and may be in the middle of printing when Python takes itself apart.
os._exit(0)
