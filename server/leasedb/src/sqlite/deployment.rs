//! The database as a whole, and its heartbeat.

use leasehold_core::beat::Heart;
use leasehold_core::clock::Timestamp;
use leasehold_core::id::ObjectId;
use leasehold_core::leasedb::{Deployment, Epoch, Result, Tick, TickOutcome};

use super::Tx;
use crate::columns::{damaged, mode_of, unsigned};
use crate::plan::integer;

impl Tx<'_> {
    pub(super) fn deployment(&self) -> Result<Deployment> {
        let sql = "-- deployment
            SELECT deployment_id, epoch, mode, complete_since, backed_up_until, (SELECT beat > 0 FROM beats)
            FROM deployment";
        let rows = self.query(sql, [], |row| {
            let (id, epoch, mode) = (ObjectId::new(row.get(0)?), row.get(1)?, row.get(2)?);
            let time = |at| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(Timestamp::from_seconds));
            let (epoch, mode) = (Epoch(unsigned(epoch)), mode_of(mode));
            let (complete_since, backed_up_until, has_begun) = (time(3)?, time(4)?, row.get(5)?);
            Ok(Deployment { id, epoch, mode, complete_since, backed_up_until, has_begun })
        })?;
        rows.into_iter().next().ok_or_else(|| damaged("deployment"))
    }

    pub(super) fn is_tick_due(&self, seconds: i64) -> Result<bool> {
        Ok(self.now_seconds() >= self.heart()?.1 + seconds)
    }

    /// The heart, and when it last beat.
    fn heart(&self) -> Result<(Heart, i64)> {
        let sql = "-- heart
            SELECT beat, nonces, beat_at
            FROM beats";
        let rows = self.query(sql, [], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?)))?;
        let (beat, nonces, beat_at) = rows.into_iter().next().ok_or_else(|| damaged("beat"))?;
        let (nonces, []) = nonces.as_chunks::<16>() else { return Err(damaged("beat")) };
        let nonces = nonces.iter().map(|nonce| ObjectId::new(*nonce)).collect();
        // A file has no standby, so it has one line of history.
        let timeline = String::new();
        Ok((Heart { epoch: self.epoch()?, beat: unsigned(beat), nonces, timeline }, beat_at))
    }

    pub(super) fn tick(&self, tick: &Tick) -> Result<TickOutcome> {
        let (mut heart, beat_at) = self.heart()?;
        let now = self.now_seconds();
        let outcome = if let Some(epoch) = heart.lost(&tick.listed, "", true) {
            heart.begin(epoch, "");
            self.execute("-- enter_recovery\nUPDATE deployment SET mode = 1, epoch = ?1", [integer(epoch.0)?])?;
            let loss = "-- add_loss
                INSERT INTO losses (epoch, from_at, to_at)
                VALUES (?1, ?2, ?3)";
            self.execute(loss, (integer(epoch.0)?, beat_at, now))?;
            TickOutcome::Loss(epoch)
        } else {
            let beat = heart.next(tick.nonce, "");
            TickOutcome::Beat { beat, oldest: heart.oldest() }
        };
        let nonces: Vec<u8> = heart.nonces.iter().flat_map(|nonce| *nonce.as_bytes()).collect();
        let put = "-- put_heart
            UPDATE beats
            SET beat = ?1, nonces = ?2, beat_at = max(beat_at, ?3)";
        self.execute(put, (integer(heart.beat)?, nonces, now))?;
        self.leave_recovery()?;
        Ok(outcome)
    }
}
