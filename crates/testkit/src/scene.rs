//! One real cluster that the tests of a program share: each has a [`Scene`], a namespace of its own with a kubeconfig that points
//! into it, so that they run side by side. The cluster ends with the last scene.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::{RealCluster, kubectl};

static SHARED: Mutex<Weak<RealCluster>> = Mutex::new(Weak::new());

fn shared(start: impl FnOnce() -> RealCluster) -> Arc<RealCluster> {
    // A test that failed while it started a cluster left none; the next one starts another.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let cluster = Arc::new(start());
        *shared = Arc::downgrade(&cluster);
        cluster
    })
}

/// A namespace in the shared cluster, and a folder for files.
pub struct Scene {
    /// The cluster.
    pub cluster: Arc<RealCluster>,
    /// The namespace, which is the kubeconfig's too.
    pub namespace: String,
    folder: tempfile::TempDir,
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Whether it ended well.
    pub success: bool,
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub error: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            success: output.status.success(),
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Scene {
    /// A new namespace; `start` starts the cluster where none runs.
    ///
    /// # Panics
    /// Where the cluster does not start, or the namespace is not made.
    pub fn open(namespace: &str, start: impl FnOnce() -> RealCluster) -> Self {
        let cluster = shared(start);
        let folder = tempfile::Builder::new().prefix("knarr-scene-").tempdir().expect("a temporary folder");
        fs::copy(cluster.kubeconfig(), folder.path().join("kubeconfig")).expect("the administrator's kubeconfig");
        let scene = Self { cluster, namespace: namespace.to_owned(), folder };
        scene.kubectl(["create", "namespace", namespace]);
        scene.kubectl(["config", "set-context", "--current", "--namespace", namespace]);
        // Pods are refused until the namespace's first service account is there.
        scene.cluster.eventually("the service account is there", || scene.try_kubectl(&["get", "serviceaccount", "default"]));
        scene
    }

    /// A file of the test's folder, written.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a temporary file");
        path
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Any program, with the kubeconfig in its environment, no input, and the test's folder as its own.
    pub fn program(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env("KUBECONFIG", self.path("kubeconfig")).env("HOME", self.folder.path()).env("NO_PROXY", "*").env("no_proxy", "*");
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn kubectl_command<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> Command {
        let mut command = self.program(kubectl::kubectl());
        command.args(words);
        command
    }

    /// What a command says, however it ends.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Said {
        command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}")).into()
    }

    /// What a command prints.
    ///
    /// # Panics
    /// Where it fails; the message holds what it said.
    #[track_caller]
    pub fn output(&self, command: &mut Command) -> String {
        let said = self.run(command);
        assert!(said.success, "{command:?} failed: {}\n{}\n{}", said.error, said.out, self.cluster.report());
        said.out
    }

    /// What kubectl prints.
    ///
    /// # Panics
    /// Where it fails.
    #[track_caller]
    pub fn kubectl<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> String {
        self.output(&mut self.kubectl_command(words))
    }

    /// What kubectl prints for a line of words without spaces in them.
    ///
    /// # Panics
    /// Where it fails.
    #[track_caller]
    pub fn k(&self, line: &str) -> String {
        self.kubectl(line.split_whitespace())
    }

    /// What kubectl prints, where it succeeds.
    pub fn try_kubectl(&self, words: &[&str]) -> Option<String> {
        let said = self.run(&mut self.kubectl_command(words));
        said.success.then_some(said.out)
    }

    /// What kubectl says where it must fail.
    ///
    /// # Panics
    /// Where it succeeds.
    #[track_caller]
    pub fn refused(&self, line: &str) -> String {
        let said = self.run(&mut self.kubectl_command(line.split_whitespace()));
        assert!(!said.success, "`kubectl {line}` should have failed; it printed {}", said.out);
        said.error
    }

    /// Says something to kubectl's standard input, and returns what kubectl says.
    ///
    /// # Panics
    /// Where kubectl does not start.
    #[track_caller]
    pub fn feed<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>, input: &[u8]) -> Said {
        let mut command = self.kubectl_command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_owned();
        // On a thread, since a program may fill its output before it reads everything.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let said = child.wait_with_output().expect("kubectl ends").into();
        // A program that ends early closes its input; what it said tells more than that.
        let _ = writer.join();
        said
    }

    /// Applies objects in YAML.
    ///
    /// # Panics
    /// Where they are refused.
    #[track_caller]
    pub fn apply(&self, objects: &str) -> String {
        let said = self.feed(["apply", "-f", "-"], objects.as_bytes());
        assert!(said.success, "these are refused: {}\n{objects}", said.error);
        said.out
    }

    /// kubectl with a terminal of its own, and something typed into it.
    ///
    /// # Panics
    /// Where it does not start.
    #[track_caller]
    pub fn on_a_terminal(&self, words: &str, typed: &str) -> Said {
        let line = format!("stty rows 33 cols 77; {} {words}", kubectl::kubectl().display());
        let mut command = self.program("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("script starts");
        child.stdin.take().expect("a pipe").write_all(typed.as_bytes()).expect("a pipe that is read");
        child.wait_with_output().expect("script ends").into()
    }

    /// kubectl in the background, read line by line; it ends with the value.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn background(&self, words: &[&str]) -> Background {
        let mut child = self.kubectl_command(words).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("kubectl starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Background { child, lines }
    }

    /// Waits for a pod to be Ready.
    ///
    /// # Panics
    /// Where it is not within a minute.
    #[track_caller]
    pub fn ready(&self, pod: &str) {
        self.kubectl(["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=180s"]);
    }

    /// A pod's value at a JSON path.
    ///
    /// # Panics
    /// Where there is no such pod.
    #[track_caller]
    pub fn at(&self, object: &str, path: &str) -> String {
        self.kubectl(["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Waits until an object's value at a JSON path is wanted.
    ///
    /// # Panics
    /// Where it is not within a minute.
    #[track_caller]
    pub fn becomes(&self, object: &str, path: &str, wanted: &str) {
        let words = ["wait", object, &format!("--for=jsonpath={{{path}}}={wanted}"), "--timeout=180s"];
        self.kubectl(words);
    }
}

/// A program in the background.
pub struct Background {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Background {
    /// The next line, without its end.
    ///
    /// # Panics
    /// Where the program ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).expect("a readable pipe") > 0, "the program ended");
        line.trim_end().to_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
