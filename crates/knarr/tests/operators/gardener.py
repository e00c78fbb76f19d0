"""An operator written with kopf: a Garden becomes a ConfigMap. Its webhooks are served from its own pod, behind the Service `gardener`."""

import os

import kopf

NAMESPACE = os.environ["NAMESPACE"]
CERTIFICATES = "/certificates"


async def behind_the_service(admit):
    """kopf's own server of webhooks, which the API server reaches through a Service."""
    server = kopf.WebhookServer(
        addr="0.0.0.0", port=8443, host="gardener",
        certfile=f"{CERTIFICATES}/tls.crt", pkeyfile=f"{CERTIFICATES}/tls.key", cafile=f"{CERTIFICATES}/tls.crt",
    )
    async for configuration in server(admit):
        configuration.pop("url", None)
        configuration["service"] = {"name": "gardener", "namespace": NAMESPACE, "port": 443}
        yield configuration


@kopf.on.startup()
def configure(settings, **_):
    settings.admission.server = behind_the_service
    settings.admission.managed = "gardens.kopf.example"
    settings.watching.server_timeout = 60
    settings.peering.standalone = True


@kopf.on.mutate("gardens")
def choose_a_color(spec, patch, **_):
    if "color" not in spec:
        patch.spec["color"] = "green"


@kopf.on.validate("gardens")
def limit_the_size(spec, warnings, **_):
    if spec["size"] > 10:
        raise kopf.AdmissionError("a garden has at most 10 beds", code=422)
    if spec["size"] == 10:
        warnings.append("this garden is as large as can be")


@kopf.on.create("gardens")
@kopf.on.update("gardens")
async def lay_out(name, namespace, spec, body, patch, **_):
    beds = {f"bed-{number}": spec["color"] for number in range(spec["size"])}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": beds}
    kopf.adopt(made, owner=body)
    await apply(namespace, name, made)
    patch.status["beds"] = spec["size"]


@kopf.on.delete("gardens")
async def leave_a_note(name, namespace, **_):
    await apply(namespace, f"{name}-is-gone", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-is-gone"}})


async def apply(namespace, name, made):
    """Server-side apply with what kopf itself is connected by."""
    import aiohttp
    import json
    import ssl

    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    with open(f"{account}/token") as file:
        token = file.read()
    host = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    url = f"{host}/api/v1/namespaces/{namespace}/configmaps/{name}?fieldManager=gardener&force=true"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"}
    context = ssl.create_default_context(cafile=f"{account}/ca.crt")
    async with aiohttp.ClientSession() as session:
        async with session.patch(url, data=json.dumps(made), headers=headers, ssl=context) as answer:
            if answer.status >= 300:
                raise kopf.TemporaryError(await answer.text(), delay=1)
