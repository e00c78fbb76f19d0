//! Exec, attach and port-forward: other people's streams to and from what runs in a sandbox.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use container_runtime::{ContainerId, ExecOutput, ExecRequest, ExecSession, RuntimeError, SandboxId};
use rustix::pipe::PipeFlags;
use shim::{Message, terminals};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, unix::AsyncFd},
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

use crate::{
    helper::plan::ExecPlan,
    records,
    runtime::Inner,
    sandbox::blocking,
    shim_connection::ShimConnection,
};

/// Most output of a probe or hook that is kept.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// How long output is waited for after a command ended: something it left behind may hold its streams open for ever.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// How long a helper may take to start a command.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A command that runs in a container.
struct Running {
    connection: ShimConnection,
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
}

enum Input {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

enum Output {
    Pipe(pipe::Receiver),
    Terminal(Terminal),
}

/// The outer side of a terminal.
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Inner {
    /// Runs a command and gives its streams.
    pub async fn exec(self: &Arc<Self>, id: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
        let running = self.run(id, request, Bond::None).await?;
        let (finish, exit) = oneshot::channel();
        let Running { mut connection, stdin, stdout, stderr, terminal } = running;
        let resize = terminal.clone().map(resizer);
        tokio::spawn(async move {
            let result = wait_for_exit(&mut connection).await;
            // Nobody waiting is fine: the client left.
            let _ = finish.send(result);
        });
        Ok(ExecSession {
            stdin: stdin.map(|input| Box::new(input) as _),
            stdout: stdout.map(|output| Box::new(output) as _),
            stderr: stderr.map(|output| Box::new(output) as _),
            resize,
            exit,
        })
    }

    /// Runs a command to its end, or to that of the time it has. It ends too where nobody waits for it any more.
    pub async fn exec_sync(self: &Arc<Self>, id: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let request = ExecRequest { command: command.to_vec(), stdout: true, stderr: true, ..ExecRequest::default() };
        let deadline = (!timeout.is_zero()).then(|| tokio::time::Instant::now() + timeout);
        let started = self.run(id, &request, Bond::Caller);
        let mut running = match deadline {
            None => started.await,
            // The shim kills what begins after we left.
            Some(deadline) => tokio::time::timeout_at(deadline, started).await.unwrap_or(Err(RuntimeError::Timeout(timeout))),
        }?;
        let streams = [running.stdout.take(), running.stderr.take()].into_iter().flatten();
        let output = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut readers: tokio::task::JoinSet<()> = streams.map(|stream| collect(stream, Arc::clone(&output))).collect();
        let exit = wait_for_exit(&mut running.connection);
        let code = match deadline {
            None => exit.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, exit).await {
                Ok(code) => code,
                Err(_) => {
                    // It is killed with the connection still open, which names it. If the shim is gone, so is it.
                    let _ = running.connection.send(&Message::new("kill").with_number("signal", i64::from(libc::SIGKILL)), &[]).await;
                    return Err(RuntimeError::Timeout(timeout));
                }
            },
        }?;
        let drain = async { while readers.join_next().await.is_some() {} };
        // What is still open then is held by something that the command left running.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drain).await;
        let output = std::mem::take(&mut *output.lock());
        Ok(ExecOutput { code, output })
    }

    async fn run(self: &Arc<Self>, id: &ContainerId, request: &ExecRequest, bond: Bond) -> Result<Running, RuntimeError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let failed = |reason: String| RuntimeError::Exec { reason, exit_code: None };
        let broken = |doing: &'static str| move |error: io::Error| failed(format!("could not {doing}: {error}"));
        if request.command.is_empty() {
            return Err(failed("you must specify at least one command for the container".to_owned()));
        }
        let (container, sandbox) = self.running(id)?;
        let _permit = self.permits.acquire().await;
        // Unlike those of an earlier agent, which may still be there.
        let number = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let files = Files { plan: container.bundle.join(format!("exec-{number}.json")), console: container.bundle.join(format!("exec-{number}.sock")), log: container.bundle.join(format!("exec-{number}.log")) };
        let console = request.tty.then(|| files.console.clone());
        let listener = match &console {
            Some(path) => Some(terminals::listen(path, terminals::ONE_HELPER).map_err(broken("listen for the terminal"))?),
            None => None,
        };
        let plan = ExecPlan::new(&id.0, container.bundle.clone(), request, console);
        records::write(&files.plan, &plan).map_err(broken("write the command's plan"))?;

