//! `knarr image`: brings images onto a node and shows those that are there.
//!
//! The agent owns the node's images, so the command asks it, over a socket that only root can reach: one line of JSON
//! there, one line back.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use container_runtime::{ContainerRuntime, ImageStatus};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::UnixListener,
};
use tracing::debug;

use crate::{cli::{ImageArgs, ImageCommand}, output::tell};

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Import(PathBuf),
    List,
    Pull(String),
    Remove(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Names(Vec<String>),
    Images(Vec<ImageStatus>),
    Failed(String),
}

/// The agent's socket.
pub fn socket_path(run_directory: &Path) -> PathBuf {
    run_directory.join("agent.sock")
}

/// The agent's side: answers until the task is dropped.
pub async fn serve(run_directory: PathBuf, runtime: Arc<dyn ContainerRuntime>) -> anyhow::Result<()> {
    let path = socket_path(&run_directory);
    // One that an agent before us left behind.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept a connection on the agent's socket")?;
        let runtime = runtime.clone();
        tokio::spawn(async move {
            let (reader, mut writer) = stream.into_split();
            let mut line = String::new();
            if tokio::io::BufReader::new(reader).read_line(&mut line).await.is_err() {
                return;
            }
            let answer = match serde_json::from_str(&line) {
                Ok(request) => answer(&*runtime, request).await.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))),
                Err(error) => Answer::Failed(format!("the agent does not understand this request; is it of another version? {error}")),
            };
            let mut text = serde_json::to_vec(&answer).unwrap_or_default();
            text.push(b'\n');
            if let Err(error) = writer.write_all(&text).await {
                debug!(%error, "who asked for images has gone");
            }
        });
    }
}

async fn answer(runtime: &dyn ContainerRuntime, request: Request) -> anyhow::Result<Answer> {
    Ok(match request {
        Request::Import(file) => Answer::Names(runtime.import_image(&file).await?),
        Request::List => Answer::Images(runtime.list_images().await?),
        Request::Pull(reference) => Answer::Names(vec![runtime.pull_image(&reference, &[]).await?.id.0]),
        Request::Remove(reference) => {
            runtime.remove_image(&reference).await?;
            Answer::Names(Vec::new())
        }
    })
}

fn ask(run_directory: &Path, request: &Request) -> anyhow::Result<Answer> {
    let path = socket_path(run_directory);
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("no agent answers at {}: start one with `knarr server`, and run this command as root", path.display()))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("the agent went away")?;
    serde_json::from_str(&line).context("the agent's answer cannot be read; is it of another version?")
}

/// Does what was asked for, at every node it was asked for.
pub fn run(arguments: ImageArgs) -> anyhow::Result<()> {
    let nodes = match &arguments.name {
        Some(cluster) => crate::local_cluster::run_directories(cluster)?,
        None => vec![(String::new(), arguments.run_dir.join(&arguments.cluster_name))],
    };
    let (request, json) = match arguments.command {
        ImageCommand::Import { file } => {
            let file = file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
            // The file as this process sees it: a node may have mounts of its own.
            let root = PathBuf::from(format!("/proc/{}/root", std::process::id()));
            (Request::Import(root.join(file.strip_prefix("/").unwrap_or(&file))), false)
        }
        ImageCommand::Pull { reference } => (Request::Pull(reference), false),
        ImageCommand::Rm { reference } => (Request::Remove(reference), false),
        ImageCommand::List { output } => match output.as_deref() {
            None => (Request::List, false),
            Some("json") => (Request::List, true),
            Some(other) => bail!("{other:?} is no output format: leave it out, or say json"),
        },
    };
    let answers = std::thread::scope(|scope| {
        let asked: Vec<_> = nodes.iter().map(|(_, directory)| scope.spawn(|| ask(directory, &request))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
    });
    for ((node, _), answer) in nodes.iter().zip(answers) {
        let about = if node.is_empty() { String::new() } else { format!("{node}: ") };
        match answer? {
            Answer::Failed(why) => bail!("{about}{why}"),
            Answer::Names(names) => names.iter().for_each(|name| tell!("{about}{name}")),
            Answer::Images(images) if json => tell!("{}", serde_json::to_string_pretty(&images)?),
            Answer::Images(images) => {
                if !node.is_empty() {
                    tell!("{node}");
                }
                print_table(&images);
            }
        }
    }
    Ok(())
}

fn print_table(images: &[ImageStatus]) {
    let rows: Vec<(String, String, u64)> = images
        .iter()
        .flat_map(|image| {
            let short: String = image.id.0.trim_start_matches("sha256:").chars().take(12).collect();
            let names = if image.tags.is_empty() { vec!["<none>".to_owned()] } else { image.tags.clone() };
            names.into_iter().map(move |name| (name, short.clone(), image.size_bytes))
        })
        .collect();
    let width = rows.iter().map(|(name, _, _)| name.len()).max().unwrap_or(0).max(5);
    tell!("{:<width$}  {:<12}  {:>9}", "IMAGE", "ID", "SIZE");
    for (name, id, bytes) in rows {
        tell!("{name:<width$}  {id:<12}  {:>6}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10);
    }
}
