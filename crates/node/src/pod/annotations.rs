//! The node's own facts, kept with each container in the runtime, so that a new agent knows them too.

/// The image as the pod names it.
pub const IMAGE: &str = "knarr.io/image";
/// What `imageID` shows: a name with a digest.
pub const IMAGE_REFERENCE: &str = "knarr.io/image-reference";
/// How often all containers of the pod were started anew before this one was made.
pub const ROUND: &str = "knarr.io/round";
/// Where the termination message lies on the host.
pub const TERMINATION_MESSAGE_FILE: &str = "knarr.io/termination-message-file";
/// `File` or `FallbackToLogsOnError`
pub const TERMINATION_MESSAGE_POLICY: &str = "knarr.io/termination-message-policy";
/// Seconds a container of a pod that is gone may take to stop.
pub const GRACE_SECONDS: &str = "knarr.io/termination-grace-seconds";
