//! TCP probes: whoever accepts a connection is well.

use super::Answer;

/// Connects and hangs up.
pub async fn probe(host: &str, port: u16) -> Answer {
    match tokio::net::TcpStream::connect((host, port)).await {
        Ok(stream) => {
            // No lingering TIME_WAIT for a connection that carried nothing: thousands of probes would fill the table.
            drop(stream.set_zero_linger());
            Answer::Success
        }
        Err(problem) => Answer::Failure(format!("dial tcp {}: connect: {}", authority(host, port), describe(&problem))),
    }
}

/// `host:port`, with brackets around IPv6 addresses.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The kernel's answer in its usual words.
#[must_use]
pub fn describe(problem: &std::io::Error) -> String {
    match problem.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => problem.to_string(),
    }
}
