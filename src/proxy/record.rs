//! The record of a connection, made from its state.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::clock::Moment;
use super::progress::{Progress, Relayed};
use crate::domain::{ConnectedBackend, ConnectionRecord, IdleConnection, Stage};

impl Relayed {
    /// Its backend in a record.
    fn connected(&self) -> ConnectedBackend {
        ConnectedBackend {
            name: Arc::clone(&self.backend.name),
            address: self.backend.address.clone(),
            connect: Some(self.connect.into()),
        }
    }
}

impl Progress {
    /// The record of the connection at the age `age`, without its route and its relayed bytes.
    pub(super) fn record(&self, age: Duration, stage: Stage) -> ConnectionRecord {
        ConnectionRecord {
            conn: self.conn,
            client: self.client.get(),
            listener: Arc::clone(&self.listener.name),
            pool: self.pool().map(|pool| Arc::clone(&pool.name)),
            pool_match: self.assignment.get().and_then(|assignment| assignment.matched.clone()),
            accepted: SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH),
            backend: None,
            route: None,
            age,
            bytes_in: 0,
            bytes_out: 0,
            throttled: false,
            first_byte: None,
            stage,
        }
    }

    /// The same with the relayed bytes.
    pub(super) fn relayed_record(
        &self,
        age: Duration,
        relayed: Option<&Relayed>,
        stage: Stage,
    ) -> ConnectionRecord {
        ConnectionRecord {
            backend: relayed.map(Relayed::connected),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            throttled: self.throttled.get(),
            first_byte: self.first_byte(),
            ..self.record(age, stage)
        }
    }

    /// The record of the open connection.
    pub(super) fn open_record(&self) -> ConnectionRecord {
        let age = self.accepted.elapsed();
        match self.relayed().as_deref() {
            Some(relayed) => self.relayed_record(age, Some(relayed), Stage::Open),
            None => self.record(age, Stage::Open),
        }
    }
    /// What a forecast of a drain tells of the open connection.
    pub(super) fn idle_connection(&self, now: Moment) -> IdleConnection {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        IdleConnection {
            conn: self.conn,
            client: self.client.get(),
            backend: self.relayed().map(|relayed| Arc::clone(&relayed.backend.name)),
            age_ms: millis(self.accepted.until(now)),
            idle_ms: millis(self.idle(now)),
        }
    }
}
