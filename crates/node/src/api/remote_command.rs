//! exec, attach, port-forward and run: a client's streams connected with a process.

use std::sync::Arc;

use container_runtime::{ContainerStatus, ExecRequest, ExecSession, RuntimeError};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use streaming::{Outcome, RemoteCommand, StreamOptions, serve_port_forward, serve_remote_command};
use tokio::io::{AsyncRead, AsyncWriteExt};

use super::{Body, full, text};
use crate::{config::Context, pod::worker::View};

/// Longest time for `/run`.
const RUN_LIMIT: std::time::Duration = std::time::Duration::from_secs(3600);

/// Runs a command in a container.
pub fn exec(context: &Arc<Context>, container: &ContainerStatus, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let command: Vec<String> =
        url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "command").map(|(_, value)| value.into_owned()).collect();
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command");
    }
    let options = match StreamOptions::from_query(query) {
        Ok(options) => options,
        Err(problem) => return plain(problem.response()),
    };
    let (runtime, id) = (context.config.runtime.clone(), container.id.clone());
    let answer = serve_remote_command(request, options, move |streams| async move {
        match runtime.exec(&id, &exec_request(command, options)).await {
            Ok(session) => connect(streams, session).await,
            Err(problem) => not_run(streams, problem).await,
        }
    });
    plain(answer)
}

/// Joins the streams of a container's first process.
pub fn attach(context: &Arc<Context>, container: &ContainerStatus, request: Request<Incoming>) -> Response<Body> {
    let options = match StreamOptions::from_query(request.uri().query().unwrap_or_default()) {
        // The container decides whether there is a terminal, not the caller.
        Ok(options) => StreamOptions { tty: container.spec.tty, stderr: options.stderr && !container.spec.tty, ..options },
        Err(problem) => return plain(problem.response()),
    };
    let (runtime, id) = (context.config.runtime.clone(), container.id.clone());
    let answer = serve_remote_command(request, options, move |streams| async move {
        match runtime.attach(&id, &exec_request(Vec::new(), options)).await {
            // The exit code of the container itself is told by its status, not by who looked on.
            Ok(session) => match connect(streams, session).await {
                Outcome::ExitCode(_) => Outcome::Success,
                other => other,
            },
            Err(problem) => Outcome::Failure(problem.to_string()),
        }
    });
    plain(answer)
}

/// Forwards connections to ports of a pod.
pub fn port_forward(context: &Arc<Context>, view: &View, request: Request<Incoming>) -> Response<Body> {
    let Some(sandbox) = view.sandbox.clone() else {
        return text(StatusCode::NOT_FOUND, "the pod has no sandbox: it is not running");
    };
    let runtime = context.config.runtime.clone();
    plain(serve_port_forward(request, move |port| {
        let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
        async move { runtime.connect_port(&sandbox, port).await.map_err(std::io::Error::other) }
    }))
}

/// Runs a command to its end and answers with its output.
pub async fn run(context: &Context, container: &ContainerStatus, query: &str) -> Response<Body> {
    let command = super::parameter(query, "cmd").unwrap_or_default();
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    match context.config.runtime.exec_sync(&container.id, &command, RUN_LIMIT).await {
        Ok(output) => super::answer(StatusCode::OK, "text/plain; charset=utf-8", full(output.output)),
        Err(problem) => text(StatusCode::INTERNAL_SERVER_ERROR, problem.to_string()),
    }
}

fn exec_request(command: Vec<String>, options: StreamOptions) -> ExecRequest {
    ExecRequest { command, tty: options.tty, stdin: options.stdin, stdout: options.stdout, stderr: options.stderr }
}

fn plain(answer: Response<bytes::Bytes>) -> Response<Body> {
    answer.map(full)
}

/// A command that could not be run: its caller sees why, and the exit code a shell would give.
async fn not_run(mut streams: RemoteCommand, problem: RuntimeError) -> Outcome {
    let RuntimeError::Exec { exit_code: Some(code), .. } = &problem else { return Outcome::Failure(problem.to_string()) };
    if let Some(target) = streams.stderr.as_mut().or(streams.stdout.as_mut()) {
        // A caller that is gone needs no explanation.
        drop(target.write_all(format!("{problem}\r\n").as_bytes()).await);
    }
    Outcome::of_exit_code(*code)
}

/// Copies everything both ways until the process has ended and all it wrote is passed on, or the client is gone.
async fn connect(streams: RemoteCommand, session: ExecSession) -> Outcome {
    let RemoteCommand { stdin, stdout, stderr, sizes, disconnected, .. } = streams;
    let input = async {
        if let (Some(mut from), Some(mut to)) = (stdin, session.stdin) {
            // An error means that one of the sides has ended, which the others notice.
            drop(tokio::io::copy(&mut from, &mut to).await);
            drop(to.shutdown().await);
        }
        std::future::pending::<()>().await;
    };
    let resizing = async {
        if let (Some(mut sizes), Some(resize)) = (sizes, session.resize) {
            while let Some(size) = sizes.next().await {
                if resize.send((size.width, size.height)).await.is_err() {
                    break;
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let output = async {
        tokio::join!(pass(session.stdout, stdout), pass(session.stderr, stderr));
    };
    let exit = session.exit;
    let ended = async {
        let (exit, ()) = tokio::join!(exit, output);
        match exit {
            Ok(Ok(code)) => Outcome::of_exit_code(code),
            Ok(Err(problem)) => Outcome::Failure(problem.to_string()),
            Err(_) => Outcome::Failure("the runtime lost the process".to_owned()),
        }
    };
    tokio::select! {
        outcome = ended => outcome,
        () = input => Outcome::Success,
        () = resizing => Outcome::Success,
        () = disconnected.cancelled() => Outcome::Failure("the client is gone".to_owned()),
    }
}

async fn pass(from: Option<Box<dyn AsyncRead + Send + Unpin>>, to: Option<streaming::ChannelWriter>) {
    let Some(mut from) = from else { return };
    match to {
        Some(mut to) => {
            if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                drop(to.shutdown().await);
            }
        }
        // Nobody wants it, but the process must not stand still for it.
        None => drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await),
    }
}
