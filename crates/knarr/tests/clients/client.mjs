// What a program with the JavaScript client does, in the kubeconfig's namespace, which holds a pod `web` that serves a page.

import assert from "node:assert/strict";
import net from "node:net";
import { PassThrough } from "node:stream";
import * as k8s from "@kubernetes/client-node";

const config = new k8s.KubeConfig();
config.loadFromDefault();
const namespace = config.getContextObject(config.getCurrentContext()).namespace;
const core = config.makeApiClient(k8s.CoreV1Api);
const deadline = setTimeout(() => { console.error("not done within two minutes"); process.exit(1); }, 120_000);

const pods = await core.listNamespacedPod({ namespace });
assert.deepEqual(pods.items.map((pod) => pod.metadata.name), ["web"]);
await assert.rejects(core.readNamespacedPod({ name: "none", namespace }), (error) => error.code === 404 && error.body.includes('pods \\"none\\" not found'));

// Promises for what comes by and by.
class Seen {
  #events = [];
  #wake = () => {};
  add(event) { this.#events.push(event); this.#wake(); }
  async until(wanted) {
    for (;;) {
      const found = this.#events.findIndex(wanted);
      if (found >= 0) return this.#events.splice(0, found + 1)[found];
      await new Promise((resolve) => { this.#wake = resolve; });
    }
  }
}

// An informer sees what is there, and each change.
const seen = new Seen();
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () => core.listNamespacedConfigMap({ namespace, labelSelector: "by=test" }), "by=test");
for (const verb of ["add", "update", "delete"]) informer.on(verb, (map) => seen.add({ verb, name: map.metadata.name, data: map.data }));
informer.on("error", (error) => seen.add({ verb: "error", error: String(error) }));
const labels = { by: "test" };
await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "before", labels }, data: { a: "1" } } });
await informer.start();
await seen.until((event) => event.verb === "add" && event.name === "before");
await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "map", labels }, data: { a: "1" } } });
await seen.until((event) => event.verb === "add" && event.name === "map");
await core.patchNamespacedConfigMap({ name: "map", namespace, body: { data: { a: "2" } } }, k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.MergePatch));
await seen.until((event) => event.verb === "update" && event.data.a === "2");
await core.patchNamespacedConfigMap({ name: "map", namespace, body: [{ op: "replace", path: "/metadata/labels/by", value: "nobody" }] }, k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.JsonPatch));
await seen.until((event) => event.verb === "delete" && event.name === "map");
assert.equal(informer.list().length, 1);
await informer.stop();

// A watch from a version sees each change once, in order.
const version = (await core.listNamespacedSecret({ namespace })).metadata.resourceVersion;
await core.createNamespacedSecret({ namespace, body: { metadata: { name: "hidden" }, stringData: { word: "swordfish" } } });
await core.deleteNamespacedSecret({ name: "hidden", namespace });
const watched = new Seen();
const request = await new k8s.Watch(config).watch(`/api/v1/namespaces/${namespace}/secrets`, { resourceVersion: version }, (type, secret) => watched.add([type, secret.data.word]), () => {});
assert.deepEqual(await watched.until(() => true), ["ADDED", "c3dvcmRmaXNo"]);
assert.deepEqual(await watched.until(() => true), ["DELETED", "c3dvcmRmaXNo"]);
request.abort();

// Commands: input, both outputs, the exit code.
const collect = () => { const stream = new PassThrough(); stream.text = ""; stream.on("data", (part) => { stream.text += part; }); return stream; };
const [out, error, input] = [collect(), collect(), new PassThrough()];
const status = await new Promise((resolve, reject) => {
  new k8s.Exec(config).exec(namespace, "web", "main", ["sh", "-c", "read line; echo got $line; echo error >&2; exit 3"], out, error, input, false, resolve).catch(reject);
  input.write("word\n");
});
assert.deepEqual([out.text, error.text], ["got word\n", "error\n"]);
assert.equal(status.details.causes.find((cause) => cause.reason === "ExitCode").message, "3");

// Files, logs and ports.
const log = collect();
await new k8s.Log(config).log(namespace, "web", "main", log, { follow: false });
await new Promise((resolve) => log.on("end", resolve));
assert.equal(log.text, "started\n");
const forward = new k8s.PortForward(config);
const server = net.createServer((socket) => { forward.portForward(namespace, "web", [8080], socket, null, socket); });
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const page = await new Promise((resolve, reject) => {
  let text = "";
  const socket = net.connect(server.address().port, "127.0.0.1", () => socket.write("GET / HTTP/1.0\r\n\r\n"));
  socket.on("data", (part) => { text += part; if (text.includes("hello")) { socket.destroy(); resolve(text); } });
  socket.on("error", reject);
});
assert.match(page, /hello\n$/);
server.close();

// Objects of any kind: applied by the server, read and deleted.
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const template = { metadata: { labels: { a: "b" } }, spec: { containers: [{ name: "main", image: "busybox:1" }] } };
const deployment = { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "applied", namespace }, spec: { replicas: 0, selector: { matchLabels: { a: "b" } }, template } };
await objects.patch(deployment, undefined, undefined, "test", true, k8s.PatchStrategy.ServerSideApply);
deployment.spec.paused = true;
const applied = await objects.patch(deployment, undefined, undefined, "test", true, k8s.PatchStrategy.ServerSideApply);
assert.equal(applied.spec.paused, true);
assert.equal(applied.metadata.managedFields.find((entry) => entry.manager === "test").operation, "Apply");
await objects.delete(deployment);
assert.ok((await k8s.topNodes(core)).some((node) => node.CPU.Capacity > 0));

clearTimeout(deadline);
console.log("all is well");
process.exit(0);
