//! The guestbook of `examples/` under load, on two nodes: changing it loses no request, and what dies is made good.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use testkit::{
    LocalCluster, image,
    kubectl::image_archive,
    load::{Load, exchange},
};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

#[test]
fn the_guestbook_is_scaled_and_rolled_without_a_failed_request_and_survives_what_dies() {
    let cluster = LocalCluster::up(&binary(), 2, &[]);
    let busybox = cluster.directory().join("busybox.tar");
    fs::write(&busybox, image::busybox().archive(&["busybox:knarr", "busybox:second"])).unwrap();
    cluster.import(&busybox);
    cluster.import(&image_archive("redis"));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/guestbook");
    cluster.kubectl(["apply".as_ref(), "-f".as_ref(), example.as_os_str()]);
    let rolled = || cluster.kubectl(["-n", "guestbook", "rollout", "status", "deployment/frontend", "--timeout=300s"]);
    cluster.kubectl(["-n", "guestbook", "rollout", "status", "deployment/redis", "--timeout=300s"]);
    rolled();
    let addresses = [1, 2].map(|node| SocketAddr::new(cluster.address(node), 30080));

    // What one visitor writes, the next one reads, whoever serves them.
    let entry = "entry=hello+from+outside";
    let post = format!("POST /cgi-bin/guestbook HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{entry}", entry.len());
    let answer = exchange(addresses[0], &post);
    assert!(matches!(&answer, Err(text) if text.contains("303")), "{answer:?}");
    for address in addresses {
        let page = exchange(address, "GET /cgi-bin/guestbook HTTP/1.0\r\n\r\n").unwrap();
        assert!(page.contains("<li>hello from outside</li>"), "{page}");
    }

    // Nothing fails while it is changed.
    let load = Load::on(addresses, "/index.html");
    let timed = |what: &str, change: &dyn Fn()| {
        let started = Instant::now();
        change();
        println!("{what}: {:.1} s", started.elapsed().as_secs_f64());
    };
    timed("scaled from 3 to 5", &|| {
        cluster.kubectl(["-n", "guestbook", "scale", "deployment/frontend", "--replicas=5"]);
        rolled();
    });
    timed("rolled to the second image", &|| {
        cluster.kubectl(["-n", "guestbook", "set", "image", "deployment/frontend", "web=busybox:second"]);
        rolled();
    });
    timed("rolled back", &|| {
        cluster.kubectl(["-n", "guestbook", "rollout", "undo", "deployment/frontend"]);
        rolled();
    });
    let (answered, failures) = load.end();
    println!("{answered} requests were answered, {} failed", failures.len());
    assert!(failures.is_empty(), "{failures:#?}\n{}", cluster.report());

    // The service goes on while its parts die.
    let serves = || cluster.eventually("the page is served", || exchange(addresses[1], "GET /index.html HTTP/1.0\r\n\r\n").ok());
    let all_ready = || {
        cluster.eventually("five front ends are ready", || {
            let ready = cluster.try_kubectl(["-n", "guestbook", "get", "deployment/frontend", "-o", "jsonpath={.status.readyReplicas}"])?;
            (ready == "5").then_some(())
        })
    };
    timed("a container killed: all ready again", &|| {
        let restarts = || cluster.kubectl(["-n", "guestbook", "get", "pods", "-l", "app=frontend", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"]);
        let before = restarts();
        let mark = format!("/knarr-{}/", cluster.name());
        let processes = testkit::real_cluster::processes_of(&[mark]);
        let server = processes.into_iter().find(|process| fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.starts_with(b"httpd\0"))).unwrap();
        testkit::real_cluster::end(&[server]);
        serves();
        cluster.eventually("the container was started again", || (restarts() != before).then_some(()));
        all_ready();
    });
    timed("a pod deleted: all ready again", &|| {
        let pod = cluster.kubectl(["-n", "guestbook", "get", "pods", "-l", "app=frontend", "-o", "jsonpath={.items[0].metadata.name}"]);
        cluster.kubectl(["-n", "guestbook", "delete", "pod", &pod, "--wait=false"]);
        serves();
        all_ready();
    });
    timed("the server killed: the API answers again", &|| {
        let load = Load::on(addresses, "/index.html");
        cluster.kill_agent(1);
        cluster.eventually("the API answers again", || cluster.try_kubectl(["get", "--raw", "/readyz", "--request-timeout=2s"]));
        cluster.kubectl(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=180s"]);
        let (answered, failures) = load.end();
        println!("meanwhile {answered} requests were answered");
        assert!(failures.is_empty(), "{failures:#?}\n{}", cluster.report());
    });
    let page = exchange(addresses[0], "GET /cgi-bin/guestbook HTTP/1.0\r\n\r\n").unwrap();
    assert!(page.contains("<li>hello from outside</li>"), "{page}");
}
