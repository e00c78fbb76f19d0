//! The one thread that writes: takes what is queued, judges it, makes it durable as one batch, publishes, acknowledges.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use parking_lot::Mutex;
use store::transformer::configured::{Rule, Rules};
use store::timeline::Happened;
use store::{Change, Expect, Revision, StoreError, StoreKey, StoredValue, Timeline, ValueTransformer};
use tokio::sync::oneshot;

use crate::batch::{BatchBuilder, Deadline};
use crate::disk::Medium;
use crate::expiry::Expiry;
use crate::ledger::{Cleaning, Ledger};
use crate::lock::DirectoryLock;
use crate::log::{Log, LogError};

/// A batch takes no more requests than this, or than so many bytes, so that nobody waits long for the others.
const MOST_REQUESTS: usize = 1024;
const MOST_BYTES: usize = 4 * 1024 * 1024;

type Outcome = Result<Revision, StoreError>;
type Answer = oneshot::Sender<Outcome>;

pub(crate) enum Request {
    Write(WriteRequest),
    /// Values are encrypted by other rules from now on.
    Rules(Vec<Rule>),
    /// Answers when everything is closed and released.
    Close(Option<oneshot::Sender<()>>),
}

pub(crate) struct WriteRequest {
    pub(crate) key: StoreKey,
    pub(crate) expect: Expect,
    pub(crate) change: Change,
    pub(crate) answer: Answer,
}

pub(crate) struct Writer {
    /// Unbounded: each request has a caller who waits for it, and those are bounded elsewhere.
    pub(crate) requests: Receiver<Request>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) medium: Arc<dyn Medium>,
    pub(crate) transformer: Arc<dyn ValueTransformer>,
    pub(crate) rules: Rules,
    pub(crate) reserve_bytes: u64,
    /// None after a full disk, until it is opened again, and when poisoned.
    pub(crate) log: Option<Log>,
    pub(crate) last_batch: u64,
    pub(crate) ledger: Ledger,
    pub(crate) expiry: Expiry,
    /// Of the last durable batch.
    pub(crate) newest: Revision,
    pub(crate) poisoned: Option<StoreError>,
    /// Told to callers when this thread is gone.
    pub(crate) ended: Arc<Mutex<Option<StoreError>>>,
    pub(crate) lock: Option<DirectoryLock>,
}

/// What one batch is going to be.
struct Round {
    builder: BatchBuilder,
    newest: Revision,
    /// What keys will be once the batch is durable; later requests of the round are judged by it.
    overlay: HashMap<StoreKey, Option<StoredValue>>,
    happened: Vec<Happened>,
    puts: Vec<(StoreKey, Revision)>,
    deadlines: Vec<(StoreKey, Revision, Deadline)>,
    /// Given when the batch is durable: not before, not even a conflict with something that might yet fail.
    answers: Vec<(Answer, Outcome)>,
}

/// What the medium has room for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    None,
    Deletions,
    Everything,
}

impl Writer {
    pub(crate) fn run(mut self) {
        let ended = Arc::clone(&self.ended);
        let timeline = Arc::clone(&self.timeline);
        let place = self.medium.place();
        let closed = std::panic::catch_unwind(AssertUnwindSafe(move || {
            let closed = self.serve();
            // Released before anybody hears that the store is closed.
            drop(self.log.take());
            drop(self.lock.take());
            closed
        }));
        let reason = match &closed {
            Ok(_) => StoreError::Closed,
            Err(_) => {
                tracing::error!(place, "the store's writing thread panicked; nothing more is written");
                StoreError::Poisoned { place, reason: "the writing thread panicked".to_owned() }
            }
        };
        *ended.lock() = Some(reason.clone());
        if let Ok(closed) = closed {
            // After a panic what is in memory is still good to read.
            timeline.close(reason);
            if let Some(closed) = closed {
                let _ = closed.send(());
            }
        }
    }

