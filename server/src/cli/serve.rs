//! `leasehold serve`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use leasehold_config::check_host_port;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Common;
use crate::output::handout_text;
use crate::{serve, telemetry};

/// The exit code by which shells know an interrupted program: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Where to serve clients
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// What clients are told to connect to, if that is not the address served
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where to serve metrics and health
    #[arg(long, value_name = "ADDR:PORT")]
    admin_listen: Option<SocketAddr>,
}

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.common.load_config()?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    if let Some(admin_listen) = args.admin_listen {
        config.server.admin_listen = admin_listen;
    }
    if let Some(advertise) = args.advertise {
        check_host_port(&advertise).map_err(|problem| anyhow::anyhow!("--advertise {problem}"))?;
        config.server.advertise = Some(advertise);
    }
    telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
    let signals = Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let running = serve::start(config, &args.common.data_dir).await?;
    let mut json = json!({ "listen": running.listen.to_string(), "admin": running.admin.to_string() });
    if let (Some(handout), Some(fields)) = (&running.handout, json.as_object_mut())
        && let serde_json::Value::Object(more) = serde_json::to_value(handout)?
    {
        fields.extend(more);
    }
    args.common.output.print(&json, || {
        let handout = running.handout.as_ref().map(handout_text).unwrap_or_default();
        format!("{handout}\nServing on {}, metrics on http://{}/metrics", running.listen, running.admin)
    });
    tracing::info!(listen = %running.listen, admin = %running.admin, "serving");
    Ok(signals.obey(running).await)
}

/// What tells a server to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// SIGTERM drains: it comes from supervisors, which may send it twice. SIGINT comes from a person who waits: the
    /// first one hurries, also in the middle of draining, the second does not even wait for requests in flight.
    async fn obey(mut self, mut running: serve::Running) -> ExitCode {
        let mut hurried = false;
        loop {
            tokio::select! {
                () = running.ended() => {
                    return if running.is_orphaned() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
                }
                _ = self.terminate.recv() => {
                    tracing::info!("draining");
                    running.drain();
                }
                _ = self.interrupt.recv() => {
                    if std::mem::replace(&mut hurried, true) {
                        tracing::warn!("stopped amid requests");
                        return ExitCode::from(INTERRUPTED);
                    }
                    tracing::info!("stopping");
                    running.hurry();
                }
            }
        }
    }
}
