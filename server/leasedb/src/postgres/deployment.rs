//! The database as a whole: what it is, whether it may be used, and its heartbeat.

use leasehold_core::beat::{BEATS_KEPT, Heart};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::ObjectId;
use leasehold_core::leasedb::{Deployment, Epoch, LeaseDbError, Result, Tick, TickOutcome};

use super::crawl::leave_recovery;
use super::load::{epoch_and_time, get, now};
use super::sql::{Call, Uuid, call, sql};
use super::tx::{Decided, Failure, Tx};
use super::{PgLeaseDb, SCHEMA_VERSION};
use crate::columns::{damaged, mode_of, unsigned};

/// The longest that a statement, a wait for a lock or a transaction without statements may last (`review.md` A13).
const LIMIT_MAX_MILLIS: i64 = 30_000;

sql!(
    DEPLOYMENT,
    [],
    "-- deployment
    SELECT deployment_id, epoch, mode, complete_since, backed_up_until, (SELECT beat > 0 FROM beats)
    FROM deployment"
);
sql!(
    BEAT_AT,
    [],
    concat!(
        "-- beat_at
    SELECT ",
        now!(),
        ", b.beat_at
    FROM beats b"
    )
);
// Nothing where another process is ticking.
sql!(
    HEART,
    [],
    concat!(
        "-- heart
    SELECT ",
        epoch_and_time!(),
        ", b.beat, b.nonces, b.beat_at, b.timeline,
      left(pg_walfile_name(pg_current_wal_lsn()), 8)
    FROM beats b
    FOR UPDATE OF b SKIP LOCKED"
    )
);
sql!(
    PUT_HEART,
    [INT8, BYTEA_ARRAY, INT8, TEXT],
    "-- put_heart
    UPDATE beats
    SET beat = $1, nonces = $2, beat_at = greatest(beat_at, $3), timeline = $4"
);
sql!(
    ENTER_RECOVERY,
    [INT8],
    "-- enter_recovery
    UPDATE deployment
    SET mode = 1, epoch = $1"
);
sql!(
    ADD_LOSS,
    [INT8, INT8, INT8],
    "-- add_loss
    INSERT INTO losses (epoch, from_at, to_at)
    VALUES ($1, $2, $3)"
);
sql!(
    LIMITS,
    [],
    "-- limits
    SELECT s.name, s.setting::bigint
    FROM pg_settings s
    WHERE s.name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')"
);
sql!(
    SCHEMA,
    [],
    "-- schema
    SELECT max(version)
    FROM leasehold_migrations"
);

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

async fn tick(tx: &mut Tx<'_>, tick: &Tick) -> Decided<TickOutcome> {
    let [rows] = tx.read([call!(HEART)]).await?;
    let Some(row) = rows.first() else { return Ok((TickOutcome::Elsewhere, Vec::new())) };
    let now = tx.db().time(get(row, 1, "beats")?).seconds();
    let nonces: Vec<&[u8]> = get(row, 3, "beats")?;
    let nonces: std::result::Result<Vec<_>, _> =
        nonces.into_iter().map(|nonce| nonce.try_into().map(ObjectId::new)).collect();
    let mut heart = Heart {
        epoch: Epoch(unsigned(get(row, 0, "epoch")?)),
        beat: unsigned(get(row, 2, "beats")?),
        nonces: nonces.map_err(|_| damaged("beat"))?,
        timeline: get(row, 5, "beats")?,
    };
    let (beat_at, timeline): (i64, &str) = (get(row, 4, "beats")?, get(row, 6, "timeline")?);
    let lost = heart.lost(&tick.listed, timeline, tick.standby_is_synchronous);
    let mut calls = Vec::new();
    let outcome = if let Some(epoch) = lost {
        heart.begin(epoch, timeline);
        calls.push(call!(ENTER_RECOVERY, signed(epoch.0)));
        calls.push(add_loss(signed(epoch.0), beat_at, now));
        TickOutcome::Loss(epoch)
    } else {
        let beat = heart.next(tick.nonce, timeline);
        TickOutcome::Beat { beat, oldest: heart.oldest() }
    };
    debug_assert!(heart.nonces.len() <= BEATS_KEPT, "a heart forgets what is old");
    let nonces: Vec<Vec<u8>> = heart.nonces.iter().map(|nonce| nonce.as_bytes().to_vec()).collect();
    calls.push(call!(PUT_HEART, signed(heart.beat), nonces, now, heart.timeline));
    calls.push(leave_recovery(now));
    Ok((outcome, calls))
}