        let null = || std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from).map_err(broken("open /dev/null"));
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| broken("make a pipe")(error.into()));
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        let mut theirs = [null()?, null()?, null()?];
        if !request.tty {
            if request.stdin {
                let (read, write) = pipe()?;
                stdin = Some(Input::Pipe(pipe::Sender::from_owned_fd(write).map_err(broken("use a pipe"))?));
                theirs[0] = read;
            }
            if request.stdout {
                let (read, write) = pipe()?;
                stdout = Some(Output::Pipe(pipe::Receiver::from_owned_fd(read).map_err(broken("use a pipe"))?));
                theirs[1] = write;
            }
            if request.stderr {
                let (read, write) = pipe()?;
                stderr = Some(Output::Pipe(pipe::Receiver::from_owned_fd(read).map_err(broken("use a pipe"))?));
                theirs[2] = write;
            }
        }
        let message = self.helper_request("exec", "exec", &files.plan).with("diagnosis", files.log.as_os_str().as_encoded_bytes()).with_number("bound", i64::from(bond == Bond::Caller));
        let started = async {
            let mut connection = ShimConnection::open(&sandbox.directory).await?;
            let answer = connection.ask(&message, &theirs.each_ref().map(AsFd::as_fd)).await?;
            Ok::<_, io::Error>((connection, answer))
        };
        let (connection, answer) = tokio::time::timeout(START_LIMIT, started).await.map_err(|_| failed(format!("it was not started within {START_LIMIT:?}")))?.map_err(broken("talk to the shim"))?;
        // Our copies would keep the streams open after the process closed them.
        drop(theirs);
        if answer.verb() != "started" {
            let result = answer.bytes("result").and_then(|result| Message::take_from(&mut result.to_vec()).ok().flatten());
            let exit_code = result.and_then(|result| result.number("exit_code")).and_then(|code| i32::try_from(code).ok());
            return Err(RuntimeError::Exec { reason: answer.text("error").unwrap_or("the shim did not say why").to_owned(), exit_code });
        }
        let mut terminal = None;
        if let Some(listener) = listener {
            let outer = blocking(move || terminals::receive(&listener)).await.map_err(broken("receive the terminal"))?;
            let outer = Arc::new(watch_descriptor(outer).map_err(broken("use the terminal"))?);
            stdin = request.stdin.then(|| Input::Terminal(Terminal(Arc::clone(&outer))));
            stdout = request.stdout.then(|| Output::Terminal(Terminal(Arc::clone(&outer))));
            terminal = Some(outer);
        }
        Ok(Running { connection, stdin, stdout, stderr, terminal })
    }

    /// Joins the streams of a container's first process.
    pub async fn attach(&self, id: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
        let (container, sandbox) = self.running(id)?;
        let spec = container.record.lock().spec.clone();
        let failed = |source: io::Error| RuntimeError::Io { doing: format!("could not attach to container {}", id.0), source };
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()));
        let mut message = Message::new("attach").with("id", &id.0);
        let mut theirs: Vec<OwnedFd> = Vec::new();
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        if request.stdin && spec.stdin {
            let (read, write) = pipe()?;
            stdin = Some(pipe::Sender::from_owned_fd(write).map_err(failed)?);
            theirs.push(read);
            message = message.with_number("stdin", 1);
        }
        for (wanted, name, ours) in [(request.stdout, "stdout", &mut stdout), (request.stderr && !spec.tty, "stderr", &mut stderr)] {
            if wanted {
                let (read, write) = pipe()?;
                *ours = Some(pipe::Receiver::from_owned_fd(read).map_err(failed)?);
                theirs.push(write);
                message = message.with_number(name, 1);
            }
        }
        let descriptors: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let mut connection = ShimConnection::open(&sandbox.directory).await.map_err(failed)?;
        let answer = connection.ask(&message, &descriptors).await.map_err(failed)?;
        if answer.verb() != "attached" {
            return Err(RuntimeError::NotRunning(id.clone()));
        }
        drop(descriptors);
        drop(theirs);
        let (resize, mut sizes) = mpsc::channel::<(u16, u16)>(4);
        let (finish, exit) = oneshot::channel::<Result<i32, RuntimeError>>();
        tokio::spawn(async move {
            let mut finish = finish;
            let mut resizable = true;
            loop {
                tokio::select! {
                    message = connection.receive() => {
                        let code = message.map(|message| message.number("code").and_then(|code| i32::try_from(code).ok()).unwrap_or(0));
                        // Nobody waiting is fine: the client left.
                        let _ = finish.send(code.map_err(|source| RuntimeError::Io { doing: "the shim went away".to_owned(), source }));
                        return;
                    }
                    size = sizes.recv(), if resizable => match size {
                        Some((columns, rows)) => {
                            let message = Message::new("resize").with_number("columns", i64::from(columns)).with_number("rows", i64::from(rows));
                            if connection.send(&message, &[]).await.is_err() {
                                return;
                            }
                        }
                        None => resizable = false,
                    },
                    // The client left: closing the connection detaches it.
                    () = finish.closed() => return,
                }
            }
        });
        Ok(ExecSession {
            stdin: stdin.map(|input| Box::new(input) as _),
            stdout: stdout.map(|output| Box::new(output) as _),
            stderr: stderr.map(|output| Box::new(output) as _),
            resize: spec.tty.then_some(resize),
            exit,
        })
    }

    /// Connects to a port on a sandbox's loopback address.
    pub async fn connect_port(&self, id: &SandboxId, port: u16) -> Result<tokio::net::TcpStream, RuntimeError> {
        let sandbox = self.sandbox(id).ok_or_else(|| RuntimeError::NoSuchSandbox(id.clone()))?;
        let failed = |source: io::Error| RuntimeError::Io { doing: format!("could not connect to port {port} of sandbox {}: {source}", id.0), source };
        let shim = sandbox.record.lock().shim;
        let namespace = match sandbox.status().network_namespace {
            Some(path) => {
                let namespace = std::fs::File::open(path).map_err(failed)?;
                // The number of a shim that is gone may be that of another pod's by now; what is open stays what it is.
                if !shim.is_some_and(|shim| shim.is_alive()) {
                    return Err(failed(io::Error::new(io::ErrorKind::NotConnected, "the sandbox is gone")));
                }
                Some(namespace)
            }
            None => None,
        };
        let stream = blocking(move || connect_in(namespace, port)).await.map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        tokio::net::TcpStream::from_std(stream).map_err(failed)
    }
}

