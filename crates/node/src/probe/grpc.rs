//! gRPC probes: the standard health service, `grpc.health.v1.Health/Check`, over plain HTTP/2.

use streaming::grpc::{self, CallError};

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
    match grpc::call(stream, address, "/grpc.health.v1.Health/Check", "kube-probe/1.36", &request(service)).await {
        Ok(answer) => read_response(&answer).ok_or_else(|| CallError::Malformed.to_string()),
        Err(CallError::Refused { code: grpc::UNIMPLEMENTED, .. }) => Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `HealthCheckRequest { service = 1 }`
fn request(service: &str) -> Vec<u8> {
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
    message
}

/// `HealthCheckResponse { status = 1 }`. An absent status is 0.
fn read_response(message: &[u8]) -> Option<u64> {
    match message {
        [] => Some(0),
        [0x08, status, ..] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    #[test]
    fn messages_are_read_and_written() {
        assert!(request("").is_empty());
        assert_eq!(request("ab"), [0x0a, 2, b'a', b'b']);
        assert_eq!(read_response(&[8, 1]), Some(SERVING));
        assert_eq!(read_response(&[]), Some(0));
        assert_eq!(read_response(&[9]), None);
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
            assert_eq!((path.as_str(), body), ("/grpc.health.v1.Health/Check", grpc::framed(&request("db"))));
        }
        let (port, _asked) = serve(Err("12")).await;
        let unknown = "error: health rpc probe failed: this server does not implement the grpc health protocol (grpc.health.v1.Health)";
        assert_eq!(probe("127.0.0.1", port, "").await, Answer::Failure(unknown.to_owned()));
        let (port, _asked) = serve(Err("5")).await;
        assert_eq!(probe("127.0.0.1", port, "x").await, Answer::Failure("error: health rpc probe failed: code 5: why".to_owned()));
    }
}
