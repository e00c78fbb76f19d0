//! What libcontainer logs while it fails. Its errors are opaque; the cause is only in the events of its `tracing`, and
//! most of them happen in processes that it forks. So every process writes its errors into one file in memory.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    sync::Mutex,
};

use rustix::fs::MemfdFlags;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

/// Longest diagnosis that is handed on, in bytes.
const MAX_BYTES: usize = 2000;

/// The file that all processes of this helper write their errors to.
pub struct Diagnosis {
    file: Option<File>,
}

struct ErrorsToFile(Mutex<File>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" { write!(self.0, "{value:?}") } else { write!(self.0, " {}={value:?}", field.name()) };
    }
}

impl<S: Subscriber> Layer<S> for ErrorsToFile {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        text.0.push('\n');
        if let Ok(mut file) = self.0.lock() {
            // The diagnosis is a help, not a duty.
            let _ = file.write_all(text.0.as_bytes());
        }
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _context: Context<'_, S>) -> bool {
        *metadata.level() == Level::ERROR
    }
}

impl Diagnosis {
    /// Starts collecting, in this process and those it forks.
    #[must_use]
    pub fn start() -> Self {
        let file = rustix::fs::memfd_create("diagnosis", MemfdFlags::CLOEXEC).map(File::from).ok();
        if let Some(copy) = file.as_ref().and_then(|file| file.try_clone().ok()) {
            // Fails only where a subscriber is set already, which a fresh process has not.
            let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(ErrorsToFile(Mutex::new(copy))));
        }
        Self { file }
    }

    /// An error with what was logged about it.
    #[must_use]
    pub fn explain(&self, error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                let _ = write!(text, ": {cause_text}");
            }
            source = cause.source();
        }
        let mut logged = String::new();
        if let Some(mut file) = self.file.as_ref().and_then(|file| file.try_clone().ok())
            && file.seek(SeekFrom::Start(0)).is_ok()
        {
            // Half a diagnosis is better than none.
            let _ = file.take(MAX_BYTES as u64).read_to_string(&mut logged);
        }
        for line in logged.lines().filter(|line| !line.trim().is_empty()) {
            if !text.contains(line) {
                let _ = write!(text, "; {line}");
            }
        }
        if let Some((end, _)) = text.char_indices().nth(MAX_BYTES) {
            text.truncate(end);
        }
        text
    }
}
