//! For tests: a server that is killed in the middle of its work, again and again, on one directory.
//!
//! The test starts this test binary anew as the victim, which tells its acknowledgements on its standard output.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rand::Rng;
use store::Revision;

use crate::witness::{Witness, perform};
use crate::{EmbeddedStore, Options};

const ROUNDS: u64 = 60;
const WRITERS: u64 = 8;

/// Where the victim finds its directory and its round; without it the victim's test does nothing.
const DIRECTORY: &str = "KNARR_TEST_VICTIM_DIRECTORY";
const ROUND: &str = "KNARR_TEST_VICTIM_ROUND";

fn key(round: u64, writer: u64, operation: u64) -> (String, u64) {
    // Three keys in turn for each writer, so that each sees several operations.
    (format!("/round/{round}/{writer}/{}", operation % 3), operation / 3 + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = EmbeddedStore::open(Path::new(&directory), Options::default()).unwrap();
    let write = |writer: u64| {
        let store = store.clone();
        async move {
            let mut before: [Option<Revision>; 3] = [None; 3];
            for operation in 0_u64.. {
                let (key, number) = key(round, writer, operation);
                let place = &mut before[operation as usize % 3];
                let (revision, after) = perform(&*store, &key, number, *place).await.unwrap();
                *place = after;
                // One line is one `write`, so the parent reads it whole or not at all.
                let line = format!("ack {writer} {operation} {revision}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        }
    };
    futures::future::join_all((0..WRITERS).map(|writer| tokio::spawn(write(writer)))).await;
}

#[test]
fn after_every_kill_each_acknowledged_write_is_there_once_and_none_half() {
    let directory = tempfile::tempdir().unwrap();
    let mut witness = Witness::default();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::victim", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut until_killed = rand::rng().random_range(1..300);
        for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The test harness begins the first line with the test's name.
            let Some((_, acknowledgement)) = line.split_once("ack ") else { continue };
            let words: Vec<_> = acknowledgement.split(' ').collect();
            let &[writer, operation, revision] = words.as_slice() else { panic!("half a line: {line}") };
            let (writer, operation) = (writer.parse().unwrap(), operation.parse().unwrap());
            let (acknowledged_key, number) = key(round, writer, operation);
            witness.acknowledged(&acknowledged_key, number, revision.parse().unwrap());
            // The next operation of this writer may be on its way already.
            let (next_key, next_number) = key(round, writer, operation + 1);
            witness.issued(&next_key, next_number);
            acknowledged += 1;
            until_killed -= 1;
            if until_killed == 0 {
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
        // A writer's first operation may have happened unacknowledged.
        for writer in 0..WRITERS {
            let (first_key, number) = key(round, writer, 0);
            let known = witness.keys.entry(first_key).or_default();
            known.issued = known.issued.max(number);
        }
        let store = EmbeddedStore::open(directory.path(), Options::default()).unwrap();
        witness.check(&*store);
    }
    assert!(acknowledged >= ROUNDS, "only {acknowledged} writes were acknowledged in {ROUNDS} rounds");
}
