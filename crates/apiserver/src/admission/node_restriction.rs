//! NodeRestriction: a node writes its own Node, its own pods, its own lease and certificate, and nothing of anybody else's.
//! The node authorizer has let the request through by its kind; here the object itself is looked at.
//!
//! Source: Kubernetes `plugin/pkg/admission/noderestriction/admission.go`.

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::Value;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    authorization::node::{LEASES, Referenced, USER_PREFIX, node_of, refers_to_any},
    core::Core,
};

/// Mirrors of static pods say so.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Marks nodes that carry the control plane.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// The plug-in.
pub struct NodeRestriction;

type Checked = Result<(), String>;

fn no(why: impl Into<String>) -> Checked {
    Err(why.into())
}

/// Labels of Kubernetes' own domains that a node may put on itself.
fn may_label(label: &str) -> bool {
    let domain = label.split_once('/').map(|(domain, _)| domain).unwrap_or_default();
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    const OWN: [&str; 12] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "node.kubernetes.io/windows-build",
    ];
    OWN.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

fn labels(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
    object.labels().into_iter().flatten()
}

fn check_node(core: &Core, node: &str, attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Checked {
    if attributes.name != node {
        return no(format!("node {node:?} is not allowed to modify node {:?}", attributes.name));
    }
    let Some(new) = new else { return Ok(()) };
    let label = |object: Option<&Object>, name: &str| object.and_then(|object| object.labels()).and_then(|labels| labels.get(name)).cloned();
    // The node that runs in the server's own process says what it is.
    let may = |name: &str| may_label(name) || name == CONTROL_PLANE && core.facts.own_node.as_deref() == Some(node);
    let changed = labels(new).map(|(name, _)| name).chain(old.into_iter().flat_map(labels).map(|(name, _)| name));
    let mut forbidden: Vec<&str> = changed.filter(|name| label(Some(new), name) != label(old, name) && !may(name)).map(String::as_str).collect();
    forbidden.sort_unstable();
    forbidden.dedup();
    if !forbidden.is_empty() {
        let verb = if old.is_some() { "modify" } else { "set the following" };
        return no(format!("node {node:?} is not allowed to {verb} labels: {}", forbidden.join(", ")));
    }
    if let Some(old) = old {
        if new.get(&["spec", "taints"]) != old.get(&["spec", "taints"]) {
            return no(format!("node {node:?} is not allowed to modify taints"));
        }
        if new.get(&["metadata", "ownerReferences"]) != old.get(&["metadata", "ownerReferences"]) {
            return no(format!("node {node:?} is not allowed to update ownerReferences"));
        }
    }
    if new.get(&["spec", "configSource"]).is_some_and(|source| !source.is_null()) {
        return no(format!("node {node:?} is not allowed to set configSource"));
    }
    Ok(())
}

fn pod_is_on(core: &Core, namespace: &str, name: &str, node: &str) -> Result<(), String> {
    let Some(stored) = core.view_named("pods").get(&format!("{namespace}/{name}")) else { return Ok(()) };
    if stored.field("spec.nodeName") == Some(node) { Ok(()) } else { no(format!("node {node:?} can only act on pods with spec.nodeName set to itself")) }
}

/// The owner of a mirror: the node that makes it, and nobody else.
fn check_owner(core: &Core, node: &str, pod: &Object) -> Checked {
    let owners = pod.get(&["metadata", "ownerReferences"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let owner = match owners {
        [owner] => owner,
        [] => return no(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return no(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    let text = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_true = |name: &str| owner.get(name) == Some(&Value::Bool(true));
    if (text("apiVersion"), text("kind"), text("name")) != ("v1", "Node", node) {
        return no(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if !is_true("controller") {
        return no(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if is_true("blockOwnerDeletion") {
        return no(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let own = core.view_named("nodes").get(node).and_then(|stored| stored.object().ok());
    match own {
        None => no(format!("error looking up node {node} to verify uid: node {node:?} not found")),
        Some(own) if own.uid() != text("uid") => no(format!("node {node} UID mismatch: expected {} got {}", text("uid"), own.uid())),
        Some(_) => Ok(()),
    }
}

/// A node may read what its pods refer to, so the pods that it makes refer to nothing.
fn check_mirror(core: &Core, node: &str, pod: &Object) -> Checked {
    if pod.get(&["metadata", "annotations", MIRROR]).is_none() {
        return no(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if pod.text(&["spec", "nodeName"]) != Some(node) {
        return no(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    check_owner(core, node, pod)?;
    if pod.text(&["spec", "serviceAccountName"]).is_some_and(|name| !name.is_empty()) {
        return no(format!("node {node:?} can not create pods that reference a service account"));
    }
    let has_trust_bundles = || {
        let volumes = pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
        let mut sources = volumes.filter_map(|volume| volume.get("projected")?.get("sources")?.as_array()).flatten();
        sources.any(|source| source.get("clusterTrustBundle").is_some_and(|bundle| !bundle.is_null()))
    };
    // Also those that are yet to be made for the pod.
    let has_claims_of_devices = || pod.get(&["spec", "resourceClaims"]).and_then(Value::as_array).is_some_and(|claims| !claims.is_empty());
    for (is_referred_to, what) in [
        (refers_to_any(pod, Referenced::Secret), "secrets"),
        (refers_to_any(pod, Referenced::ConfigMap), "configmaps"),
        (has_trust_bundles(), "clustertrustbundles"),
        (refers_to_any(pod, Referenced::Claim), "persistentvolumeclaims"),
        (has_claims_of_devices() || refers_to_any(pod, Referenced::ResourceClaim), "resourceclaims"),
    ] {
        if is_referred_to {
            return no(format!("node {node:?} can not create pods that reference {what}"));
        }
    }
    Ok(())
}

/// The claims that were made for a pod, as its status says.
fn claim_statuses(pod: Option<&Object>) -> Vec<(Option<&str>, Option<&str>)> {
    let statuses = pod.and_then(|pod| pod.get(&["status", "resourceClaimStatuses"])).and_then(Value::as_array).into_iter().flatten();
    statuses.map(|status| ["name", "resourceClaimName"].map(|field| status.get(field).and_then(Value::as_str)).into()).collect()
}

/// A node says of a volume's claim how large it is and how its resizing goes.
fn check_claim(node: &str, attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Checked {
    if (attributes.subresource, attributes.operation) != ("status", Operation::Update) {
        return no("may only update PVC status");
    }
    let others = |claim: Option<&Object>| {
        let mut claim = claim.cloned().unwrap_or_default();
        for field in ["resourceVersion", "managedFields"] {
            claim.metadata_mut().remove(field);
        }
        if let Some(status) = claim.0.get_mut("status").and_then(Value::as_object_mut) {
            for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
                status.remove(field);
            }
        }
        claim
    };
    if others(new) == others(old) { Ok(()) } else { no(format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions")) }
}

fn check_pod(core: &Core, node: &str, attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Checked {
    match (attributes.subresource, attributes.operation, new) {
        ("", Operation::Create, Some(pod)) => check_mirror(core, node, pod),
        ("", Operation::Delete, _) => pod_is_on(core, attributes.namespace, attributes.name, node).map_err(|_| {
            format!("node {node:?} can only delete pods with spec.nodeName set to itself")
        }),
        ("status", Operation::Update, Some(pod)) => {
            if old.and_then(|old| old.text(&["spec", "nodeName"])) != Some(node) {
                return no(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
            }
            if old.is_some_and(|old| old.get(&["metadata", "labels"]) != pod.get(&["metadata", "labels"])) {
                return no(format!("node {node:?} cannot update labels through pod status"));
            }
            if claim_statuses(old) != claim_statuses(Some(pod)) {
                // The slip is upstream's.
                return no(format!("node {node:?} cannot update resource claim statues"));
            }
            Ok(())
        }
        ("eviction", Operation::Create, Some(_)) => pod_is_on(core, attributes.namespace, attributes.name, node)
            .map_err(|_| format!("node {node:?} can only evict pods with spec.nodeName set to itself")),
        _ => no(format!("unexpected operation {:?} of a node on pods", attributes.operation.as_str())),
    }
}

/// A token must be bound to a pod on the node, so that it ends with that pod.
fn check_token(core: &Core, node: &str, attributes: &Attributes<'_>, request: &Object) -> Checked {
    let reference = |field: &str| request.text(&["spec", "boundObjectRef", field]).unwrap_or_default();
    if (reference("apiVersion"), reference("kind")) != ("v1", "Pod") || reference("name").is_empty() {
        return no("node requested token not bound to a pod");
    }
    if reference("uid").is_empty() {
        return no("node requested token with a pod binding without a uid");
    }
    let pod = core.view_named("pods").get(&format!("{}/{}", attributes.namespace, reference("name"))).and_then(|stored| stored.object().ok());
    match pod {
        None => no(format!("pod {:?} not found", reference("name"))),
        Some(pod) if pod.uid() != reference("uid") => no(format!("the UID in the bound object reference ({}) does not match the UID in record ({})", reference("uid"), pod.uid())),
        Some(pod) if pod.text(&["spec", "nodeName"]) != Some(node) => no("node requested token bound to a pod scheduled on a different node"),
        Some(_) => Ok(()),
    }
}

fn check_lease(node: &str, attributes: &Attributes<'_>) -> Checked {
    if attributes.namespace != LEASES {
        return no(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if attributes.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn check_certificate(node: &str, request: &Object) -> Checked {
    let Some(signer) = request.text(&["spec", "signerName"]) else { return Ok(()) };
    if !matches!(signer, "kubernetes.io/kube-apiserver-client-kubelet" | "kubernetes.io/kubelet-serving") {
        return Ok(());
    }
    use base64::Engine as _;
    let pem = request.text(&["spec", "request"]).and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok()).unwrap_or_default();
    let Ok(parsed) = pki::request::CertificateRequest::from_pem(&pem) else { return no("unable to parse csr") };
    let (asked, own) = (&parsed.subject.common_name, format!("{USER_PREFIX}{node}"));
    if *asked == own { Ok(()) } else { no(format!("can only create a node CSR with CN={own}; CN was {asked:?}")) }
}

/// A request for a certificate must be for a pod on the node, as that pod is.
fn check_pod_certificate(core: &Core, node: &str, attributes: &Attributes<'_>, request: &Object) -> Checked {
    let asked = |field: &str| request.text(&["spec", field]).unwrap_or_default();
    if asked("nodeName") != node {
        return no(format!("PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}", asked("nodeName")));
    }
    let object = |resource: &str, key: &str| core.view_named(resource).get(key).and_then(|stored| stored.object().ok());
    let uid = |object: Option<&Object>| object.map(Object::uid).unwrap_or_default().to_owned();
    let own = object("nodes", node);
    if uid(own.as_ref()) != asked("nodeUID") {
        return no(format!("PodCertificateRequest for pod {:?} names node UID ({}) that differs from that of node {node:?}", asked("podName"), asked("nodeUID")));
    }
    let name = asked("podName");
    let Some(pod) = object("pods", &format!("{}/{name}", attributes.namespace)) else { return no(format!("pod {name:?} not found")) };
    if pod.uid() != asked("podUID") {
        return no(format!("PodCertificateRequest for pod {name:?} contains pod UID ({}) that differs from running pod ({})", asked("podUID"), pod.uid()));
    }
    if pod.text(&["spec", "nodeName"]) != Some(node) {
        return no(format!("pod {name:?} is not running on node {node:?}"));
    }
    if pod.get(&["metadata", "annotations", MIRROR]).is_some() {
        return no(format!("pod {name:?} is a mirror pod"));
    }
    let account = pod.text(&["spec", "serviceAccountName"]).unwrap_or_default();
    if account != asked("serviceAccountName") {
        return no(format!("PodCertificateRequest for pod {name:?} contains serviceAccountName ({:?}) that differs from running pod ({account:?})", asked("serviceAccountName")));
    }
    let account_uid = uid(object("serviceaccounts", &format!("{}/{account}", attributes.namespace)).as_ref());
    if account_uid != asked("serviceAccountUID") {
        return no(format!("PodCertificateRequest for pod {name:?} contains serviceAccountUID ({}) that differs from service account ({account_uid})", asked("serviceAccountUID")));
    }
    Ok(())
}

#[async_trait]
impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let Some(node) = node_of(attributes.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(attributes.forbidden(format!("could not determine node from user {:?}", attributes.user.name)));
        }
        let new = object.as_deref();
        let info = attributes.kind.info();
        let checked = match (&*info.kind.group, &*info.plural) {
            ("", "pods") => check_pod(core, node, attributes, new, old),
            ("", "nodes") => check_node(core, node, attributes, new, old),
            ("", "persistentvolumeclaims") => check_claim(node, attributes, new, old),
            ("resource.k8s.io", "resourceslices") if attributes.operation == Operation::Create && new.and_then(|slice| slice.text(&["spec", "nodeName"])) != Some(node) => {
                no("can only create ResourceSlice with the same NodeName as the requesting node")
            }
            ("coordination.k8s.io", "leases") => check_lease(node, attributes),
            ("", "serviceaccounts") if attributes.subresource == "token" => new.map_or(Ok(()), |request| check_token(core, node, attributes, request)),
            ("storage.k8s.io", "csinodes") if attributes.name != node => no(format!("node {node:?} can only access the CSINode of its own name")),
            ("certificates.k8s.io", "certificatesigningrequests") if attributes.operation == Operation::Create && attributes.subresource.is_empty() => {
                new.map_or(Ok(()), |request| check_certificate(node, request))
            }
            ("certificates.k8s.io", "podcertificaterequests") if attributes.operation == Operation::Create && attributes.subresource.is_empty() => {
                new.map_or(Ok(()), |request| check_pod_certificate(core, node, attributes, request))
            }
            _ => Ok(()),
        };
        checked.map_err(|why| attributes.forbidden(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_labels_itself_with_what_nodes_know_of_themselves() {
        for label in ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "node.kubernetes.io/anything", "example.com/a", "plain"] {
            assert!(may_label(label), "{label}");
        }
        for label in ["node-restriction.kubernetes.io/a", "x.node-restriction.kubernetes.io/a", "kubernetes.io/role", "node-role.kubernetes.io/control-plane"] {
            assert!(!may_label(label), "{label}");
        }
    }
}
