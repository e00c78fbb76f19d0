//! exec, attach and run on a real terminal that changes its size, with kubectl of today and of old.

use std::path::Path;

use serde_json::{Value, json};
use testkit::{Scene, kubectl::client_program, scene::Said};

use crate::{pod, scene};

const KUBECTLS: [&str; 2] = ["kubectl", "kubectl-1.20"];

/// What a command shows on a terminal while things are typed and the size changes; see `terminal.py`.
fn on_a_terminal(scene: &Scene, kubectl: &Path, words: &[&str], steps: &Value) -> Said {
    let program = scene.file("terminal.py", include_str!("terminal.py"));
    let mut command = scene.program("python3");
    command.arg(program).arg(steps.to_string()).arg(kubectl).args(words).env("TERM", "xterm");
    scene.run(&mut command)
}

#[test]
fn a_shell_on_a_terminal_is_typed_into_resized_interrupted_and_left() {
    let scene = scene("terminal");
    scene.apply(&pod("shell", "exec sleep 1000"));
    scene.ready("shell");
    for kubectl in KUBECTLS {
        let steps = json!([
            ["wait", "# "],
            ["type", "until stty size | grep 0; do sleep 0.1; done; tty\n"], ["wait", "24 80"], ["wait", "/dev/pts/"],
            ["size", 50, 132],
            // A size travels beside what is typed, and may come after it.
            ["type", "until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; echo resi\"zed\"\n"], ["wait", "resized"],
            ["type", "sh -c 'echo be\"gun\"; exec sleep 1000'\n"], ["wait", "begun"], ["type", "\u{3}"], ["wait", "# "],
            ["type", "echo interr\"upted\" $?\n"], ["wait", "interrupted 130"],
            ["type", "exit 7\n"],
        ]);
        let said = on_a_terminal(&scene, &client_program(kubectl), &["exec", "-i", "-t", "shell", "--", "sh"], &steps);
        assert_eq!(said.code, Some(7), "{kubectl}: {said:?}");
        let steps = json!([["wait", "# "], ["type", "\u{4}"]]);
        let said = on_a_terminal(&scene, &client_program(kubectl), &["exec", "-i", "-t", "shell", "--", "sh"], &steps);
        assert_eq!(said.code, Some(0), "{kubectl}: the end of input ends a shell: {said:?}");
    }
}

#[test]
fn a_pod_with_a_terminal_is_attached_to_again_and_again() {
    let scene = scene("terminal-attach");
    for (number, kubectl) in KUBECTLS.iter().enumerate() {
        let name = format!("shell-{number}");
        let objects = pod(&name, "exec sh -i").replace("name: main,", "name: main, stdin: true, tty: true,");
        scene.apply(&objects);
        scene.ready(&name);
        let line = ["attach", "-i", "-t", &name];
        // Nothing detaches kubectl, so its terminal is closed under it.
        let first = json!([["type", "\n"], ["wait", "# "], ["type", "word=kept; until stty size | grep 0; do sleep 0.1; done\n"], ["wait", "24 80"], ["size", 40, 100],
            ["type", "until [ \"$(stty size)\" = '40 100' ]; do sleep 0.1; done; echo resi\"zed\"\n"], ["wait", "resized"], ["hang up"]]);
        let said = on_a_terminal(&scene, &client_program(kubectl), &line, &first);
        assert_eq!(said.code, Some(0), "{kubectl}: {said:?}");
        let again = json!([["type", "echo it is $word\n"], ["wait", "it is kept"], ["type", "exit 3\n"]]);
        let said = on_a_terminal(&scene, &client_program(kubectl), &line, &again);
        assert!(said.out.contains("it is kept"), "{kubectl}: {said:?}");
        scene.becomes(&format!("pod/{name}"), ".status.containerStatuses[0].restartCount", "1");
        let code = scene.at(&format!("pod/{name}"), ".status.containerStatuses[0].lastState.terminated.exitCode");
        assert_eq!(code, "3", "{kubectl}");
    }
}

#[test]
fn a_pod_is_run_on_a_terminal_and_removed() {
    let scene = scene("terminal-run");
    for kubectl in KUBECTLS {
        let steps = json!([["wait", "# "], ["type", "until stty size | grep 0; do sleep 0.1; done; echo from \"here\"\n"], ["wait", "24 80"], ["wait", "from here"], ["type", "exit 5\n"]]);
        let words = ["run", "shell", "-i", "-t", "--rm", "--restart=Never", "--image=busybox:1", "--", "sh"];
        let said = on_a_terminal(&scene, &client_program(kubectl), &words, &steps);
        assert!(said.out.contains("from here"), "{kubectl}: {said:?}");
        assert_eq!(said.code, Some(5), "{kubectl}: {said:?}");
        scene.refused("get pod shell");
    }
}
