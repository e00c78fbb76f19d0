//! What tests and demos run in pods: a small server that tells who answers, and misbehaves on request.
//!
//! Over HTTP (`--http-port`, 8080 unless told):
//! - `/`, `/name`: the host name, which is the pod's; `/client`: the caller's address; `/env`, `/headers`: as JSON
//! - `/sleep?ms=N`: answers late; `/fail?status=N`: answers with that code; `/exit?code=N`: ends the process
//! - `/eat?mebibytes=N`: holds that much memory more from now on
//! - `/healthz`: 200, or 503 after `/healthy?value=false`
//!
//! Over UDP (`--udp-port`, 8081 unless told): `name` is answered with the host name, anything else with itself.
//!
//! SIGTERM ends it once the requests under way are answered; `--drain MILLISECONDS` keeps it accepting for that long first.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::{
    net::{TcpListener, UdpSocket},
    signal::unix::{SignalKind, signal},
};

/// Longest datagram there is.
const DATAGRAM: usize = 65_535;

/// How long requests under way may take after SIGTERM.
const LAST_REQUESTS: Duration = Duration::from_secs(30);

struct State {
    name: String,
    healthy: AtomicBool,
    /// What `/eat` holds.
    eaten: Mutex<Vec<Vec<u8>>>,
}

struct Settings {
    http_port: u16,
    udp_port: u16,
    drain: Duration,
}

fn settings(mut words: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings { http_port: 8080, udp_port: 8081, drain: Duration::ZERO };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let wrong = |_| format!("{word}: {value:?} is no such number");
        match word.as_str() {
            "--http-port" => settings.http_port = value.parse().map_err(wrong)?,
            "--udp-port" => settings.udp_port = value.parse().map_err(wrong)?,
            "--drain" => settings.drain = Duration::from_millis(value.parse().map_err(wrong)?),
            _ => return Err(format!("{word} is unknown; there are --http-port, --udp-port and --drain")),
        }
    }
    Ok(settings)
}

fn answer(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

async fn respond(state: &State, caller: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let query: BTreeMap<String, String> =
        request.uri().query().map(|query| url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()).unwrap_or_default();
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
    match (request.uri().path(), number("ms"), number("status"), number("code"), number("mebibytes")) {
        ("/" | "/name", ..) => answer(StatusCode::OK, state.name.clone()),
        ("/client", ..) => answer(StatusCode::OK, caller.ip().to_canonical().to_string()),
        ("/env", ..) => {
            let variables: BTreeMap<String, String> =
                std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect();
            answer(StatusCode::OK, serde_json::json!(variables).to_string())
        }
        ("/headers", ..) => {
            let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for (name, value) in request.headers() {
                headers.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
            answer(StatusCode::OK, serde_json::json!(headers).to_string())
        }
        ("/sleep", Some(milliseconds), ..) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            answer(StatusCode::OK, state.name.clone())
        }
        ("/fail", _, Some(status), ..) => match u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()) {
            Some(status) => answer(status, "as you asked\n"),
            None => answer(StatusCode::BAD_REQUEST, "status must be a status code\n"),
        },
        ("/exit", _, _, Some(code), _) => std::process::exit(i32::try_from(code).unwrap_or(1)),
        ("/eat", _, _, _, Some(mebibytes)) => {
            let bytes = usize::try_from(mebibytes).unwrap_or(usize::MAX).saturating_mul(1 << 20);
            let mut eaten = Vec::new();
            if eaten.try_reserve_exact(bytes).is_err() {
                return answer(StatusCode::INSUFFICIENT_STORAGE, "there is not that much\n");
            }
            // Written to, so that the kernel really gives it.
            eaten.resize(bytes, 1);
            state.eaten.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(eaten);
            answer(StatusCode::OK, "eaten\n")
        }
        ("/healthy", ..) => match query.get("value").map(String::as_str) {
            Some(value @ ("true" | "false")) => {
                state.healthy.store(value == "true", Ordering::Relaxed);
                answer(StatusCode::OK, format!("healthy={value}\n"))
            }
            _ => answer(StatusCode::BAD_REQUEST, "value must be true or false\n"),
        },
        ("/healthz", ..) if state.healthy.load(Ordering::Relaxed) => answer(StatusCode::OK, "ok\n"),
        ("/healthz", ..) => answer(StatusCode::SERVICE_UNAVAILABLE, "made unhealthy\n"),
        ("/sleep" | "/fail" | "/exit" | "/eat", ..) => answer(StatusCode::BAD_REQUEST, "the query must say how much: ms, status, code or mebibytes\n"),
        (path, ..) => answer(StatusCode::NOT_FOUND, format!("{path} is not here\n")),
    }
}

async fn answer_datagrams(socket: UdpSocket, state: Arc<State>) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((length, caller)) = socket.recv_from(&mut datagram).await else { continue };
        let text = datagram.get(..length).unwrap_or_default();
        let back = if text.trim_ascii() == b"name" { state.name.as_bytes() } else { text };
        // A caller that has gone is no concern of the next one.
        let _ = socket.send_to(back, caller).await;
    }
}

async fn serve(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let state = Arc::new(State { name, healthy: AtomicBool::new(true), eaten: Mutex::default() });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, settings.http_port)).await?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, settings.udp_port)).await?;
    tokio::spawn(answer_datagrams(socket, state.clone()));
    println!("{} serves HTTP on port {} and UDP on port {}", state.name, settings.http_port, settings.udp_port);

    let open = GracefulShutdown::new();
    let asked_to_stop = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        println!("asked to stop");
        tokio::time::sleep(settings.drain).await;
    };
    let mut asked_to_stop = std::pin::pin!(asked_to_stop);
    loop {
        let (stream, caller) = tokio::select! {
            accepted = listener.accept() => match accepted { Ok(accepted) => accepted, Err(_) => continue },
            () = &mut asked_to_stop => break,
        };
        let state = state.clone();
        let service = service_fn(move |request| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(respond(&state, caller, request).await) }
        });
        let connection = open.watch(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A caller that hangs up is no failure.
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST_REQUESTS, open.shutdown()).await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = match settings(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(problem) => {
            eprintln!("probe-server: {problem}");
            return ExitCode::from(2);
        }
    };
    match serve(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("probe-server: {problem}");
            ExitCode::FAILURE
        }
    }
}
