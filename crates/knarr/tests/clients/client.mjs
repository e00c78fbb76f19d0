// What a program with the JavaScript client does, in the kubeconfig's namespace, which holds a pod `web` that serves a page.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
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

// A wire between the client and the server, which can be cut: nobody gets through until it is mended.
class Wire {
  static async to(config) {
    const wire = new Wire();
    wire.far = new URL(config.getCurrentCluster().server);
    wire.sockets = new Set();
    wire.server = net.createServer((near) => {
      const far = net.connect(wire.far.port, wire.far.hostname);
      for (const [one, other] of [[near, far], [far, near]]) {
        wire.sockets.add(one);
        one.on("error", () => {});
        one.on("close", () => { wire.sockets.delete(one); other.destroy(); });
        one.pipe(other);
      }
    });
    await wire.mend();
    wire.port = wire.server.address().port;
    return wire;
  }
  mend() { return new Promise((resolve) => this.server.listen(this.port ?? 0, "127.0.0.1", resolve)); }
  async cut() {
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}
const wire = await Wire.to(config);
const overWire = new k8s.KubeConfig();
overWire.loadFromDefault();
overWire.clusters = overWire.clusters.map((cluster) => ({ ...cluster, server: `https://127.0.0.1:${wire.port}`, tlsServerName: cluster.tlsServerName ?? "localhost" }));

// An informer whose connection is cut tells so; started again, as programs do, it goes on where it was, and misses nothing.
const overWireCore = overWire.makeApiClient(k8s.CoreV1Api);
const wired = new Seen();
const goesOn = k8s.makeInformer(overWire, `/api/v1/namespaces/${namespace}/configmaps`, () => overWireCore.listNamespacedConfigMap({ namespace, labelSelector: "wire" }), "wire");
for (const verb of ["add", "update", "delete"]) goesOn.on(verb, (map) => wired.add({ verb, name: map.metadata.name, data: map.data }));
goesOn.on("error", (error) => wired.add({ verb: "error", error: String(error) }));
const onWire = (name, data) => core.createNamespacedConfigMap({ namespace, body: { metadata: { name, labels: { wire: "" } }, data } });
await onWire("stays", {});
await onWire("goes", {});
await goesOn.start();
await wired.until((event) => event.verb === "add" && event.name === "goes");
let lists = 0;
const list = goesOn.listFn;
goesOn.listFn = () => { lists += 1; return list(); };
await wire.cut();
await wired.until((event) => event.verb === "error");
await core.deleteNamespacedConfigMap({ name: "goes", namespace });
await onWire("comes", {});
await wire.mend();
await goesOn.start();
assert.equal((await wired.until((event) => event.verb === "delete")).name, "goes");
assert.equal((await wired.until((event) => event.verb === "add")).name, "comes");
assert.equal(lists, 0, "it goes on by its version, without a list");

// So much happens meanwhile that its version is not kept any more: it is told 410, and lists. The text is one that packing does not shorten.
const noise = randomBytes(675_000).toString("base64");
await wire.cut();
await wired.until((event) => event.verb === "error");
await core.deleteNamespacedConfigMap({ name: "comes", namespace });
for (let count = 0; count < 20; count += 1) {
  const data = { key: `${count}${noise}` };
  await core.patchNamespacedConfigMap({ name: "stays", namespace, body: { data } }, k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.MergePatch));
}
await wire.mend();
await goesOn.start();
assert.equal((await wired.until((event) => event.verb === "delete")).name, "comes");
assert.ok((await wired.until((event) => event.verb === "update" && event.name === "stays")).data.key === `19${noise}`);
assert.equal(lists, 1);
await goesOn.stop();

// This library has no election of leaders: here is one on its Lease, by the rules of the client for Go. Who leads is whoever's write counts;
// others wait until they have seen the same record for as long as the lease lasts, by their own clocks.
class Elector {
  constructor(api, identity) { Object.assign(this, { api, identity, seen: undefined, seenAt: 0 }); }
  // Takes or renews the lease, where that is possible now.
  async attempt() {
    const seconds = 3;
    const now = new k8s.V1MicroTime();
    const held = { holderIdentity: this.identity, leaseDurationSeconds: seconds, renewTime: now };
    let lease;
    try {
      lease = await this.api.readNamespacedLease({ name: "leader", namespace });
    } catch (error) {
      if (error.code !== 404) throw error;
      const body = { metadata: { name: "leader" }, spec: { ...held, acquireTime: now, leaseTransitions: 0 } };
      return this.written(this.api.createNamespacedLease({ namespace, body }));
    }
    if (lease.metadata.resourceVersion !== this.seen) {
      this.seen = lease.metadata.resourceVersion;
      this.seenAt = performance.now();
    }
    const isOther = lease.spec.holderIdentity && lease.spec.holderIdentity !== this.identity;
    if (isOther && performance.now() - this.seenAt < lease.spec.leaseDurationSeconds * 1000) return false;
    const changes = lease.spec.holderIdentity === this.identity ? 0 : 1;
    const spec = { ...lease.spec, ...held, acquireTime: changes ? now : lease.spec.acquireTime, leaseTransitions: (lease.spec.leaseTransitions ?? 0) + changes };
    return this.written(this.api.replaceNamespacedLease({ name: "leader", namespace, body: { ...lease, spec } }));
  }
  async written(write) {
    try {
      await write;
      return true;
    } catch (error) {
      if (error.code === 409) return false;
      throw error;
    }
  }
  // Waits to lead, and renews until it is killed or cannot.
  async run(leads) {
    let led = false;
    while (!this.killed) {
      const leading = await this.attempt().catch(() => false);
      if (leading && !led) leads(this.identity);
      if (led && !leading) return;
      led = leading;
      await new Promise((resolve) => { setTimeout(resolve, 500); });
    }
  }
}
const leases = config.makeApiClient(k8s.CoordinationV1Api);
const leaders = new Seen();
const candidates = ["one", "other"].map((identity) => new Elector(leases, identity));
for (const candidate of candidates) candidate.run((identity) => leaders.add(identity));
const first = await leaders.until(() => true);
const killed = candidates.find((candidate) => candidate.identity === first);
killed.killed = true;
const diedAt = performance.now();
const next = await leaders.until(() => true);
assert.notEqual(next, first);
assert.ok(performance.now() - diedAt > 1500, "the dead leader's lease runs out first");
const ended = (await leases.readNamespacedLease({ name: "leader", namespace })).spec;
assert.deepEqual([ended.holderIdentity, ended.leaseTransitions], [next, 1]);
for (const candidate of candidates) candidate.killed = true;

clearTimeout(deadline);
console.log("all is well");
process.exit(0);
