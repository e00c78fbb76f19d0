//! How nodes become and stay members: tokens are made, listed, deleted and refused; certificates are renewed before they end.

use std::{
    fs,
    io::Write,
    net::{IpAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use testkit::{LocalCluster, RealCluster, image, real_cluster::Settings};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

/// What `knarr token` prints, or what it says where it fails.
fn token(cluster: &RealCluster, words: &[&str]) -> Result<String, String> {
    let output = Command::new(binary()).arg("token").args(words).arg("--data-dir").arg(cluster.data_directory()).env("NO_PROXY", "*").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// What an agent says that must not join.
#[track_caller]
fn refused(cluster: &RealCluster, token: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["agent", "--server", &format!("https://127.0.0.1:{}", cluster.port()), "--token", token, "--node-name", "stranger", "--log", "error"]);
    command.arg("--data-dir").arg(folder.path().join("data")).arg("--run-dir").arg(folder.path().join("run"));
    let output = command.env("NO_PROXY", "*").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it should not join; it said {said}");
    assert!(!folder.path().join("data/pki/client.pem").exists(), "it has no certificate");
    said
}

#[test]
fn tokens_are_made_listed_deleted_and_refused() {
    let cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    let good = token(&cluster, &["create", "--description", "for the test", "--ttl-hours", "1"]).unwrap();
    let [version, authority, id, secret] = good.split('.').collect::<Vec<_>>()[..] else { panic!("four parts: {good}") };
    assert_eq!((version, authority.len(), id.len(), secret.len()), ("knarr1", 64, 6, 16));
    let listed = token(&cluster, &["list"]).unwrap();
    let line = listed.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(line.contains("for the test") && !listed.contains(secret), "{listed}");
    let forever = token(&cluster, &["create", "--ttl-hours", "0"]).unwrap();
    assert!(token(&cluster, &["list"]).unwrap().lines().any(|line| line.starts_with(forever.split('.').nth(2).unwrap()) && line.contains("never")));

    // A token proves nothing but that one may ask to become a node.
    let kubectl = |words: &[&str]| {
        let mut command = Command::new(testkit::kubectl::kubectl());
        command.args(["--server", &format!("https://127.0.0.1:{}", cluster.port()), "--insecure-skip-tls-verify", "--token", &format!("{id}.{secret}")]);
        let output = command.args(words).env("KUBECONFIG", "/dev/null").env("NO_PROXY", "*").output().unwrap();
        format!("{}{}", String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(kubectl(&["auth", "whoami"]).contains(&format!("system:bootstrap:{id}")));
    let answer = kubectl(&["get", "nodes"]);
    assert!(answer.contains(&format!("User \"system:bootstrap:{id}\" cannot list resource \"nodes\"")), "{answer}");

    // Refused: what is no token, a server that is not the one the token was made by, secrets that are wrong, expired or deleted.
    assert!(refused(&cluster, "nonsense").contains("malformed token"));
    let other_authority = format!("knarr1.{}.{id}.{secret}", "0".repeat(64));
    let said = refused(&cluster, &other_authority);
    assert!(said.contains("cannot trust the server https://127.0.0.1:") && said.contains("fingerprint"), "{said}");
    let said = refused(&cluster, &format!("knarr1.{authority}.{id}.{}", "a".repeat(16)));
    assert!(said.contains("Unauthorized") && said.contains("token"), "{said}");
    cluster.kubectl(["-n", "kube-system", "patch", "secret", &format!("bootstrap-token-{id}"), "-p", r#"{"stringData":{"expiration":"2020-01-01T00:00:00Z"}}"#]);
    let said = refused(&cluster, &good);
    assert!(said.contains("Unauthorized"), "{said}");
    cluster.eventually("what has expired is removed", || (!token(&cluster, &["list"]).unwrap().contains(id)).then_some(()));
    let id = forever.split('.').nth(2).unwrap();
    assert_eq!(token(&cluster, &["delete", &forever]).unwrap(), format!("token {id} deleted"));
    assert!(refused(&cluster, &forever).contains("Unauthorized"));
    assert!(token(&cluster, &["delete", &forever]).unwrap_err().contains(&format!("cannot delete the token {id}")));
}

/// Takes whatever certificate it is shown, which is what it is asked for.
#[derive(Debug)]
struct Onlooker;

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: &ServerName<'_>, _: &[u8], _: UnixTime) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that a node's own API shows.
fn shown_by(address: IpAddr) -> Option<Vec<u8>> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Onlooker))
        .with_no_client_auth();
    let mut session = rustls::ClientConnection::new(Arc::new(config), ServerName::from(address)).unwrap();
    let mut stream = TcpStream::connect((address, 10250)).ok()?;
    rustls::Stream::new(&mut session, &mut stream).flush().ok()?;
    Some(session.peer_certificates()?.first()?.to_vec())
}

fn end_of(path: &Path) -> String {
    let output = Command::new("openssl").args(["x509", "-noout", "-enddate", "-subject", "-in"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Status and body of what a node answers on one of its ports.
fn ask(url: &str, token: Option<&str>) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--noproxy", "*", "--max-time", "10", "--write-out", "\n%{http_code}", url]);
    if let Some(token) = token {
        curl.args(["--header", &format!("Authorization: Bearer {}", token.trim())]);
    }
    let output = String::from_utf8(curl.output().expect("curl, of Debian's package of that name").stdout).unwrap();
    let (body, status) = output.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn monitoring_asks_each_node_directly_with_a_token_and_gets_what_it_may() {
    let cluster = LocalCluster::up(&binary(), 2, &[]);
    cluster.kubectl(["create", "serviceaccount", "monitor"]);
    cluster.kubectl(["create", "clusterrole", "monitor", "--verb=get", "--resource=nodes/metrics,nodes/pods"]);
    cluster.kubectl(["create", "clusterrolebinding", "monitor", "--clusterrole=monitor", "--serviceaccount=default:monitor"]);
    let [monitor, other] = ["monitor", "default"].map(|account| cluster.kubectl(["create", "token", account]));
    for number in [1, 2] {
        let (name, address) = (cluster.node(number), cluster.address(number));
        let path = |path: &str| format!("https://{address}:10250{path}");
        cluster.eventually("the node's API answers", || (ask(&path("/healthz"), None).0 == "401").then_some(()));
        assert_eq!(ask(&path("/metrics/resource"), Some("nonsense")).0, "401", "{name}");
        let (status, words) = ask(&path("/metrics/resource"), Some(&other));
        let refusal = "Forbidden (user=system:serviceaccount:default:default, verb=get, resource=nodes, subresource(s)=[metrics])";
        assert_eq!((status.as_str(), words.as_str()), ("403", refusal), "{name}");
        let (status, metrics) = ask(&path("/metrics/resource"), Some(&monitor));
        assert!(status == "200" && metrics.contains("node_memory_working_set_bytes"), "{name}: {status} {metrics}");
        assert_eq!(ask(&path("/runningpods/"), Some(&monitor)).0, "200", "{name}");
        assert_eq!(ask(&path("/configz"), Some(&monitor)).0, "403", "{name}");
        // What load balancers ask of the proxy of Services.
        let (status, words) = ask(&format!("http://{address}:10256/healthz"), None);
        assert!(status == "200" && words.contains("\"nodeEligible\": true"), "{name}: {status} {words}");
    }
}

/// How long certificates live here: renewed after about half of it, since a short life is counted from some time before it began.
const LIFETIME: Duration = Duration::from_secs(48);

#[test]
fn certificates_are_renewed_before_they_end_and_the_node_stays() {
    let cluster = LocalCluster::up(&binary(), 2, &["--server-option", &format!("cluster-signing-duration={}", LIFETIME.as_secs())]);
    let joined = Instant::now();
    let agent = cluster.node(2);
    let directory = cluster.directory().join("data").join(cluster.name()).join(&agent).join("pki");
    let files = ["client.pem", "serving.pem"].map(|name| directory.join(name));
    // Before anything that takes its time: a slow machine is not to miss the first ones.
    let first = cluster.eventually("the agent's API answers", || shown_by(cluster.address(2)).map(|shown| (files.each_ref().map(|path| end_of(path)), Some(shown))));
    assert!(first.0[0].contains(&format!("system:node:{agent}")), "{first:?}");
    let archive = cluster.directory().join("busybox.tar");
    fs::write(&archive, image::busybox().archive(&["busybox:1"])).unwrap();
    cluster.import(&archive);
    cluster.kubectl(["run", "there", "--image=busybox:1", &format!("--overrides={{\"spec\":{{\"nodeName\":\"{agent}\",\"terminationGracePeriodSeconds\":0}}}}"), "--", "sh", "-c", "echo started; exec sleep 1000"]);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/there", "--timeout=180s"]);

    // Everything that the agent joined with is over then.
    cluster.eventually("both certificates are renewed", || {
        let now = files.each_ref().map(|path| end_of(path));
        now.iter().zip(&first.0).all(|(now, before)| now != before).then_some(())
    });
    let renewed = joined.elapsed();
    assert!(renewed < LIFETIME, "renewed after {renewed:?}, too late");
    assert_ne!(shown_by(cluster.address(2)), first.1, "the node's API shows the new one");
    let requests = cluster.kubectl(["get", "csr", "-o", "jsonpath={range .items[*]}{.spec.username} {.spec.signerName}{\"\\n\"}{end}"]);
    for signer in ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"] {
        assert!(requests.contains(&format!("system:node:{agent} {signer}")), "the node asked as itself: {requests}");
    }

    // An agent that is killed comes back with what it keeps, after the first certificates have ended.
    cluster.eventually("the first certificates have ended", || (joined.elapsed() > LIFETIME).then_some(()));
    cluster.kill_agent(2);
    cluster.eventually("the agent was started again", || cluster.nodes().iter().all(|node| node["running"] == true).then_some(()));
    cluster.kubectl(["wait", "--for=condition=Ready", &format!("node/{agent}"), "--timeout=180s"]);
    cluster.eventually("the node answers the server", || cluster.try_kubectl(["logs", "there"]).filter(|log| log == "started\n"));
    assert_eq!(cluster.kubectl(["exec", "there", "--", "echo", "inside"]), "inside\n");
    assert_eq!(cluster.kubectl(["get", "pod", "there", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]), "0");
    println!("certificates of {} s were renewed after {:.1} s", LIFETIME.as_secs(), renewed.as_secs_f64());
}
