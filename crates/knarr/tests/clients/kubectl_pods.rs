//! kubectl with running pods: logs, exec, attach, cp, port-forward, proxy, run, debug.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{pod, scene, server};

/// GET over a plain connection; the whole answer.
fn ask(port: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("a listening port");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("an open connection");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// The port at the end of `… 127.0.0.1:PORT -> …` or `… 127.0.0.1:PORT`.
fn port_in(line: &str) -> String {
    line.split("127.0.0.1:").nth(1).expect("an address").chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn logs_are_shown_whole_or_in_part() {
    let scene = scene("logs");
    scene.apply(&pod("talker", "echo one; echo two; echo three >&2; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo four; exec sleep 1000"));
    scene.ready("talker");
    let mut follow = scene.background(&["logs", "-f", "talker"]);
    assert_eq!([follow.line(), follow.line(), follow.line()], ["one", "two", "three"]);
    assert_eq!(scene.k("logs talker --tail=1"), "three\n");
    assert_eq!(scene.k("logs talker --limit-bytes=5"), "one\nt");
    let stamped = scene.k("logs talker --tail=1 --timestamps");
    let (time, rest) = stamped.split_once(' ').expect("a time before the line");
    assert!(time.ends_with('Z') && rest == "three\n", "{stamped}");
    assert_eq!(scene.k("logs talker --since=1h --tail=2"), "two\nthree\n");
    assert_eq!(scene.k("logs -l app=talker --prefix --tail=1"), "[pod/talker/main] three\n");
    assert!(scene.refused("logs talker -c none").contains("container none is not valid for pod talker"));
    assert!(scene.refused("logs talker --previous").contains("previous terminated container \"main\" in pod \"talker\" not found"));
    scene.k("exec talker -- touch /tmp/go");
    assert_eq!(follow.line(), "four");
}

#[test]
fn the_log_of_the_container_before_is_kept() {
    let scene = scene("previous");
    scene.apply(&pod("again", "echo run of $(cat /proc/sys/kernel/random/uuid); exit 1"));
    scene.becomes("pod/again", ".status.containerStatuses[0].restartCount", "1");
    assert!(scene.k("logs again --previous").starts_with("run of "));
}

#[test]
fn commands_run_in_containers() {
    let scene = scene("exec");
    scene.apply(&pod("shell", "exec sleep 1000"));
    scene.ready("shell");
    let said = scene.feed(["exec", "-i", "shell", "--", "sh", "-c", "cat; echo error >&2; exit 4"], b"typed");
    assert_eq!((said.code, said.out.as_str()), (Some(4), "typed"));
    assert!(said.error.contains("error\n") && said.error.contains("command terminated with exit code 4"), "{}", said.error);
    // The terminal's size comes on a stream of its own, in no order with what is typed, and nothing tells a shell of the first one;
    // busybox's stty succeeds without one.
    let said = scene.on_a_terminal("exec -it shell -- sh -c 'tty; read line; until stty size | grep 7; do sleep 0.1; done; echo got $line; exit 5'", "word\n");
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.out.contains("/dev/pts/0") && said.out.contains("33 77") && said.out.contains("got word"), "{said:?}");
    assert!(scene.refused("exec shell -c none -- true").contains("container none is not valid for pod shell"));
    assert!(scene.refused("exec shell -- no-such-program").contains("no-such-program"));
}

#[test]
fn files_are_copied_both_ways() {
    let scene = scene("copy");
    scene.apply(&pod("shell", "exec sleep 1000"));
    scene.ready("shell");
    let content: Vec<u8> = (0..3_000_000u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    scene.file("there", &content);
    scene.k("cp there shell:/tmp/file");
    scene.k("cp shell:/tmp/file back");
    assert!(std::fs::read(scene.path("back")).unwrap() == content);
}

#[test]
fn a_pod_is_attached_to_and_its_input_closed() {
    let scene = scene("attach");
    let said = scene.feed(["run", "once", "--quiet", "--rm", "-i", "--restart=Never", "--image=busybox:1", "--", "sh", "-c", "cat; echo end"], b"from stdin\n");
    assert!(said.success && said.out.contains("from stdin\nend\n"), "{said:?}");
    scene.refused("get pod once");
    let said = scene.feed(["run", "fails", "--rm", "-i", "--restart=Never", "--image=busybox:1", "--", "sh", "-c", "cat; exit 3"], b"");
    assert_eq!(said.code, Some(3), "{said:?}");
}

#[test]
fn ports_are_forwarded_and_services_proxied() {
    let scene = scene("ports");
    scene.apply(&server("web", "mkdir /www2; echo hello > /www2/index.html; exec httpd -f -p 8080 -h /www2"));
    scene.k("expose pod web --port=80 --target-port=8080");
    scene.ready("web");
    for target in ["pod/web", "service/web"] {
        let port = if target == "pod/web" { ":8080" } else { ":80" };
        let mut forward = scene.background(&["port-forward", target, port]);
        let local = port_in(&forward.line());
        for _ in 0..3 {
            assert!(ask(&local, "/").ends_with("hello\n"), "{target}");
        }
    }
    let mut proxy = scene.background(&["proxy", "--port=0"]);
    let local = port_in(&proxy.line());
    assert!(ask(&local, "/api/").contains("APIVersions"));
    assert!(ask(&local, "/api/v1/namespaces/ports/pods/web:8080/proxy/").ends_with("hello\n"));
    scene.cluster.eventually("the service has its end point", || {
        ask(&local, "/api/v1/namespaces/ports/services/web/proxy/").ends_with("hello\n").then_some(())
    });
    let socket = scene.path("socket");
    let mut proxy = scene.background(&["proxy", &format!("--unix-socket={}", socket.display())]);
    assert!(proxy.line().starts_with("Starting to serve on"));
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    write!(stream, "GET /api/ HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("APIVersions"), "{text}");
}

#[test]
fn pods_and_nodes_are_debugged() {
    let scene = scene("debug");
    scene.apply(&pod("web", "exec sleep 1000"));
    scene.ready("web");
    let said = scene.feed(["debug", "web", "--quiet", "-i", "--image=busybox:1", "--", "sh", "-c", "read line; echo looked $line"], b"into it\n");
    assert!(said.out.contains("looked into it"), "{said:?}");
    let said = scene.feed(["debug", "node/node-1", "--quiet", "-i", "--image=busybox:1", "--", "ls", "/host/proc/1/status"], b"");
    assert!(said.out.contains("/host/proc/1/status"), "{said:?}");
}
