//! The Python client: it lists, watches, also through cut connections and lost history, patches, runs commands, forwards ports, applies and
//! elects leaders, of whom one dies.

use testkit::kubectl::client_program;

use crate::{scene, server};

#[test]
fn the_python_client_does_what_such_clients_do() {
    let scene = scene("python");
    scene.apply(&server("web", "mkdir /page; echo hello > /page/index.html; echo started; exec httpd -f -p 8080 -h /page"));
    scene.ready("web");
    let program = scene.file("client.py", include_str!("client.py"));
    let said = scene.output(scene.program("python3").arg(program).env("PYTHONPATH", client_program("python")));
    assert!(said.ends_with("all is well\n"), "{said}");
}
