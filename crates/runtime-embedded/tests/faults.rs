//! Agents, shims and helpers killed at random moments of pods' lives, over and over: no container may be lost, no exit code
//! may be wrong, and nothing may be left behind.
//!
//! `KNARR_FAULT_ROUNDS` sets how often; `KNARR_FAULT_SEED` repeats a run, which prints its seed.

mod support;

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use container_runtime::{ContainerExit, ContainerRuntime, ContainerState, ContainerStatus};
use rand::{Rng, SeedableRng, rngs::StdRng};
use runtime_embedded::EmbeddedRuntime;
use support::{Node, container, until};

/// Set for the process that plays the agent: its directory.
const AGENT: &str = "KNARR_TEST_FAULTY_AGENT";
/// Set for it too: from what its random numbers come.
const AGENT_SEED: &str = "KNARR_TEST_FAULTY_AGENT_SEED";
/// The annotation with the code that a container's program ends with.
const EXPECTED: &str = "expected";

/// Who is killed in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Shim,
    Helper,
}

/// Not a test of its own: run in a process of its own, it makes and removes pods until it is killed. A line that begins
/// with `wrong` tells of something that must not be.
#[test]
fn the_agent_that_makes_pods() {
    let Some(directory) = std::env::var_os(AGENT).map(PathBuf::from) else { return };
    let seed: u64 = std::env::var(AGENT_SEED).unwrap().parse().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let runtime = EmbeddedRuntime::open(options(&directory)).await.unwrap();
        println!("ready");
        let runtime = &runtime;
        let lanes = (0..3).map(|lane| {
            let (directory, mut random) = (directory.clone(), StdRng::seed_from_u64(seed.wrapping_add(lane)));
            async move {
                for number in 0.. {
                    live_a_life(runtime, &directory, &format!("p{seed}-{lane}-{number}"), &mut random).await;
                }
            }
        });
        futures::future::join_all(lanes).await;
    });
}

/// One pod from its beginning to its removal. What fails because of a kill is passed over: the next pod comes.
async fn live_a_life(runtime: &EmbeddedRuntime, directory: &Path, name: &str, random: &mut StdRng) {
    let image = runtime.image_status("busybox").await.unwrap().unwrap().id;
    let Ok(sandbox) = runtime.run_sandbox(&support::sandbox_spec(directory, name)).await else { return };
    for container_name in ["one", "two"] {
        let (code, pause) = (random.random_range(1..100), random.random_range(0..20));
        let script = format!("sleep 0.{pause:02}; exit {code}");
        let mut spec = container(container_name, &image, &["/bin/sh", "-c", &script]);
        spec.annotations.insert(EXPECTED.to_owned(), code.to_string());
        let Ok(id) = runtime.create_container(&sandbox.id, &spec).await else { continue };
        if runtime.start_container(&id).await.is_err() {
            continue;
        }
        for _ in 0..500 {
            let Ok(status) = runtime.container_status(&id).await else { break };
            if let Some(problem) = problem_of(&status) {
                println!("wrong {problem}");
            }
            if matches!(status.state, ContainerState::Exited { .. }) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    if let Err(problem) = runtime.remove_sandbox(&sandbox.id).await {
        println!("note: {name} could not be removed: {problem}");
    }
}

fn options(directory: &Path) -> runtime_embedded::Options {
    let mut options = runtime_embedded::Options::new(directory.join("data"), directory.join("run"));
    options.cgroup_root = directory.file_name().unwrap().to_string_lossy().into_owned();
    options.helper = runtime_embedded::Helper { program: env!("CARGO_BIN_EXE_runtime-embedded-helper").into(), arguments: Vec::new() };
    options
}

/// What is wrong with what the runtime says of a container: an end must be the true one, or say that it is not known, or
/// why the program never ran.
fn problem_of(status: &ContainerStatus) -> Option<String> {
    let ContainerState::Exited { exit, started_at } = &status.state else { return None };
    let expected: i32 = status.spec.annotations[EXPECTED].parse().unwrap();
    let ContainerExit { code, unknown, message, .. } = exit;
    let never_ran = started_at.is_none() && *code == 128 && !message.is_empty();
    let is_right = *code == expected || *unknown && *code == 137 || never_ran;
    (!is_right).then(|| format!("container {} of {:?} ended with {exit:?} instead of {expected}", status.spec.name, status.sandbox))
}

/// Processes of a node: helpers name a plan in the node's directory, shims work in it.
fn processes(node: &str, victim: Victim) -> Vec<i32> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|pid| pid.parse::<i32>().ok()) else { continue };
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let place = std::fs::read_link(process.path().join("cwd")).map(|path| path.display().to_string()).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let helps = arguments.contains("runtime-helper");
        let (is_helper, is_shim) = (helps && arguments.contains(node), !helps && place.contains(node));
        if victim == Victim::Helper && is_helper || victim == Victim::Shim && is_shim {
            found.push(pid);
        }
    }
    found
}

