//! The scheduler: queue, snapshot, framework, and a plug-in a file.
