//! The runtime as a whole: opening it (which adopts what an earlier agent left running), and the trait's verbs.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use container_runtime::{
    ContainerId, ContainerRuntime, ContainerSpec, ContainerStatus, ContainerUsage, ExecOutput, ExecRequest, ExecSession, ImageId, ImageStatus,
    PulledImage, RegistryCredential, ResourceLimits, RuntimeError, RuntimeEvent, SandboxId, SandboxSpec, SandboxState, SandboxStatus,
};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::task::TaskTracker;

use crate::{
    cgroup::Cgroups,
    container::{Container, ContainerRecord},
    helper_program::HelperProgram,
    images::{self, registries::Registries, store::ImageStore},
    memory_backed,
    options::Options,
    records,
    sandbox::{Sandbox, SandboxRecord, blocking, record_path},
    shim_program,
    strays::kill_all_in,
};

/// Events that a slow listener may lag behind before it is told to look at everything.
const EVENT_BACKLOG: usize = 1024;

/// The runtime that knarr brings along.
pub struct EmbeddedRuntime {
    inner: Arc<Inner>,
    closing: watch::Sender<bool>,
}

/// What all verbs share.
pub(crate) struct Inner {
    pub options: Options,
    pub images: Arc<ImageStore>,
    pub cgroups: Cgroups,
    pub shim_program: PathBuf,
    pub helper_program: HelperProgram,
    pub sandboxes: Mutex<BTreeMap<SandboxId, Arc<Sandbox>>>,
    pub containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
    pub events: broadcast::Sender<RuntimeEvent>,
    /// Bounds the helpers at work: more of them than processors can feed only get in each other's way.
    pub permits: Semaphore,
    /// Held while a class of pods gets its weight.
    pub weighing: Mutex<()>,
    pub closing: watch::Sender<bool>,
    /// What is done behind everybody's back.
    background: TaskTracker,
    mounted: bool,
}

impl EmbeddedRuntime {
    /// Opens the runtime on its directories. Sandboxes that an earlier agent left running are adopted; what it left half
    /// made is removed.
    ///
    /// # Errors
    /// A sentence and its cause, where a directory, the cgroups or the shim's program cannot be used.
    pub async fn open(options: Options) -> Result<Self, RuntimeError> {
        let failed = |doing: &str| {
            let doing = doing.to_owned();
            move |source: io::Error| RuntimeError::Io { doing: format!("could not open the container runtime: {doing}: {source}"), source }
        };
        let prepare = options.clone();
        let (images, mounted, shim_program, cgroups) = blocking(move || {
            let mounted = memory_backed::ensure(&prepare.run_directory).map_err(failed("the run directory"))?;
            forget_other_boots(&prepare.run_directory).map_err(failed("the run directory"))?;
            std::fs::create_dir_all(prepare.run_directory.join("sandboxes")).map_err(failed("the run directory"))?;
            std::fs::create_dir_all(prepare.data_directory.join("containers")).map_err(failed("the data directory"))?;
            let images = ImageStore::open(&prepare.data_directory, prepare.layer_limit_bytes).map_err(failed("the image store"))?;
            let shim_program = shim_program::install([&prepare.run_directory, &prepare.data_directory]).map_err(failed("the shim's program"))?;
            let cgroups = Cgroups::detect().map_err(failed("the cgroups"))?;
            cgroups.create(&prepare.cgroup_root, &ResourceLimits::default()).map_err(failed("the cgroups"))?;
            // Also undoes what an earlier agent was told.
            if let Err(error) = cgroups.apply(&prepare.cgroup_root, &prepare.limits, true) {
                // Where a controller is missing, nothing can have been limited by it.
                if prepare.limits != ResourceLimits::default() {
                    return Err(failed("the limits of all pods")(error));
                }
                tracing::debug!(%error, "could not lift the limits of all pods");
            }
            Ok::<_, RuntimeError>((images, mounted, shim_program, cgroups))
        })
        .await?;
        let helper_program = HelperProgram::protect(&options.helper.program);
        let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let closing = watch::Sender::new(false);
        let inner = Arc::new(Inner {
            options,
            images: Arc::new(images),
            cgroups,
            shim_program,
            helper_program,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            permits: Semaphore::new(processors.max(2) * 2),
            weighing: Mutex::default(),
            closing: closing.clone(),
            background: TaskTracker::new(),
            mounted,
        });
        inner.adopt_everything().await.map_err(|source| RuntimeError::Io { doing: format!("could not take over running sandboxes: {source}"), source })?;
        inner.remove_strays();
        inner.weigh_all_classes();
        Ok(Self { inner, closing })
    }

