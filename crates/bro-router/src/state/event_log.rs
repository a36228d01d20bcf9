//! Events kept for those who watch.

use super::EventLog;
use crate::state::checks::{check_json_object, ensure, ensure_at_most};
use crate::state::router::Shift;
use crate::state::{EventLogState, ImportError};
use bro_proto::limits::{EVENT_LOG_BYTES_MAX, EVENT_LOG_LEN_MAX};

impl EventLog {
    pub(crate) fn export(&self) -> EventLogState {
        let EventLog { entries, bytes: _, next_seq, lease_until_ms, is_recording, scratch: _ } = self;
        EventLogState {
            entries: entries.iter().map(ToString::to_string).collect(),
            next_seq: *next_seq,
            lease_until_ms: *lease_until_ms,
            is_recording: *is_recording,
        }
    }

    pub(crate) fn import(&mut self, state: EventLogState, shift: Shift) -> Result<(), ImportError> {
        let EventLogState { entries, next_seq, lease_until_ms, is_recording } = state;
        let bytes = entries.iter().map(String::len).sum();
        ensure_at_most(entries.len(), EVENT_LOG_LEN_MAX, "EVENT_LOG_LEN_MAX")?;
        ensure_at_most(bytes, EVENT_LOG_BYTES_MAX, "EVENT_LOG_BYTES_MAX")?;
        ensure(is_recording || entries.is_empty(), "there are events, and nothing is recorded")?;
        ensure((entries.len() as u64..=u64::MAX / 2).contains(&next_seq), "there are more events than numbers")?;
        for entry in &entries {
            check_json_object(entry)?;
        }
        *self = EventLog {
            entries: entries.into_iter().map(Into::into).collect(),
            bytes,
            next_seq,
            lease_until_ms: shift.ms(lease_until_ms),
            is_recording,
            scratch: Vec::new(),
        };
        Ok(())
    }
}
