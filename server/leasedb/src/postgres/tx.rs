//! Transactions: begun with their lock and first reads in one round trip, ended with their writes in another.
//!
//! A connection that was dropped in the middle of anything is closed, never given back. What a transaction of unknown
//! outcome did is told as [`LeaseDbError::OutcomeUnknown`]; everything else that fails changed nothing.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::future::BoxFuture;
use leasehold_core::id::StorageIndex;
use leasehold_core::leasedb::{LeaseDbError, Result};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::PgLeaseDb;
use super::sql::{Call, Param};

/// How often a transaction is tried that another one got in the way of.
const ATTEMPTS_MAX: usize = 5;
/// How long a statement of a transaction over the whole database may take, and how long such a transaction may rest.
const LONG_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Why statements were not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
    #[error("the database did not answer within {0:?}")]
    Silent(Duration),
    /// Not a failure of the database: what was read or asked for breaks a rule.
    #[error(transparent)]
    Rule(#[from] LeaseDbError),
}

impl Failure {
    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            Self::Silent(_) | Self::Rule(_) => None,
        }
    }

    /// Whether the same transaction may succeed at once: nothing was changed, another one was in the way.
    fn is_passing(&self) -> bool {
        matches!(self.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
    }

    /// Whether the connection is of no use any more: broken, ending, or to a server that may not write.
    fn spoils_connection(&self) -> bool {
        match self {
            Self::Rule(_) => false,
            Self::Silent(_) => true,
            Self::Database(error) => match error.as_db_error() {
                None => true,
                Some(error) => error.severity() != "ERROR" || *error.code() == SqlState::READ_ONLY_SQL_TRANSACTION,
            },
        }
    }

    /// Whether another connection may do better: this one was broken, or reached a standby.
    fn is_of_connection(&self) -> bool {
        !matches!(self, Self::Silent(_)) && self.spoils_connection()
    }

    /// Whether the statement, and the transaction around it, is known to have done nothing.
    fn is_certain(&self) -> bool {
        match self {
            Self::Rule(_) => true,
            Self::Silent(_) => false,
            Self::Database(error) => error.as_db_error().is_some_and(|error| error.severity() == "ERROR"),
        }
    }

    /// As an error of a call that changed nothing.
    fn unchanged(self) -> LeaseDbError {
        match self {
            Self::Rule(error) => error,
            Self::Database(error) if error.code().is_some_and(|code| code.code().starts_with("23")) => {
                // The same request would break the same constraint again.
                let constraint = error.as_db_error().and_then(|error| error.constraint()).unwrap_or("a constraint");
                LeaseDbError::Invalid(format!("a row would break {constraint}"))
            }
            other => LeaseDbError::Unavailable(Box::new(other)),
        }
    }
}

/// A connection in use.
pub(super) struct Connection {
    object: Option<Object>,
    prepared: bool,
    patience: Duration,
    /// Whether it may be given back: false while anything is under way.
    clean: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.clean
            && let Some(object) = self.object.take()
        {
            // Taken out of the pool and closed: nobody else meets what was left open.
            drop(Object::take(object));
        }
    }
}

/// A statement of a pipeline.
enum Step<'a> {
    /// Text without parameters, of ours.
    Plain(&'a str),
    Call(&'a Call),
}

impl Connection {
    pub(super) const fn new(object: Object, prepared: bool, patience: Duration) -> Self {
        Self { object: Some(object), prepared, patience, clean: true }
    }

    fn client(&self) -> &Object {
        self.object.as_ref().expect("taken only by drop")
    }

    /// Sends all statements at once and waits for all answers. They run in order; after one that fails, those of the
    /// same transaction fail as well.
    async fn pipeline(&mut self, steps: &[Step<'_>]) -> Vec<Result<Vec<Row>, Failure>> {
        self.clean = false;
        let patience = self.patience;
        match tokio::time::timeout(patience, self.send(steps)).await {
            Ok(answers) => answers,
            Err(_) => vec![Err(Failure::Silent(patience))],
        }
    }

    async fn send(&self, steps: &[Step<'_>]) -> Vec<Result<Vec<Row>, Failure>> {
        let mut statements = Vec::with_capacity(steps.len());
        for step in steps {
            // Prepared before anything is sent, so that the order of sending is the order of the steps.
            statements.push(match step {
                Step::Call(call) if self.prepared => {
                    match self.client().prepare_typed_cached(call.sql.text, call.sql.types).await {
                        Ok(statement) => Some(statement),
                        Err(error) => return vec![Err(error.into())],
                    }
                }
                _ => None,
            });
        }
        let client: &tokio_postgres::Client = self.client();
        let answers = steps.iter().zip(&statements).map(|(step, statement)| async move {
            match (step, statement) {
                (Step::Plain(text), _) => client.batch_execute(text).await.map(|()| Vec::new()),
                (Step::Call(call), Some(statement)) => {
                    let params: Vec<&(dyn ToSql + Sync)> = call.params.iter().map(|p| &**p as _).collect();
                    client.query(statement, &params).await
                }
                (Step::Call(call), None) => {
                    let typed = call.params.iter().zip(call.sql.types);
                    let typed: Vec<_> = typed.map(|(p, kind)| (&**p as &(dyn ToSql + Sync), kind.clone())).collect();
                    client.query_typed(call.sql.text, &typed).await
                }
            }
            .map_err(Failure::from)
        });
        in_order(answers.collect()).await
    }
}

/// Drives all futures together. Each pass polls them in order, so that what they send goes out in that order.
async fn in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut all = true;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => all = false,
                }
            }
        }
        if all { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// All answers, or the first failure.
fn all(answers: Vec<Result<Vec<Row>, Failure>>) -> Result<Vec<Vec<Row>>, Failure> {
    answers.into_iter().collect()
}

/// A transaction under way.
pub(super) struct Tx<'a> {
    connection: &'a mut Connection,
    /// What begins the transaction, until it is sent along with the first reads.
    begin: Option<String>,
    db: &'a PgLeaseDb,
}

