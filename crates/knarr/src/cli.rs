//! The command line, and the YAML file that can say the same.
//!
//! A key of the file is a flag without its dashes; lists repeat a flag. What stands on the command line wins.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    local_cluster::{self, DownArgs, StatusArgs, UpArgs},
    node_options::NodeOptions,
    output::{tell, write},
};

/// Kubernetes in one binary: a whole cluster on one machine, or a part of a large one.
#[derive(Debug, Parser)]
#[command(name = "knarr", version, propagate_version = true, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a control plane, and a node beside it unless told otherwise, in the foreground.
    Server(ServerArgs),
    /// Run a node that belongs to a server elsewhere, in the foreground.
    Agent(AgentArgs),
    /// Make, list and delete the tokens that agents join with.
    Token(TokenArgs),
    /// Print the administrator's kubeconfig.
    Kubeconfig {
        /// Data directory of the server.
        #[arg(long, default_value = "/var/lib/knarr", value_name = "DIRECTORY")]
        data_dir: PathBuf,
    },
    /// Start a cluster of one or several nodes on this machine, in the background.
    Up(UpArgs),
    /// End a cluster that `up` started, and leave nothing of it running.
    Down(DownArgs),
    /// Show the clusters that `up` started, and how their nodes are.
    Status(StatusArgs),
    /// Keep a node of `up` running.
    #[command(hide = true)]
    Keep {
        /// Its cluster.
        #[arg(long)]
        cluster: String,
        /// Its name.
        #[arg(long)]
        node: String,
        /// `server` or `agent`.
        kind: String,
        /// Its settings.
        #[arg(long)]
        settings: PathBuf,
    },
    /// Bring container images onto this node, and look at those that are there.
    Image(ImageArgs),
    /// Print the version of knarr and of the Kubernetes API it speaks.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
}

/// What `knarr server` can be told.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Directory for everything that must outlive a reboot.
    #[arg(long, default_value = "/var/lib/knarr", value_name = "DIRECTORY")]
    pub data_dir: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub bind: IpAddr,
    /// Port of the API.
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub port: u16,
    /// Address at which other machines and pods reach this server [default: the node's address].
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_address: Option<IpAddr>,
    /// Further names and addresses for the server's certificate; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Name of this node [default: the host name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node [default: the one packets leave by]; may be repeated for both families.
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Vec<IpAddr>,
    /// Range of pod addresses; each node gets a part of it.
    #[arg(long, default_value = "10.244.0.0/16", value_name = "RANGE")]
    pub cluster_cidr: String,
    /// Range of Service addresses.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "RANGE")]
    pub service_cidr: String,
    /// Domain of the cluster's names.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// A token that agents may join with (ID.SECRET: 6 and 16 lower-case letters or digits); made where none is given.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File with a KubeSchedulerConfiguration.
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Run no node beside the control plane.
    #[arg(long)]
    pub disable_agent: bool,
    /// Seconds after which a node that does not report is taken for lost; nodes report every 10 s.
    #[arg(long, default_value_t = controllers::NODE_MONITOR_GRACE_PERIOD.as_secs(), value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(11..))]
    pub node_monitor_grace_period: u64,
    /// Seconds that certificates of nodes, and others that the cluster signs, are valid for; nodes renew theirs in time.
    #[arg(long, default_value_t = controllers::SIGNING_DURATION.as_secs(), value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(20..))]
    pub cluster_signing_duration: u64,
    /// API versions to turn on or off: KEY=true|false, by commas; KEY is GROUP/VERSION, GROUP/VERSION/RESOURCE, api/all, api/ga, api/beta or
    /// api/alpha. What is stable is on.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SETTINGS", value_parser = kinds::RuntimeConfig::parse)]
    pub runtime_config: kinds::RuntimeConfig,
    /// File with an EncryptionConfiguration: how which resources are encrypted on the disk. Without one, Secrets are.
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read that file again whenever it changes, rather than at start alone.
    #[arg(long, requires = "encryption_provider_config", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub encryption_provider_config_automatic_reload: bool,
    /// File with an AdmissionConfiguration: settings of PodSecurity (levels where a namespace names none, and who is exempt) and of
    /// ResourceQuota (what may be used only where a quota limits it).
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// Let the tokens that pods get by themselves work for a year, for programs that read theirs only once; pods still get a new one every
    /// hour. `/metrics` counts uses of tokens that should have been replaced (serviceaccount_stale_tokens_total).
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub service_account_extend_token_expiration: bool,
    /// Reserved: the address of an etcd cluster to keep objects in.
    #[arg(long, value_name = "URL")]
    pub datastore_endpoint: Option<String>,
    /// Write the administrator's kubeconfig here [default: DATA_DIR/admin.kubeconfig].
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Directory for what lives until the next boot; must be on a tmpfs.
    #[arg(long, default_value = "/run/knarr", value_name = "DIRECTORY")]
    pub run_dir: PathBuf,
    /// Name of the cluster, to set it apart from others on the same machine.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub cluster_name: String,
    /// Live in the network and mount namespaces pinned in this directory; `knarr up` makes them.
    #[arg(long, value_name = "DIRECTORY", hide_short_help = true)]
    pub namespaces: Option<PathBuf>,
    /// What the node is told.
    #[command(flatten)]
    pub node: NodeOptions,
    /// File with these settings in YAML; the command line wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `apiserver=debug`.
    #[arg(long, default_value = "info", env = "KNARR_LOG", value_name = "FILTER")]
    pub log: String,
}

