//! The group `batch`.

pub mod cron_job;
pub mod job;
pub(crate) mod job_status;
pub mod schedule;