    /// The settings it was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Removes every sandbox, and what the runtime itself made outside of its data directory: for `knarr down`.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub async fn destroy(self) -> Result<(), RuntimeError> {
        for sandbox in self.list_sandboxes().await? {
            self.remove_sandbox(&sandbox.id).await?;
        }
        self.closing.send_replace(true);
        self.inner.background.close();
        self.inner.background.wait().await;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let failed = |doing: &'static str| move |source: io::Error| RuntimeError::Io { doing: format!("could not remove {doing}: {source}"), source };
            // The last shims may need a moment to be reaped; their group cannot be removed before.
            inner.cgroups.kill(&inner.shims_cgroup());
            inner.cgroups.remove_adopted(&inner.options.cgroup_root).map_err(failed("the cgroups"))?;
            let run = &inner.options.run_directory;
            for entry in std::fs::read_dir(run).map_err(failed("the run directory"))?.flatten() {
                let path = entry.path();
                let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(failed("the run directory"))?;
            }
            if inner.mounted || is_own_mount(run) {
                memory_backed::remove_mount(run).map_err(failed("the run directory's mount"))?;
            }
            Ok(())
        })
        .await
    }
}

impl Drop for EmbeddedRuntime {
    fn drop(&mut self) {
        // Ends the tasks that listen to shims. The shims go on.
        self.closing.send_replace(true);
    }
}

/// Whether a directory is a mount that an earlier agent made for the runtime.
fn is_own_mount(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&*path) && line.contains(" - tmpfs knarr "))
}