/// What `knarr agent` can be told.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Address of a server: https://HOST:6443.
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// Token to join with, as `knarr token create` prints it.
    #[arg(long, env = "KNARR_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: String,
    /// Name of this node [default: the host name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node [default: the one packets leave by]; may be repeated for both families.
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Vec<IpAddr>,
    /// Directory for everything that must outlive a reboot.
    #[arg(long, default_value = "/var/lib/knarr", value_name = "DIRECTORY")]
    pub data_dir: PathBuf,
    /// Directory for what lives until the next boot; must be on a tmpfs.
    #[arg(long, default_value = "/run/knarr", value_name = "DIRECTORY")]
    pub run_dir: PathBuf,
    /// Name of the cluster, to set it apart from others on the same machine.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub cluster_name: String,
    /// Range of pod addresses, as the server has it.
    #[arg(long, default_value = "10.244.0.0/16", value_name = "RANGE")]
    pub cluster_cidr: String,
    /// Range of Service addresses, as the server has it.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "RANGE")]
    pub service_cidr: String,
    /// Domain of the cluster's names, as the server has it.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Live in the network and mount namespaces pinned in this directory; `knarr up` makes them.
    #[arg(long, value_name = "DIRECTORY", hide_short_help = true)]
    pub namespaces: Option<PathBuf>,
    /// What the node is told.
    #[command(flatten)]
    pub node: NodeOptions,
    /// File with these settings in YAML; the command line wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `node=debug`.
    #[arg(long, default_value = "info", env = "KNARR_LOG", value_name = "FILTER")]
    pub log: String,
}

/// What `knarr token` can be told.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// Data directory of the server.
    #[arg(long, default_value = "/var/lib/knarr", value_name = "DIRECTORY", global = true)]
    pub data_dir: PathBuf,
    /// The administrator's kubeconfig [default: DATA_DIR/admin.kubeconfig].
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What can be done with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it.
    Create {
        /// Hours until it ends; 0 for never.
        #[arg(long, default_value_t = 24)]
        ttl_hours: i64,
        /// What it is for.
        #[arg(long, default_value = "made by knarr token create")]
        description: String,
    },
    /// List the tokens, without their secrets.
    List,
    /// Delete a token.
    Delete {
        /// Its id, or the whole token.
        id: String,
    },
}

/// What `knarr image` can be told.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// All nodes of this cluster of `knarr up`.
    #[arg(long, value_name = "NAME", global = true, conflicts_with_all = ["run_dir", "cluster_name"])]
    pub name: Option<String>,
    /// Run directory of the node.
    #[arg(long, default_value = "/run/knarr", value_name = "DIRECTORY", global = true)]
    pub run_dir: PathBuf,
    /// Name of the cluster.
    #[arg(long, default_value = "default", value_name = "NAME", global = true)]
    pub cluster_name: String,
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What can be done with images.
#[derive(Debug, Clone, Subcommand)]
pub enum ImageCommand {
    /// Bring in a `docker save` or OCI archive.
    Import {
        /// The archive.
        file: PathBuf,
    },
    /// List the images of this node.
    List {
        /// `json` for scripts.
        #[arg(short, long)]
        output: Option<String>,
    },
    /// Fetch an image from its registry.
    Pull {
        /// Its name.
        reference: String,
    },
    /// Remove an image.
    Rm {
        /// Its name.
        reference: String,
    },
}

