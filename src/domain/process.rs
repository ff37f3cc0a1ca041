//! What a process says of itself: its version, its jobs, and how fresh what it has cached is.

use serde::{Deserialize, Serialize};

use super::clock::Moment;
use super::ids::InstanceId;

/// The last run of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    pub name: String,
    /// When it ended, in microseconds.
    pub ended_at: i64,
    pub took_ms: i64,
    /// How long it pauses between two runs.
    pub every_ms: i64,
    pub failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub id: InstanceId,
    /// Keyward's.
    pub version: String,
    pub started_at: Moment,
    pub beat_at: Moment,
    /// Through when it has followed what other processes changed.
    pub followed_at: Option<Moment>,
    /// Requests that it is at.
    pub under_way: i64,
    pub jobs: Vec<JobRun>,
}