/// What a command ends with, if not by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bond {
    /// A user's: it goes on when its client has left, as with other runtimes.
    None,
    /// A probe's or hook's: whoever asked for it waits, or has given it up.
    Caller,
}

/// What belongs to one command and goes away with us.
struct Files {
    plan: PathBuf,
    console: PathBuf,
    log: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.plan, &self.console, &self.log] {
            // The helper removes its plan itself, and without a terminal there is no socket.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A descriptor of which tokio tells when it can be read or written.
pub(crate) fn watch_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays the same open descriptor until it is dropped, which AsyncFd does after deregistering it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

async fn wait_for_exit(connection: &mut ShimConnection) -> Result<i32, RuntimeError> {
    loop {
        let message = connection.receive().await.map_err(|source| RuntimeError::Io { doing: "the shim went away".to_owned(), source })?;
        if message.verb() == "exited" {
            return Ok(message.number("code").and_then(|code| i32::try_from(code).ok()).unwrap_or(255));
        }
    }
}

async fn collect(mut stream: Output, output: Arc<parking_lot::Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 8192];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let mut output = output.lock();
        let room = MAX_OUTPUT_BYTES - output.len().min(MAX_OUTPUT_BYTES);
        // The rest is read and dropped, so that the command does not hang on a full pipe.
        output.extend_from_slice(buffer.get(..count.min(room)).unwrap_or_default());
    }
}

fn resizer(terminal: Arc<AsyncFd<OwnedFd>>) -> mpsc::Sender<(u16, u16)> {
    let (resize, mut sizes) = mpsc::channel(4);
    let terminal = Arc::downgrade(&terminal);
    tokio::spawn(async move {
        while let Some((columns, rows)) = sizes.recv().await {
            let Some(terminal) = terminal.upgrade() else { return };
            let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(terminal.get_ref(), size);
        }
    });
    resize
}

/// Connects from inside a network namespace, on a thread that is thrown away: joining one cannot be undone safely.
fn connect_in(namespace: Option<std::fs::File>, port: u16) -> io::Result<std::net::TcpStream> {
    let connect = move || {
        let v4 = std::net::TcpStream::connect_timeout(&std::net::SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(10));
        // A program may listen on IPv6 alone.
        v4.or_else(|error| std::net::TcpStream::connect_timeout(&std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)), Duration::from_secs(10)).map_err(|_| error))
    };
    let Some(namespace) = namespace else { return connect() };
    let thread = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))?;
        connect()
    });
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the connecting thread failed")))
}

impl Terminal {
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|terminal| Ok(rustix::io::read(terminal.get_ref(), &mut *space)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // How a terminal says that nobody has its other side any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|terminal| Ok(rustix::io::write(terminal.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncRead for Output {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_read(context, buffer),
            Self::Terminal(terminal) => terminal.poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_write(context, bytes),
            Self::Terminal(terminal) => terminal.poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe ends when it is dropped; a terminal has no end of input of its own.
        Poll::Ready(Ok(()))
    }
}