impl Tx<'_> {
    /// Reads with several statements in one round trip; each sees what was committed before it began.
    pub(super) async fn read<const N: usize>(&mut self, calls: [Call; N]) -> Result<[Vec<Row>; N], Failure> {
        let begin = self.begin.take();
        let plain = begin.as_deref().map(Step::Plain);
        let steps: Vec<Step<'_>> = plain.into_iter().chain(calls.iter().map(Step::Call)).collect();
        let mut answers = self.db.run(self.connection, &steps).await?;
        if begin.is_some() {
            answers.remove(0);
        }
        Ok(answers.try_into().unwrap_or_else(|_| unreachable!("one answer for each call")))
    }

    pub(super) const fn db(&self) -> &PgLeaseDb {
        self.db
    }
}

/// A transaction of many round trips on a connection of its own: everything is read, or written. One that is dropped
/// before its end changes nothing, since its connection is closed.
pub(super) struct LongTx {
    connection: Connection,
    statements: usize,
}

impl LongTx {
    /// Begins one. Its limits are its own: a statement may touch every row there is.
    pub(super) async fn begin(db: &PgLeaseDb, isolation: &str) -> Result<Self> {
        let mut connection = db.connect().await?;
        connection.patience = LONG_PATIENCE + Duration::from_secs(5);
        let millis = LONG_PATIENCE.as_millis();
        let begin = format!(
            "BEGIN ISOLATION LEVEL {isolation}; SET LOCAL statement_timeout = {millis}; SET LOCAL lock_timeout = {millis}; \
             SET LOCAL idle_in_transaction_session_timeout = {millis}"
        );
        all(connection.pipeline(&[Step::Plain(&begin)]).await).map_err(Failure::unchanged)?;
        Ok(Self { connection, statements: 1 })
    }

    /// Runs a statement that is made for the occasion.
    pub(super) async fn run(&mut self, text: &str, params: &[(Param, Type)]) -> Result<Vec<Row>> {
        self.statements += 1;
        let patience = self.connection.patience;
        let typed: Vec<_> = params.iter().map(|(p, kind)| (&**p as &(dyn ToSql + Sync), kind.clone())).collect();
        let answer = tokio::time::timeout(patience, self.connection.client().query_typed(text, &typed)).await;
        let answer = answer.map_err(|_| Failure::Silent(patience)).and_then(|rows| rows.map_err(Failure::from));
        answer.map_err(Failure::unchanged)
    }

    /// Commits; only what returns from here has taken effect.
    pub(super) async fn commit(mut self, db: &PgLeaseDb, name: &'static str) -> Result<()> {
        let answers = self.connection.pipeline(&[Step::Plain("COMMIT")]).await;
        db.metrics().sent(self.statements + 1);
        match all(answers) {
            Ok(_) => {
                self.connection.clean = true;
                db.metrics().ended(name, "done");
                Ok(())
            }
            Err(failure) => {
                db.metrics().ended(name, "unknown");
                Err(LeaseDbError::OutcomeUnknown(Box::new(failure)))
            }
        }
    }
}

/// What a body returns: its value, and its writes.
pub(super) type Decided<T> = Result<(T, Vec<Call>), Failure>;

/// What a transaction does between its beginning and its writes, given what it was asked.
pub(super) type Body<R, T> = for<'t> fn(&'t mut Tx<'_>, &'t R) -> BoxFuture<'t, Decided<T>>;

/// How a transaction ended that was not to be tried again.
enum Ended<T> {
    Done(T),
    Failed(Failure),
    Unknown(Failure),
}

impl PgLeaseDb {
    async fn run(&self, connection: &mut Connection, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
        self.metrics().sent(steps.len());
        all(connection.pipeline(steps).await)
    }

