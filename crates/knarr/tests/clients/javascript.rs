//! The JavaScript client, `@kubernetes/client-node`: informers, also through cut connections and lost history, watches, commands, logs,
//! ports, server-side apply. It has no election of leaders; `client.mjs` brings one, on its Lease.

use testkit::kubectl::client_program;

use crate::{scene, server};

#[test]
fn the_javascript_client_does_what_such_clients_do() {
    let scene = scene("javascript");
    scene.apply(&server("web", "mkdir /page; echo hello > /page/index.html; echo started; exec httpd -f -p 8080 -h /page"));
    scene.ready("web");
    // Node looks for modules in the folders above a program, not in an environment variable.
    let program = scene.file("client.mjs", include_str!("client.mjs"));
    std::os::unix::fs::symlink(client_program("javascript").join("node_modules"), scene.path("node_modules")).unwrap();
    let said = scene.output(scene.program("node").arg(program));
    assert!(said.ends_with("all is well\n"), "{said}");
}