/// Empties a run directory that survived a restart of the machine: nothing in it runs any more.
fn forget_other_boots(run_directory: &Path) -> io::Result<()> {
    let note = run_directory.join("boot");
    let boot_id = records::boot_id();
    if std::fs::read_to_string(&note).is_ok_and(|known| known == boot_id) {
        return Ok(());
    }
    match std::fs::remove_dir_all(run_directory.join("sandboxes")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    records::write_bytes(&note, boot_id.as_bytes())
}

impl Inner {
    pub(crate) fn sandboxes_directory(&self) -> PathBuf {
        self.options.run_directory.join("sandboxes")
    }

    /// Where a container's writable layer is.
    pub(crate) fn writable_directory(&self, id: &ContainerId) -> PathBuf {
        self.options.data_directory.join("containers").join(&id.0)
    }

    pub(crate) fn shims_cgroup(&self) -> String {
        format!("{}/shims", self.options.cgroup_root)
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> Option<Arc<Sandbox>> {
        self.sandboxes.lock().get(id).cloned()
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Result<Arc<Container>, RuntimeError> {
        self.containers.lock().get(id).cloned().ok_or_else(|| RuntimeError::NoSuchContainer(id.clone()))
    }

    pub(crate) fn container_by_id(&self, id: &str) -> Option<Arc<Container>> {
        self.containers.lock().get(&ContainerId(id.to_owned())).cloned()
    }

    pub(crate) fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        self.containers.lock().values().filter(|container| container.sandbox == *sandbox).cloned().collect()
    }

    /// Takes over every sandbox that an earlier agent left.
    async fn adopt_everything(self: &Arc<Self>) -> io::Result<()> {
        let mut adopted = Vec::new();
        for entry in std::fs::read_dir(self.sandboxes_directory())? {
            adopted.push(self.adopt(entry?.path()));
        }
        for result in futures::future::join_all(adopted).await {
            result?;
        }
        Ok(())
    }

    async fn adopt(self: &Arc<Self>, directory: PathBuf) -> io::Result<()> {
        let Some(record) = records::read::<SandboxRecord>(&record_path(&directory)).unwrap_or_default() else {
            // The agent died before it wrote anything down, so there is nothing but the directory.
            tracing::info!(path = %directory.display(), "removing a sandbox that was never finished");
            memory_backed::remove_mount(&directory.join("shm"))?;
            return std::fs::remove_dir_all(&directory);
        };
        let cgroup = format!("{}/{}", self.options.cgroup_root, record.spec.cgroup_parent.trim_matches('/'));
        let (id, stopped, half_made) = (record.id.clone(), record.stopped, record.shim.is_none());
        let sandbox = Arc::new(Sandbox { directory: directory.clone(), cgroup, record: Mutex::new(record), state: Mutex::new(SandboxState::NotReady) });
        self.sandboxes.lock().insert(id.clone(), Arc::clone(&sandbox));
        for entry in std::fs::read_dir(directory.join("containers")).into_iter().flatten().flatten() {
            let bundle = entry.path();
            match records::read::<ContainerRecord>(&bundle.join("container.json")) {
                Ok(Some(record)) => {
                    let container = Arc::new(Container::new(id.clone(), bundle, record));
                    self.containers.lock().insert(container.id.clone(), container);
                }
                _ => std::fs::remove_dir_all(&bundle)?,
            }
        }
        if stopped || half_made {
            // What it got to while it was made is removed when the node removes it; its shim may run unrecorded.
            if half_made {
                kill_all_in(&directory);
            }
            for container in self.containers_of(&id) {
                container.lose_if_it_ran();
            }
            return Ok(());
        }
        match self.watch_shim(&sandbox).await {
            Ok(connection) => {
                *sandbox.state.lock() = SandboxState::Ready;
                self.follow_shim(&sandbox, connection);
                // An exit whose container the shim has forgotten is still on record.
                for container in self.containers_of(&id) {
                    container.hear_record();
                }
            }
            Err(error) => {
                tracing::warn!(sandbox = %id.0, %error, "a shim was lost while no agent ran");
                let (inner, lost) = (Arc::clone(self), Arc::clone(&sandbox));
                blocking(move || inner.lose(&lost, false)).await;
            }
        }
        Ok(())
    }

    /// Removes writable layers whose containers are gone, and layers that nobody needs.
    fn remove_strays(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.background.spawn_blocking(move || {
            for entry in std::fs::read_dir(inner.options.data_directory.join("containers")).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if inner.container_by_id(&name).is_none()
                    && let Err(error) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(path = %entry.path().display(), %error, "could not remove a stray writable layer");
                }
            }
            inner.collect_layers();
        });
    }

    /// Removes layers that neither an image nor a container needs.
    pub(crate) fn collect_layers(&self) {
        self.images.collect_layers(|| {
            let of_containers = self.containers.lock().values().flat_map(|container| container.record.lock().chain_ids.clone()).collect::<Vec<_>>();
            of_containers.into_iter().chain(self.mounted_layers()).collect()
        });
    }

    /// Has new layers written to the medium, behind everybody's back.
    fn settle_layers(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.background.spawn_blocking(move || {
            if let Err(error) = inner.images.layers.settle() {
                tracing::warn!(%error, "could not write new layers to the disk; they are fetched again after a crash of the machine");
            }
        });
    }
}

#[async_trait]
impl ContainerRuntime for EmbeddedRuntime {
    fn version(&self) -> String {
        format!("knarr://{}", env!("CARGO_PKG_VERSION"))
    }