/// Between these times commits may have been lost; with them an epoch begins.
pub(super) fn add_loss(epoch: i64, from_at: i64, to_at: i64) -> Call {
    call!(ADD_LOSS, epoch, from_at, to_at)
}

impl PgLeaseDb {
    pub(super) async fn read_deployment(&self) -> Result<Deployment> {
        let rows = self.query("deployment", call!(DEPLOYMENT)).await?;
        let row = rows.first().ok_or_else(|| damaged("deployment"))?;
        Ok(Deployment {
            id: ObjectId::new(get::<Uuid>(row, 0, "deployment")?.0),
            epoch: Epoch(unsigned(get(row, 1, "deployment")?)),
            mode: mode_of(get(row, 2, "deployment")?),
            complete_since: get::<Option<i64>>(row, 3, "deployment")?.map(Timestamp::from_seconds),
            backed_up_until: get::<Option<i64>>(row, 4, "deployment")?.map(Timestamp::from_seconds),
            has_begun: get(row, 5, "beats")?,
        })
    }

    pub(super) async fn read_is_tick_due(&self, seconds: i64) -> Result<bool> {
        let rows = self.query("beat_at", call!(BEAT_AT)).await?;
        let row = rows.first().ok_or_else(|| damaged("beat"))?;
        let now = self.time(get(row, 0, "time")?).seconds();
        Ok(now >= get::<i64>(row, 1, "beat")? + seconds)
    }

    pub(super) async fn change_tick(&self, request: &Tick) -> Result<TickOutcome> {
        self.change("tick", None, request, |tx, request| Box::pin(tick(tx, request))).await
    }

    /// Whether the schema is the one wanted, and whether sleepers are bounded.
    pub(super) async fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(LeaseDbError::Invalid(text));
        let version = match self.query("schema", call!(SCHEMA)).await {
            Ok(rows) => rows.first().map_or(Ok(None), |row| get::<Option<i32>>(row, 0, "schema version"))?,
            Err(error) if is_undefined_table(&error) => None,
            Err(error) => return Err(error),
        };
        match version.and_then(|version| u32::try_from(version).ok()) {
            None => {
                return refuse(
                    "it has no schema of Leasehold yet, or none that this role may see; run `leasehold migrate`"
                        .to_owned(),
                );
            }
            Some(version) if version < SCHEMA_VERSION => {
                return refuse(format!(
                    "its schema is version {version}, {SCHEMA_VERSION} is wanted; run `leasehold migrate`"
                ));
            }
            Some(_) => {}
        }
        for row in &self.query("limits", call!(LIMITS)).await? {
            let (name, millis): (&str, i64) = (get(row, 0, "setting")?, get(row, 1, "setting")?);
            if millis <= 0 || millis > LIMIT_MAX_MILLIS {
                return refuse(format!(
                    "{name} is {millis} ms for this role, but must be between 1 and {LIMIT_MAX_MILLIS}: a process that \
                     sleeps in a transaction would wake too late; set it with ALTER ROLE … SET {name}"
                ));
            }
        }
        Ok(())
    }
}

fn is_undefined_table(error: &LeaseDbError) -> bool {
    let LeaseDbError::Unavailable(cause) = error else { return false };
    let code = cause.downcast_ref::<Failure>().and_then(|failure| match failure {
        Failure::Database(error) => error.code(),
        _ => None,
    });
    code == Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE)
}
