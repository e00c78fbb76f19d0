//! Approves what nodes ask for: a client certificate where the one who asks may have one, and a serving certificate where every name and
//! address in it is known to be the node's own.

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use pki::CertificateRequest;

use super::{CONTROLLER, Extra, NODE_CLIENT, NODE_SERVING, has, usages};
use crate::ControllerContext;

const NODE_USER: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

/// Nodes whose address may be the API server's as well. No node puts this on itself but the one in the server's own process.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Approves.
pub(super) struct Approver {
    client: client::Client,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    clock: std::sync::Arc<dyn client::Clock>,
}

impl Approver {
    pub fn new(context: &ControllerContext) -> Self {
        Self {
            client: context.client(CONTROLLER),
            requests: context.informers.of(),
            nodes: context.informers.of(),
            services: context.informers.of(),
            endpoints: context.informers.of(),
            clock: context.clock.clone(),
        }
    }

    /// Whether the one who asked may create the subresource that stands for a permission.
    async fn may(&self, request: &CertificateSigningRequest, permission: &str) -> Result<bool, ReconcileError> {
        let spec = &request.spec;
        let extra: Extra = spec.extra.clone();
        let review = SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    version: Some("*".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(permission.to_owned()),
                    verb: Some("create".to_owned()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            status: None,
        };
        let answer = Api::<SubjectAccessReview>::all(self.client.clone()).create(&PostParams::default(), &review).await;
        let answer = answer.doing(|| format!("ask whether {} may {permission}", spec.username.as_deref().unwrap_or_default()))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Whether an address or name belongs to another node or to the API server. A node says itself what its addresses are.
    fn is_anothers(&self, address: &str, node: &Node) -> bool {
        let is_it = |known: &str| is_same(known, address);
        let others = self.nodes.list();
        // What is left of a node that is down does not keep another one from its address.
        let mut others = others.iter().filter(|other| other.metadata.name != node.metadata.name && is_ready(other));
        if others.any(|other| other.metadata.name.as_deref().is_some_and(is_it) || addresses_of(other).any(is_it)) {
            return true;
        }
        let service = self.services.get_in("default", "kubernetes");
        if service.iter().filter_map(|service| service.spec.as_ref()?.cluster_ips.as_ref()).flatten().any(|known| is_it(known)) {
            return true;
        }
        let carries_it = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(CONTROL_PLANE));
        let endpoints = self.endpoints.get_in("default", "kubernetes");
        let subsets = endpoints.iter().flat_map(|endpoints| endpoints.subsets.iter().flatten());
        !carries_it && subsets.flat_map(|subset| subset.addresses.iter().flatten()).any(|known| is_it(&known.ip))
    }

    /// The message to approve with; `None` to leave the request to somebody else.
    async fn verdict(&self, request: &CertificateSigningRequest) -> Result<Option<&'static str>, ReconcileError> {
        tokio::join!(self.services.has_synced(), self.endpoints.has_synced());
        let node = |name: &str| self.nodes.get(&ObjectKey::cluster(name)).map(|node| (*node).clone());
        match recognize(request, node, |address, node| self.is_anothers(address, node)) {
            Recognized::OwnClient if self.may(request, "selfnodeclient").await? => {
                Ok(Some("Auto approving self kubelet client certificate after SubjectAccessReview."))
            }
            Recognized::OwnClient | Recognized::Client if self.may(request, "nodeclient").await? => {
                Ok(Some("Auto approving kubelet client certificate after SubjectAccessReview."))
            }
            Recognized::Serving => Ok(Some("Auto approving kubelet serving certificate: every name and address in it is the node's own.")),
            Recognized::OwnClient | Recognized::Client | Recognized::Nothing => Ok(None),
        }
    }
}

/// What a request is, by its content alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recognized {
    /// A node's client certificate, asked for by that node.
    OwnClient,
    /// A node's client certificate, asked for by somebody else (as a node does that joins).
    Client,
    /// A node's serving certificate, asked for by that node, with its own names.
    Serving,
    /// Something to leave alone.
    Nothing,
}

