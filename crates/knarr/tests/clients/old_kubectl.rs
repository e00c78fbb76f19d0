//! Debian's kubectl 1.20: it streams over SPDY, reads OpenAPI v2 in protobuf, and checks fields itself.

use testkit::{Scene, kubectl::client_program};

use crate::{pod, scene, server};

fn kubectl(scene: &Scene, words: &[&str]) -> testkit::scene::Said {
    scene.run(scene.program(client_program("kubectl-1.20")).args(words))
}

#[test]
fn a_kubectl_of_old_works_over_spdy() {
    let scene = scene("old");
    scene.apply(&server("web", "mkdir /page; echo hello > /page/index.html; echo started; exec httpd -f -p 8080 -h /page"));
    scene.ready("web");
    let said = kubectl(&scene, &["exec", "web", "--", "sh", "-c", "echo out; echo error >&2; exit 4"]);
    assert_eq!((said.code, said.out.as_str()), (Some(4), "out\n"), "{said:?}");
    assert!(said.error.contains("error\n"), "{said:?}");
    assert_eq!(kubectl(&scene, &["logs", "web"]).out, "started\n");
    let content: Vec<u8> = (0..1_000_000u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    scene.file("there", &content);
    assert!(kubectl(&scene, &["cp", "there", "web:/tmp/file"]).success);
    assert!(kubectl(&scene, &["cp", "web:/tmp/file", "back"]).success);
    assert!(std::fs::read(scene.path("back")).unwrap() == content);
    let forward = format!(
        "{} port-forward web :8080 > forward & for try in $(seq 100); do port=$(sed -n 's/.*127.0.0.1:\\([0-9]*\\) .*/\\1/p' forward); [ -n \"$port\" ] && break; sleep 0.1; done; python3 -c \"import urllib.request as r; print(r.build_opener(r.ProxyHandler({{}})).open('http://127.0.0.1:$port/').read().decode())\"; kill $!",
        client_program("kubectl-1.20").display()
    );
    assert_eq!(scene.output(scene.program("sh").args(["-c", &forward])).trim(), "hello");

    assert!(kubectl(&scene, &["explain", "pod.spec.containers"]).out.contains("RESOURCE: containers <[]Object>"));
    let file = scene.file("bad.yaml", pod("bad", "true").replace("image:", "imagee:"));
    let said = kubectl(&scene, &["create", "-f", &file.display().to_string()]);
    assert!(said.error.contains("unknown field \"imagee\" in io.k8s.api.core.v1.Container"), "{said:?}");
    let file = scene.file("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: map }\ndata: { a: b }\n");
    for outcome in ["created", "unchanged"] {
        assert_eq!(kubectl(&scene, &["apply", "-f", &file.display().to_string()]).out, format!("configmap/map {outcome}\n"));
    }
    assert!(kubectl(&scene, &["delete", "pod/web", "configmap/map"]).success);
}
