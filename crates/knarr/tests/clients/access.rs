//! Who may: without credentials nothing, with tokens and certificates what roles say.

use crate::scene;

#[test]
fn strangers_see_nothing() {
    let scene = scene("strangers");
    let server = format!("https://127.0.0.1:{}", scene.cluster.port());
    let mut kubectl = scene.program(testkit::kubectl::kubectl());
    kubectl.args(["--server", &server, "--insecure-skip-tls-verify", "--username=x", "--password=y", "get", "--raw", "/api/v1/namespaces/default/pods"]);
    let said = scene.run(kubectl.env("KUBECONFIG", "/dev/null"));
    assert!(!said.success, "{said:?}");
    assert!(said.error.contains("pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\""), "{said:?}");
}

#[test]
fn a_service_accounts_token_may_what_its_roles_say() {
    let scene = scene("tokens");
    scene.k("create serviceaccount reader");
    scene.k("create role reader --verb=get,list --resource=configmaps");
    scene.k("create rolebinding reader --role=reader --serviceaccount=tokens:reader");
    assert_eq!(scene.k("auth can-i list configmaps --as=system:serviceaccount:tokens:reader"), "yes\n");
    assert!(scene.refused("auth can-i create pods --as=system:serviceaccount:tokens:reader").is_empty());
    assert!(scene.k("auth can-i --list --as=system:serviceaccount:tokens:reader").contains("configmaps"));
    let token = scene.k("create token reader --duration=1h");
    // A kubeconfig would prove more than the token does.
    let server = format!("https://127.0.0.1:{}", scene.cluster.port());
    let kubectl = |words: &[&str]| {
        let mut command = scene.program(testkit::kubectl::kubectl());
        command.args(["--server", &server, "--insecure-skip-tls-verify", "--token", token.trim(), "--namespace=tokens"]).args(words);
        scene.run(command.env("KUBECONFIG", "/dev/null"))
    };
    assert!(kubectl(&["auth", "whoami"]).out.contains("system:serviceaccount:tokens:reader"));
    assert!(kubectl(&["get", "configmaps"]).out.contains("kube-root-ca.crt"));
    let refused = kubectl(&["get", "secrets"]);
    assert!(refused.error.contains("User \"system:serviceaccount:tokens:reader\" cannot list resource \"secrets\""), "{refused:?}");
}

#[test]
fn a_certificate_is_asked_for_approved_and_used() {
    let scene = scene("certificates");
    let request = "openssl req -new -newkey rsa:2048 -nodes -keyout key.pem -subj /O=developers/CN=jane 2>/dev/null | base64 -w0";
    let request = scene.output(scene.program("sh").args(["-c", request]));
    let asked = |name: &str| {
        format!("apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{ name: {name} }}\nspec: {{ request: {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth] }}\n")
    };
    scene.apply(&asked("jane"));
    assert!(scene.k("get csr jane").contains("Pending"));
    scene.k("certificate approve jane");
    let certificate = scene.cluster.eventually("the certificate is issued", || Some(scene.at("csr/jane", ".status.certificate")).filter(|text| !text.is_empty()));
    scene.file("certificate.base64", certificate);
    scene.output(scene.program("sh").args(["-c", "base64 -d certificate.base64 > certificate.pem"]));
    let server = format!("https://127.0.0.1:{}", scene.cluster.port());
    let mut kubectl = scene.program(testkit::kubectl::kubectl());
    kubectl.args(["--server", &server, "--insecure-skip-tls-verify", "--client-certificate=certificate.pem", "--client-key=key.pem", "auth", "whoami"]);
    let who = scene.output(kubectl.env("KUBECONFIG", "/dev/null"));
    assert!(who.contains("jane") && who.contains("developers"), "{who}");
    scene.apply(&asked("denied"));
    scene.k("certificate deny denied");
    assert!(scene.k("get csr denied").contains("Denied"));
    scene.k("delete csr jane denied");
}