    /// Works until it is told to close; returns whom to tell.
    fn serve(&mut self) -> Option<oneshot::Sender<()>> {
        loop {
            let first = match self.expiry.next() {
                None => self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => self.requests.recv_timeout(deadline.time_from(Deadline::now())),
            };
            let mut next = match first {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            };
            let mut writes = Vec::new();
            let mut bytes = 0;
            let mut closing = None;
            while let Some(request) = next.take() {
                match request {
                    Request::Write(write) => {
                        if let Change::Put { value, .. } = &write.change {
                            bytes += value.len();
                        }
                        writes.push(write);
                    }
                    // Nothing of this round is sealed yet.
                    Request::Rules(rules) => self.rules.replace(rules, self.newest),
                    Request::Close(closed) => {
                        closing = Some(closed);
                        break;
                    }
                }
                if writes.len() < MOST_REQUESTS && bytes < MOST_BYTES {
                    next = self.requests.try_recv().ok();
                }
            }
            self.round(writes);
            if let Some(closed) = closing {
                return closed;
            }
        }
    }

    fn round(&mut self, writes: Vec<WriteRequest>) {
        let now = Deadline::now();
        let due = self.expiry.due(now, MOST_REQUESTS);
        if writes.is_empty() && due.is_empty() {
            return;
        }
        if !due.is_empty() {
            self.expiry.pause(now);
        }
        let room = match self.ready_to_write() {
            Ok(room) => room,
            Err(error) => {
                for write in writes {
                    // A caller that is gone needs no answer, here and below.
                    let _ = write.answer.send(Err(error.clone()));
                }
                return;
            }
        };
        let mut round = Round::new(self.newest);
        for write in writes {
            self.judge(write, room, now, &mut round);
        }
        if room >= Room::Deletions {
            for (key, revision) in due {
                if self.current(&key, &round).is_some_and(|value| value.revision == revision) {
                    round.delete(key);
                }
            }
        }
        if round.happened.is_empty() {
            // Nothing to make durable; conflicts with what is durable already were answered at once.
            return;
        }
        let cleaning = self.take_over(&mut round);
        match self.append(round, cleaning) {
            Ok(()) => {}
            Err((error, answers)) => {
                for (answer, _) in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Opens the log again after a full disk; tells what there is room for.
    fn ready_to_write(&mut self) -> Result<Room, StoreError> {
        if let Some(poisoned) = &self.poisoned {
            return Err(poisoned.clone());
        }
        // Where the file system does not say, the write itself will.
        let free = self.medium.free_bytes().unwrap_or(u64::MAX);
        let room = if free >= self.reserve_bytes {
            Room::Everything
        } else if free >= self.reserve_bytes / 2 {
            Room::Deletions
        } else {
            Room::None
        };
        if self.log.is_none() {
            if room == Room::None {
                return Err(self.no_space());
            }
            match Log::open(&*self.medium) {
                Ok(log) if log.numbers().map(|numbers| *numbers.end()) == Some(self.last_batch) => {
                    tracing::info!(place = self.medium.place(), "the store writes again");
                    self.log = Some(log);
                }
                Ok(_) => return Err(self.poison("the log does not end where it did before the disk was full".to_owned())),
                Err(LogError::Full) => return Err(self.no_space()),
                Err(error) => return Err(self.poison(error.to_string())),
            }
        }
        Ok(room)
    }

    fn current(&self, key: &StoreKey, round: &Round) -> Option<StoredValue> {
        match round.overlay.get(key) {
            Some(pending) => pending.clone(),
            None => self.timeline.peek(key),
        }
    }

    fn judge(&self, write: WriteRequest, room: Room, now: Deadline, round: &mut Round) {
        let WriteRequest { key, expect, change, answer } = write;
        let current = self.current(&key, round);
        if !expect.holds(current.as_ref()) {
            let conflict = Err(StoreError::Conflict { current });
            if round.overlay.contains_key(&key) {
                round.answers.push((answer, conflict));
            } else {
                let _ = answer.send(conflict);
            }
            return;
        }
        let needs = if matches!(change, Change::Delete) { Room::Deletions } else { Room::Everything };
        if room < needs {
            let _ = answer.send(Err(self.no_space()));
            return;
        }
        match change {
            Change::Delete => {
                let revision = round.delete(key);
                round.answers.push((answer, Ok(revision)));
            }
            Change::Put { value, expires_after } => {
                let revision = round.newest.next();
                let deadline = expires_after.map(|lifetime| now.after(lifetime));
                let seal = |sealed: &mut Vec<u8>| self.transformer.seal(&key, &value, sealed);
                if let Err(error) = round.builder.put(&key, revision, deadline, seal) {
                    let _ = answer.send(Err(StoreError::Unavailable(error.to_string())));
                    return;
                }
                round.newest = revision;
                round.puts.push((key.clone(), revision));
                round.deadlines.extend(deadline.map(|deadline| (key.clone(), revision, deadline)));
                let stored = StoredValue { value, revision, stale_encryption: false };
                round.overlay.insert(key.clone(), Some(stored.clone()));
                round.happened.push(Happened::Put(key, stored));
                round.answers.push((answer, Ok(revision)));
            }
        }
    }

    /// Adds to the round what cleaning the log asks for.
    fn take_over(&self, round: &mut Round) -> u64 {
        let current = |key: &StoreKey| match round.overlay.get(key) {
            // The round writes it anyway.
            Some(_) => None,
            None => self.timeline.peek(key),
        };
        let Cleaning { drop_oldest, take_over } = self.ledger.plan(round.builder.len() as u64, current);
        for (key, value) in take_over {
            let deadline = self.expiry.deadline_of(value.revision);
            let seal = |sealed: &mut Vec<u8>| self.transformer.seal(&key, &value.value, sealed);
            if round.builder.put(&key, value.revision, deadline, seal).is_err() {
                // What cannot be written again stays where it is, and so do the batches; the copies made so far do no harm.
                return 0;
            }
            round.puts.push((key, value.revision));
        }
        drop_oldest
    }

    fn append(&mut self, round: Round, drop_oldest: u64) -> Result<(), (StoreError, Vec<(Answer, Outcome)>)> {
        let Round { builder, newest, happened, puts, deadlines, answers, .. } = round;
        let batch = builder.finish(newest);
        let appended = match &mut self.log {
            Some(log) => log.append(&batch, drop_oldest),
            None => Err(LogError::Failed("the log is not open".to_owned())),
        };
        match appended {
            Ok(number) => self.last_batch = number,
            Err(LogError::Full) => {
                tracing::warn!(place = self.medium.place(), "the disk is full; the store refuses writes until there is room");
                self.log = None;
                return Err((self.no_space(), answers));
            }
            Err(error) => return Err((self.poison(error.to_string()), answers)),
        }
        self.newest = newest;
        for (key, revision, deadline) in deadlines {
            self.expiry.insert(key, revision, deadline);
        }
        self.account(&happened);
        self.ledger.dropped(drop_oldest);
        self.ledger.appended(batch.len() as u64, puts);
        self.timeline.publish(happened);
        for (answer, outcome) in answers {
            let _ = answer.send(outcome);
        }
        Ok(())
    }

    /// Books which values came and went, and whose deadlines count no more.
    fn account(&mut self, happened: &[Happened]) {
        let mut values: HashMap<&StoreKey, Option<StoredValue>> = HashMap::new();
        for event in happened {
            let (key, new) = match event {
                Happened::Put(key, value) => (key, Some(value.clone())),
                Happened::Deleted(key, _) => (key, None),
            };
            if let Some(new) = &new {
                self.ledger.came(key, new);
            }
            let old = match values.insert(key, new) {
                Some(old) => old,
                None => self.timeline.peek(key),
            };
            if let Some(old) = old {
                self.ledger.went(key, &old);
                self.expiry.remove(key, old.revision);
            }
        }
    }

    fn no_space(&self) -> StoreError {
        StoreError::NoSpace { directory: self.medium.place() }
    }

    fn poison(&mut self, reason: String) -> StoreError {
        let place = self.medium.place();
        tracing::error!(place, reason, "the store can promise no more durable writes; reading goes on");
        self.log = None;
        // Nothing can be deleted any more, so nothing is to be woken for.
        self.expiry = Expiry::default();
        let poisoned = StoreError::Poisoned { place, reason };
        self.poisoned.get_or_insert(poisoned).clone()
    }
}

impl Round {
    fn new(newest: Revision) -> Self {
        Self {
            builder: BatchBuilder::new(),
            newest,
            overlay: HashMap::new(),
            happened: Vec::new(),
            puts: Vec::new(),
            deadlines: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn delete(&mut self, key: StoreKey) -> Revision {
        self.newest = self.newest.next();
        self.builder.delete(&key, self.newest);
        self.overlay.insert(key.clone(), None);
        self.happened.push(Happened::Deleted(key, self.newest));
        self.newest
    }
}
