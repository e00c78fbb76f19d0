//! gRPC probes: the standard health service, `grpc.health.v1.Health/Check`, over plain HTTP/2.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{Answer, tcp::{authority, describe}};

/// `HealthCheckResponse.status` of a service that is well.
const SERVING: u64 = 1;

/// Asks for the health of a service; the empty name asks for the server's.
pub async fn probe(host: &str, port: u16, service: &str) -> Answer {
    let address = authority(host, port);
    let stream = match tokio::net::TcpStream::connect((host, port)).await {
        Ok(stream) => stream,
        Err(problem) => {
            return Answer::Failure(format!("timeout: failed to connect service \"{address}\": {}", describe(&problem)));
        }
    };
    match call(stream, &address, service).await {
        Ok(SERVING) => Answer::Success,
        Ok(status) => Answer::Failure(format!("service unhealthy (responded with \"{}\")", name(status))),
        Err(problem) => Answer::Failure(format!("error: health rpc probe failed: {problem}")),
    }
}

fn name(status: u64) -> &'static str {
    match status {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        _ => "SERVICE_UNKNOWN",
    }
}

async fn call(stream: tokio::net::TcpStream, address: &str, service: &str) -> Result<u64, String> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|problem| problem.to_string())?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(request_frame(service)))
        .map_err(|problem| problem.to_string())?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|problem| problem.to_string())?;
        let early = grpc_status(answer.headers());
        let body = answer.into_body().collect().await.map_err(|problem| problem.to_string())?;
        let late = body.trailers().and_then(grpc_status);
        match late.or(early) {
            None | Some((0, _)) => read_response(&body.to_bytes()).ok_or_else(|| "the answer is malformed".to_owned()),
            Some((12, _)) => Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()),
            Some((code, message)) => Err(format!("code {code}: {message}")),
        }
    };
    tokio::select! {
        result = talk => result,
        Err(problem) = connection => Err(problem.to_string()),
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default().to_owned();
    Some((code, message))
}

/// A gRPC frame (no compression, big-endian length) of `HealthCheckRequest { service = 1 }`.
fn request_frame(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// `HealthCheckResponse { status = 1 }` out of a gRPC frame. An absent status is 0.
fn read_response(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, status, ..] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_and_written() {
        assert_eq!(request_frame("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request_frame("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(read_response(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(read_response(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(read_response(&[0, 0]), None);
    }

    /// A server of the health service that answers once: with this status of a service, or this code of gRPC.
    async fn serve(answer: Result<u8, &'static str>) -> (u16, tokio::task::JoinHandle<(String, Bytes)>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = std::sync::Arc::new(parking_lot::Mutex::new(Some(tell)));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let tell = tell.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    drop(tell.lock().take().map(|tell| tell.send((path, body))));
                    let (body, code) = match answer {
                        Ok(status) => (Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), "0"),
                        Err(code) => (Bytes::new(), code),
                    };
                    let answer = http::Response::builder().header("content-type", "application/grpc").header("grpc-status", code).header("grpc-message", "why");
                    Ok::<_, std::convert::Infallible>(answer.body(Full::new(body)).unwrap())
                }
            });
            drop(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
        });
        (port, tokio::spawn(async move { told.await.unwrap() }))
    }

    #[tokio::test]
    async fn a_service_is_well_that_says_so() {
        for (status, expected) in [(1, Answer::Success), (2, Answer::Failure("service unhealthy (responded with \"NOT_SERVING\")".to_owned()))] {
            let (port, asked) = serve(Ok(status)).await;
            assert_eq!(probe("127.0.0.1", port, "db").await, expected);
            let (path, body) = asked.await.unwrap();
            assert_eq!((path.as_str(), body), ("/grpc.health.v1.Health/Check", request_frame("db")));
        }
        let (port, _asked) = serve(Err("12")).await;
        let unknown = "error: health rpc probe failed: this server does not implement the grpc health protocol (grpc.health.v1.Health)";
        assert_eq!(probe("127.0.0.1", port, "").await, Answer::Failure(unknown.to_owned()));
        let (port, _asked) = serve(Err("5")).await;
        assert_eq!(probe("127.0.0.1", port, "x").await, Answer::Failure("error: health rpc probe failed: code 5: why".to_owned()));
    }
}