    fn handlers(&self) -> Vec<String> {
        // Charts written for other nodes ask for `runc`, and mean: ordinary containers.
        vec!["knarr".to_owned(), "runc".to_owned()]
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        self.inner.run_sandbox(spec).await
    }

    async fn stop_sandbox(&self, sandbox: &SandboxId) -> Result<(), RuntimeError> {
        self.inner.stop_sandbox(sandbox).await
    }

    async fn update_sandbox_resources(&self, sandbox: &SandboxId, limits: &ResourceLimits) -> Result<(), RuntimeError> {
        self.inner.update_sandbox_resources(sandbox, limits)
    }

    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<(), RuntimeError> {
        self.inner.remove_sandbox(sandbox).await
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(self.inner.sandboxes.lock().values().map(|sandbox| sandbox.status()).collect())
    }

    async fn create_container(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        self.inner.create_container(sandbox, spec).await
    }

    async fn start_container(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.start_container(container).await
    }

    async fn stop_container(&self, container: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.inner.stop_container(container, grace).await
    }

    async fn remove_container(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.remove_container(container).await
    }

    async fn container_status(&self, container: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        Ok(self.inner.container(container)?.status())
    }

    async fn list_containers(&self, sandbox: Option<&SandboxId>) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let wanted = |container: &&Arc<Container>| sandbox.is_none_or(|sandbox| container.sandbox == *sandbox);
        Ok(self.inner.containers.lock().values().filter(wanted).map(|container| container.status()).collect())
    }

    async fn update_resources(&self, container: &ContainerId, limits: &ResourceLimits) -> Result<(), RuntimeError> {
        self.inner.update_resources(container, limits)
    }

    async fn container_usage(&self, container: &ContainerId) -> Result<ContainerUsage, RuntimeError> {
        self.inner.container_usage(container).await
    }

    async fn reopen_log(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.reopen_log(container).await
    }

    async fn exec(&self, container: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
        self.inner.exec(container, request).await
    }

    async fn exec_sync(&self, container: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        self.inner.exec_sync(container, command, timeout).await
    }

    async fn attach(&self, container: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
        self.inner.attach(container, request).await
    }

    async fn connect_port(&self, sandbox: &SandboxId, port: u16) -> Result<tokio::net::TcpStream, RuntimeError> {
        self.inner.connect_port(sandbox, port).await
    }

    async fn image_status(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError> {
        self.inner.images.find(reference)
    }

    async fn pull_image(&self, reference: &str, credentials: &[RegistryCredential]) -> Result<PulledImage, RuntimeError> {
        let registries = Registries::read(self.inner.options.registries_file.as_deref())
            .map_err(|reason| RuntimeError::Pull { image: reference.to_owned(), reason })?;
        let inner = &self.inner;
        let pulled = images::pull::pull(&inner.images, &registries, reference, credentials).await?;
        inner.settle_layers();
        Ok(pulled)
    }

    async fn import_image(&self, archive: &Path) -> Result<Vec<String>, RuntimeError> {
        let (inner, archive) = (Arc::clone(&self.inner), archive.to_owned());
        let names = blocking(move || images::import::import(&inner.images, &archive)).await?;
        self.inner.settle_layers();
        Ok(names)
    }

    async fn list_images(&self) -> Result<Vec<ImageStatus>, RuntimeError> {
        Ok(self.inner.images.list())
    }

    async fn mount_image(&self, image: &ImageId, target: &Path) -> Result<(), RuntimeError> {
        let (inner, image, target) = (Arc::clone(&self.inner), image.clone(), target.to_owned());
        let _layers_are_needed = self.inner.images.arriving.read().await;
        blocking(move || inner.mount_image(&image, &target)).await
    }

    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        self.inner.images.remove(reference)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.collect_layers()).await;
        Ok(())
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        container_runtime::fake::events_of(self.inner.events.subscribe())
    }
}