fn kill(pid: i32) {
    // It may have ended by itself meanwhile.
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
}

fn start_agent(directory: &Path, seed: u64) -> (Child, std::thread::JoinHandle<Vec<String>>) {
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_agent_that_makes_pods", "--nocapture"])
        .env(AGENT, directory)
        .env(AGENT_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(agent.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("ready")), "the agent does not start");
    (agent, std::thread::spawn(move || lines.filter(|line| line.starts_with("wrong")).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_whenever_no_exit_code_is_wrong_and_nothing_is_left() {
    let rounds: u64 = std::env::var("KNARR_FAULT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(200);
    let seed: u64 = std::env::var("KNARR_FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("KNARR_FAULT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut node, _) = Node::with_busybox().await;
    let name = node.directory.path().file_name().unwrap().to_string_lossy().into_owned();
    for round in 0..rounds {
        let victim = [Victim::Agent, Victim::Shim, Victim::Helper][usize::try_from(round % 3).unwrap()];
        drop(node.runtime.take());
        let (mut agent, listener) = start_agent(node.directory.path(), seed.wrapping_add(round * 100));
        // Random moments are what this test is about.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
        if victim != Victim::Agent {
            // A helper lives for some milliseconds only: look until one is there.
            let found = (0..2000).find_map(|_| processes(&name, victim).first().copied());
            kill(found.unwrap_or_else(|| panic!("round {round}: there is no {victim:?} to kill")));
            tokio::time::sleep(Duration::from_millis(random.random_range(50..250))).await;
        }
        agent.kill().unwrap();
        agent.wait().unwrap();
        assert_eq!(listener.join().unwrap(), Vec::<String>::new(), "round {round}, {victim:?} killed");

        // The next agent finds everything, and the truth about it.
        node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
        for status in node.runtime().list_containers(None).await.unwrap() {
            let status = if matches!(status.state, ContainerState::Running { .. }) { node.wait_for_exit(&status.id).await } else { status };
            assert_eq!(problem_of(&status), None, "round {round}, {victim:?} killed");
            if victim == Victim::Agent && let ContainerState::Exited { exit, .. } = &status.state {
                assert!(!exit.unknown, "round {round}: its shim lives, so its end is known: {exit:?}");
            }
        }
        for sandbox in node.runtime().list_sandboxes().await.unwrap() {
            node.runtime().remove_sandbox(&sandbox.id).await.unwrap();
        }
        assert_eq!(node.runtime().list_containers(None).await.unwrap(), Vec::new());
        until("the last process is gone", || processes(&name, Victim::Shim).is_empty() && processes(&name, Victim::Helper).is_empty()).await;
        let left = traces(&node, &name);
        assert!(left.is_empty(), "round {round}, {victim:?} killed; left behind: {left:#?}");
    }
    node.finish().await;
}

/// What pods leave where they leave something: mounts, cgroups, directories.
fn traces(node: &Node, name: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left: Vec<String> = mounts.lines().filter(|line| line.contains(name) && line.contains("/sandboxes/")).map(str::to_owned).collect();
    let mut below = |directory: PathBuf| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        left.extend(entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().display().to_string()));
    };
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        below(hierarchy.path().join(name).join("burstable"));
    }
    below(Path::new("/sys/fs/cgroup").join(name).join("burstable"));
    below(node.options.run_directory.join("sandboxes"));
    left
}