/// The addresses and names that a node says are its own.
fn addresses_of(node: &Node) -> impl Iterator<Item = &str> {
    node.status.iter().flat_map(|status| status.addresses.iter().flatten()).map(|address| address.address.as_str())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether two texts are one address, however it is written, or one name.
fn is_same(one: &str, other: &str) -> bool {
    let address = |text: &str| text.parse::<std::net::IpAddr>().map(|address| address.to_canonical());
    match (address(one), address(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// Names of the API server and of other Services, which no node may go by, whatever it says that it is called.
fn is_of_a_service(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.split('.').next() == Some("kubernetes") || name.split('.').any(|label| label == "svc")
}

/// Source of the rules for clients: Kubernetes 1.36, `pkg/controller/certificates/approver/sarapprove.go`. Serving certificates are
/// left to the administrator there, since names are not checked; here they are checked.
fn recognize(request: &CertificateSigningRequest, node: impl Fn(&str) -> Option<Node>, is_anothers: impl Fn(&str, &Node) -> bool) -> Recognized {
    let signer = request.spec.signer_name.as_str();
    let (NODE_CLIENT | NODE_SERVING) = signer else { return Recognized::Nothing };
    let (Ok(asked), Ok(usages)) = (CertificateRequest::from_pem(&request.spec.request.0), usages(request)) else { return Recognized::Nothing };
    let user = request.spec.username.as_deref().unwrap_or_default();
    let is_self = user == asked.subject.common_name;
    if signer == NODE_CLIENT {
        return match asked.check_node_client(&usages) {
            Ok(()) if is_self => Recognized::OwnClient,
            Ok(()) => Recognized::Client,
            Err(_) => Recognized::Nothing,
        };
    }
    let in_group = request.spec.groups.iter().flatten().any(|group| group == NODE_GROUP);
    let Some(name) = user.strip_prefix(NODE_USER).filter(|_| is_self && in_group && asked.check_node_serving(&usages).is_ok()) else {
        return Recognized::Nothing;
    };
    let Some(node) = node(name) else { return Recognized::Nothing };
    let own: Vec<&str> = addresses_of(&node).filter(|address| !is_anothers(address, &node)).collect();
    let known_name = |dns: &String| !is_of_a_service(dns) && (dns == name || dns == "localhost" || own.contains(&dns.as_str()));
    let known_address = |address: &std::net::IpAddr| address.is_loopback() || own.iter().any(|text| text.parse() == Ok(*address));
    if asked.names.dns.iter().all(known_name) && asked.names.addresses.iter().all(known_address) { Recognized::Serving } else { Recognized::Nothing }
}

#[async_trait]
impl Reconciler for Approver {
    fn name(&self) -> &'static str {
        "certificate-approval"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let requests = self.requests.clone();
        vec![
            Trigger::itself(&self.requests),
            // A node that has just said its addresses may have asked for its serving certificate before.
            Trigger::on(&self.nodes, move |change| {
                let addresses = |node: &Node| node.status.as_ref().and_then(|status| status.addresses.clone());
                let Some(new) = &change.new else { return Vec::new() };
                if change.old.as_ref().is_some_and(|old| addresses(old) == addresses(new)) {
                    return Vec::new();
                }
                let user = format!("{NODE_USER}{}", change.key.name);
                let waiting = requests.list().into_iter().filter(|request| request.spec.username.as_ref() == Some(&user));
                waiting.map(|request| client::key_of(&*request)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Settled) };
        if has(&request, "Approved") || has(&request, "Denied") || has(&request, "Failed") || super::is_issued(&request) {
            return Ok(Outcome::Settled);
        }
        let Some(message) = self.verdict(&request).await? else { return Ok(Outcome::Settled) };
        let mut approved = (*request).clone();
        let now = Some(Time(self.clock.now()));
        approved.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("AutoApproved".to_owned()),
            message: Some(message.to_owned()),
            last_update_time: now.clone(),
            last_transition_time: now,
        });
        let api = Api::<CertificateSigningRequest>::all(self.client.clone());
        match api.replace_subresource("approval", &key.name, &PostParams::default(), &approved).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("approve certificate request {key}")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus};
    use pki::{AlternativeNames, PrivateKey, Subject};

    /// A request of `user` for a certificate of `subject`.
    pub(crate) fn request(signer: &str, user: &str, subject: &str, hosts: &[&str], usages: &[&str]) -> CertificateSigningRequest {
        let key = PrivateKey::generate().unwrap();
        let pem = CertificateRequest::create(&Subject::new(subject, [NODE_GROUP]), &AlternativeNames::from_hosts(hosts), &[], &key).unwrap();
        let mut request = CertificateSigningRequest::default();
        request.metadata.name = Some("csr".to_owned());
        request.spec.request = ByteString(pem.into_bytes());
        request.spec.signer_name = signer.to_owned();
        request.spec.username = Some(user.to_owned());
        request.spec.groups = Some(vec![NODE_GROUP.to_owned()]);
        request.spec.usages = Some(usages.iter().map(|usage| (*usage).to_owned()).collect());
        request
    }

    fn node() -> Option<Node> {
        let address = |kind: &str, address: &str| NodeAddress { type_: kind.to_owned(), address: address.to_owned() };
        let addresses = [("InternalIP", "10.0.0.5"), ("InternalIP", "10.0.0.9"), ("InternalIP", "fd00::9"), ("Hostname", "a.example"), ("Hostname", "kubernetes.default"), ("Hostname", "web.shop.svc.cluster.local")];
        let addresses = addresses.map(|(kind, text)| address(kind, text)).to_vec();
        Some(Node { status: Some(NodeStatus { addresses: Some(addresses), ..NodeStatus::default() }), ..Node::default() })
    }

    #[track_caller]
    fn check(request: CertificateSigningRequest, expected: Recognized) {
        assert_eq!(recognize(&request, |_| node(), |address, _| matches!(address, "10.0.0.9" | "fd00::9")), expected);
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        for (one, other, expected) in [("10.0.0.5", "10.0.0.5", true), ("fd00::9", "FD00:0::9", true), ("10.0.0.5", "::ffff:10.0.0.5", true), ("a", "A", true), ("a", "b", false), ("10.0.0.5", "a", false)] {
            assert_eq!(is_same(one, other), expected, "{one} {other}");
        }
    }

    #[tokio::test]
    async fn a_node_may_not_have_what_is_another_nodes_or_the_api_servers() {
        let api = client::fake::FakeApi::new();
        let informers = client::Informers::new(api.client(), tokio_util::sync::CancellationToken::new());
        let clock = client::SystemClock::shared();
        let approver = Approver { client: api.client(), requests: informers.of(), nodes: informers.of(), services: informers.of(), endpoints: informers.of(), clock };
        let read = |value| serde_json::from_value(value).unwrap();
        let node = |name: &str, addresses: &[&str], labels: serde_json::Value, ready: &str| -> Node {
            let addresses: Vec<_> = addresses.iter().map(|address| serde_json::json!({ "type": "InternalIP", "address": address })).collect();
            let status = serde_json::json!({ "addresses": addresses, "conditions": [{ "type": "Ready", "status": ready }] });
            serde_json::from_value(serde_json::json!({ "metadata": { "name": name, "labels": labels }, "status": status })).unwrap()
        };
        approver.nodes.apply(client::FeedEvent::Put(node("b", &["10.0.0.6", "fd00::6"], serde_json::json!({}), "True")));
        approver.nodes.apply(client::FeedEvent::Put(node("down", &["10.0.0.7"], serde_json::json!({}), "Unknown")));
        approver.services.apply(client::FeedEvent::Put(read(serde_json::json!({ "metadata": { "name": "kubernetes", "namespace": "default" }, "spec": { "clusterIPs": ["10.96.0.1"] } }))));
        let endpoints = serde_json::json!({ "metadata": { "name": "kubernetes", "namespace": "default" }, "subsets": [{ "addresses": [{ "ip": "10.0.0.1" }] }] });
        approver.endpoints.apply(client::FeedEvent::Put(serde_json::from_value(endpoints).unwrap()));
        let own = node("a", &["10.0.0.5"], serde_json::json!({}), "True");
        for address in ["b", "10.0.0.6", "fd00:0::6", "10.96.0.1", "10.0.0.1"] {
            assert!(approver.is_anothers(address, &own), "{address}");
        }
        assert!(!approver.is_anothers("10.0.0.5", &own) && !approver.is_anothers("a", &own) && !approver.is_anothers("10.0.0.7", &own));
        assert!(!approver.is_anothers("10.0.0.1", &node("a", &["10.0.0.1"], serde_json::json!({ CONTROL_PLANE: "" }), "True")));
    }

    #[test]
    fn what_nodes_may_ask_for_is_recognized() {
        let client = ["digital signature", "client auth"];
        let serving = ["digital signature", "server auth"];
        let node_a = "system:node:a";
        check(request(NODE_CLIENT, node_a, node_a, &[], &client), Recognized::OwnClient);
        check(request(NODE_CLIENT, "system:bootstrap:xyz", node_a, &[], &client), Recognized::Client);
        check(request(NODE_CLIENT, node_a, node_a, &["a"], &client), Recognized::Nothing);
        check(request(NODE_CLIENT, node_a, node_a, &[], &["what"]), Recognized::Nothing);
        check(request(NODE_SERVING, node_a, node_a, &["a", "10.0.0.5", "a.example"], &serving), Recognized::Serving);
        check(request(NODE_SERVING, node_a, node_a, &["a", "10.0.0.6"], &serving), Recognized::Nothing);
        // What it only says is its own.
        for host in ["kubernetes.default", "KUBERNETES.default", "web.shop.svc.cluster.local", "10.0.0.9", "fd00::9"] {
            check(request(NODE_SERVING, node_a, node_a, &["a", host], &serving), Recognized::Nothing);
        }
        check(request(NODE_SERVING, node_a, "system:node:b", &["10.0.0.5"], &serving), Recognized::Nothing);
        check(request("example.com/other", node_a, node_a, &[], &client), Recognized::Nothing);
    }
}