    /// Runs one statement by itself. It must be one that can be run twice: where a connection breaks, another is tried.
    pub(super) async fn query(&self, name: &'static str, call: Call) -> Result<Vec<Row>> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut connection = self.connect().await.inspect_err(|_| self.metrics().ended(name, "failed"))?;
            let result = self.run(&mut connection, &[Step::Call(&call)]).await;
            let failure = match result {
                Ok(mut answers) => {
                    connection.clean = true;
                    self.metrics().ended(name, "done");
                    return Ok(answers.pop().unwrap_or_default());
                }
                Err(failure) => failure,
            };
            connection.clean = !failure.spoils_connection();
            if attempts < 2 && failure.is_of_connection() {
                self.metrics().retried(name);
                continue;
            }
            self.metrics().ended(name, "failed");
            return Err(failure.unchanged());
        }
    }

    /// Runs a transaction that holds the lock of `lock`, if any. Its body may run several times.
    pub(super) async fn change<R: Sync, T: Send>(
        &self,
        name: &'static str,
        lock: Option<StorageIndex>,
        request: &R,
        body: Body<R, T>,
    ) -> Result<T> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let attempt = self.attempt(lock, request, body).await;
            match attempt.inspect_err(|_| self.metrics().ended(name, "failed"))? {
                Ended::Done(value) => {
                    self.metrics().ended(name, "done");
                    return Ok(value);
                }
                Ended::Failed(failure)
                    if attempts < ATTEMPTS_MAX
                        && (failure.is_passing() || attempts < 2 && failure.is_of_connection()) =>
                {
                    self.metrics().retried(name);
                }
                Ended::Failed(failure) => {
                    self.metrics().ended(name, "failed");
                    return Err(failure.unchanged());
                }
                Ended::Unknown(failure) => {
                    self.metrics().ended(name, "unknown");
                    tracing::warn!(transaction = name, error = %failure, "a commit was not confirmed");
                    return Err(LeaseDbError::OutcomeUnknown(Box::new(failure)));
                }
            }
        }
    }

    async fn attempt<R: Sync, T: Send>(
        &self,
        lock: Option<StorageIndex>,
        request: &R,
        body: Body<R, T>,
    ) -> Result<Ended<T>> {
        let mut connection = self.connect().await?;
        let begin = begin(lock);
        let mut tx = Tx { connection: &mut connection, begin: Some(begin), db: self };
        let decided = body(&mut tx, request).await;
        let begun = tx.begin.is_none();
        let (value, calls) = match decided {
            Ok(decided) => decided,
            Err(failure) => {
                if !failure.spoils_connection() {
                    self.roll_back(&mut connection, begun).await;
                }
                return Ok(Ended::Failed(failure));
            }
        };
        if calls.is_empty() {
            self.roll_back(&mut connection, begun).await;
            return Ok(Ended::Done(value));
        }
        let first = if begun { None } else { tx.begin.take() };
        let mut steps: Vec<Step<'_>> = first.as_deref().map(Step::Plain).into_iter().collect();
        steps.extend(calls.iter().map(Step::Call));
        steps.push(Step::Plain("COMMIT"));
        self.metrics().sent(steps.len());
        let count = steps.len();
        let answers = connection.pipeline(&steps).await;
        let Some((at, failure)) = answers.into_iter().enumerate().find_map(|(at, a)| a.err().map(|e| (at, e))) else {
            connection.clean = true;
            return Ok(Ended::Done(value));
        };
        // A failure before the COMMIT turned it into a rollback, if the server told of it. A connection that broke
        // tells nothing: the COMMIT was sent along.
        let server_told = matches!(&failure, Failure::Database(error) if error.as_db_error().is_some());
        if failure.is_certain() || (server_told && at + 1 < count) {
            if !failure.spoils_connection() {
                self.roll_back(&mut connection, true).await;
            }
            return Ok(Ended::Failed(failure));
        }
        Ok(Ended::Unknown(failure))
    }

    /// Ends a transaction that changes nothing; a connection on which that fails is closed.
    async fn roll_back(&self, connection: &mut Connection, begun: bool) {
        let ended = !begun || self.run(connection, &[Step::Plain("ROLLBACK")]).await.is_ok();
        connection.clean = ended;
    }
}

/// The text that begins a transaction and takes the lock of a storage index.
///
/// The lock is the transaction's own and ends with it, so it works through transaction poolers. Two storage indexes may
/// share one by chance: then their writers wait for each other, no more.
fn begin(lock: Option<StorageIndex>) -> String {
    lock.map_or_else(
        || "BEGIN".to_owned(),
        |index| format!("BEGIN; SELECT pg_advisory_xact_lock({})", lock_number(index)),
    )
}

/// The number of a storage index's lock.
pub(super) fn lock_number(index: StorageIndex) -> i64 {
    let (high, low) = index.as_bytes().split_at(8);
    let word = |half: &[u8]| i64::from_be_bytes(half.try_into().expect("half of sixteen bytes"));
    word(high) ^ word(low)
}
