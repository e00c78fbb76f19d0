//! Visitors of a service from outside of the cluster, who come at an even rate, on fresh connections, and never try again.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Requests each second, all on connections of their own.
const RATE: u32 = 200;

/// Threads that send them: each has at most one request under way.
const SENDERS: u32 = 20;

/// What a server answers 200 with, over a connection of its own; otherwise what went wrong.
///
/// # Errors
/// Where there is no connection, no answer within half a minute, or another status.
pub fn exchange(address: SocketAddr, request: &str) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(30)).map_err(text)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(text)?;
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    if answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200") { Ok(answer) } else { Err(format!("not 200: {answer:.100}")) }
}

/// A visitor from outside who never tries again.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    senders: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Begins to ask for a page, of either address by turns.
    ///
    /// # Panics
    /// Never; its threads neither.
    pub fn on(addresses: [SocketAddr; 2], path: &str) -> Self {
        let request: Arc<str> = format!("GET {path} HTTP/1.0\r\n\r\n").into();
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failures: Arc<Mutex<Vec<String>>> = Arc::default();
        let began = Instant::now();
        let sender = |number: u32| {
            let (stop, answered, failures, request) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&failures), Arc::clone(&request));
            std::thread::spawn(move || {
                let mut due = Duration::from_secs(1) * number / RATE;
                while !stop.load(Ordering::Relaxed) {
                    // The beat of the load, not a wait for something to happen.
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    due = (due + Duration::from_secs(1) * SENDERS / RATE).max(began.elapsed());
                    let address = addresses[usize::from(due.subsec_micros() % 2 == 0)];
                    match exchange(address, &request) {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.lock().expect("no sender panics").push(format!("after {:.1} s at {address}: {error}", began.elapsed().as_secs_f64())),
                    }
                }
            })
        };
        let senders = (0..SENDERS).map(sender).collect();
        Self { stop, answered, failures, senders }
    }

    /// Ends it: how many requests were answered, and what failed.
    ///
    /// # Panics
    /// Where a sender did.
    pub fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().expect("no sender panics"));
        (self.answered.load(Ordering::Relaxed), std::mem::take(&mut self.failures.lock().expect("no sender panics")))
    }
}
