//! Approves what nodes ask for: a client certificate where the one who asks may have one, and a serving certificate where every name and
//! address in it is known to be the node's own.

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use pki::CertificateRequest;

use super::{CONTROLLER, Extra, NODE_CLIENT, NODE_SERVING, has, usages};
use crate::ControllerContext;

const NODE_USER: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

/// Approves.
pub(super) struct Approver {
    client: client::Client,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    clock: std::sync::Arc<dyn client::Clock>,
}

impl Approver {
    pub fn new(context: &ControllerContext) -> Self {
        Self {
            client: context.client(CONTROLLER),
            requests: context.informers.of(),
            nodes: context.informers.of(),
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

    /// The message to approve with; `None` to leave the request to somebody else.
    async fn verdict(&self, request: &CertificateSigningRequest) -> Result<Option<&'static str>, ReconcileError> {
        match recognize(request, |name| self.nodes.get(&ObjectKey::cluster(name)).map(|node| (*node).clone())) {
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

/// Source of the rules for clients: Kubernetes 1.36, `pkg/controller/certificates/approver/sarapprove.go`. Serving certificates are
/// left to the administrator there, since names are not checked; here they are checked.
fn recognize(request: &CertificateSigningRequest, node: impl Fn(&str) -> Option<Node>) -> Recognized {
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
    let own: Vec<&str> = node.status.iter().flat_map(|status| status.addresses.iter().flatten()).map(|address| address.address.as_str()).collect();
    let known_name = |dns: &String| dns == name || dns == "localhost" || own.contains(&dns.as_str());
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
        let addresses = vec![address("InternalIP", "10.0.0.5"), address("Hostname", "a.example")];
        Some(Node { status: Some(NodeStatus { addresses: Some(addresses), ..NodeStatus::default() }), ..Node::default() })
    }

    #[track_caller]
    fn check(request: CertificateSigningRequest, expected: Recognized) {
        assert_eq!(recognize(&request, |_| node()), expected);
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
        check(request(NODE_SERVING, node_a, node_a, &["kubernetes.default"], &serving), Recognized::Nothing);
        check(request(NODE_SERVING, node_a, "system:node:b", &["10.0.0.5"], &serving), Recognized::Nothing);
        check(request("example.com/other", node_a, node_a, &[], &client), Recognized::Nothing);
    }
}