/// Arguments out of a configuration file, to stand before those of the command line.
fn arguments_of(text: &str) -> anyhow::Result<Vec<String>> {
    let settings: serde_json::Map<String, serde_json::Value> = serde_yaml_ng::from_str(text).context("it must be a map from flags to values")?;
    let mut arguments = Vec::new();
    let plain = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    for (name, value) in &settings {
        match value {
            serde_json::Value::Bool(true) => arguments.push(format!("--{name}")),
            serde_json::Value::Bool(false) | serde_json::Value::Null => {}
            serde_json::Value::Array(list) => {
                for item in list {
                    let Some(text) = plain(item) else { bail!("{name}: a list may hold texts and numbers only") };
                    arguments.push(format!("--{name}={text}"));
                }
            }
            other => match plain(other) {
                Some(text) => arguments.push(format!("--{name}={text}")),
                None => bail!("{name}: must be a text, a number, true, false or a list"),
            },
        }
    }
    Ok(arguments)
}

/// The command line with the configuration file's settings put in behind the command's name.
fn with_configuration(arguments: Vec<String>) -> anyhow::Result<Vec<String>> {
    let file = arguments.iter().enumerate().find_map(|(index, argument)| match argument.strip_prefix("--config") {
        Some("") => arguments.get(index + 1).cloned(),
        Some(rest) => rest.strip_prefix('=').map(str::to_owned),
        None => None,
    });
    let Some(file) = file else { return Ok(arguments) };
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read the configuration file {file}"))?;
    let settings = arguments_of(&text).with_context(|| format!("cannot use the configuration file {file}"))?;
    let mut all = arguments;
    let place = all.len().min(2);
    all.splice(place..place, settings);
    Ok(all)
}

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    let arguments = match with_configuration(std::env::args().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return failed(&error),
    };
    let matches = Cli::command().get_matches_from(arguments);
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let done = match cli.command {
        Command::Server(arguments) => crate::server::run(arguments),
        Command::Agent(arguments) => crate::agent::run(arguments),
        Command::Token(arguments) => crate::token::run(arguments),
        Command::Kubeconfig { data_dir } => {
            let path = data_dir.join("admin.kubeconfig");
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}: run this on the server, as root", path.display())).map(|text| write(format_args!("{text}")))
        }
        Command::Up(arguments) => local_cluster::up(arguments),
        Command::Down(arguments) => local_cluster::down(arguments),
        Command::Status(arguments) => local_cluster::status(arguments),
        Command::Keep { cluster, node, kind, settings } => local_cluster::keep(&cluster, &node, &kind, &settings),
        Command::Image(arguments) => crate::image::run(arguments),
        Command::Version => {
            tell!("knarr {}", env!("CARGO_PKG_VERSION"));
            tell!("Kubernetes API {}", apiserver::version::GIT_VERSION);
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "knarr", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says what went wrong, and what to do where the message itself does not.
fn failed(error: &anyhow::Error) -> ExitCode {
    let is_full = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|error| error.kind() == std::io::ErrorKind::StorageFull);
    let advice = if is_full { "; make room there, then start again" } else { "" };
    eprintln!("knarr: {error:#}{advice}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_configuration_file_says_what_flags_say() {
        let arguments = arguments_of("port: 7000\ntls-san: [a, b]\ndisable-agent: true\n").unwrap();
        assert_eq!(arguments, ["--disable-agent", "--port=7000", "--tls-san=a", "--tls-san=b"]);
        assert!(arguments_of("port: {a: b}").is_err());
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "port: 7000\n").unwrap();
        let path = file.path().display().to_string();
        let arguments = ["knarr", "server", "--config", &path, "--port", "8000"].map(str::to_owned).to_vec();
        let cli = Cli::parse_from(with_configuration(arguments).unwrap());
        let Command::Server(arguments) = cli.command else { panic!("not the command asked for") };
        assert_eq!(arguments.port, 8000);
    }
}
