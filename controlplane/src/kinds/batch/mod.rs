//! batch/v1.

pub(super) mod cron_job;
pub(super) mod job;
