//! `leasehold audit`.

use std::process::ExitCode;

use leasehold_config::Size;
use leasehold_core::run::Run;

use super::{Common, open};
use crate::jobs::audit;
use crate::jobs::progress::Progress;
use crate::status::run_json;
use crate::telemetry;

pub(super) async fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let (config, _, db) = open(common).await?;
    telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
    let progress = Progress::begin(common.output, "auditing");
    let run = audit::run(&db, &progress).await?;
    progress.end();
    common.output.print(&run_json(&run), || text(&run));
    Ok(ExitCode::SUCCESS)
}

fn text(run: &Run) -> String {
    let of = |name| run.totals.of(name);
    let held = format!("{} accounts hold {} leases on {}", of("accounts"), of("leases"), Size(of("leased_bytes")));
    let counters = match of("accounts_corrected") {
        0 => "all counters say so".to_owned(),
        wrong => {
            format!("the counters of {wrong} were wrong by {} in all, and are corrected", Size(of("drift_bytes")))
        }
    };
    let unleased = match of("shares_unleased") {
        0 => String::new(),
        shares => format!("\n{shares} shares are leased by nobody; `leasehold collect` retires them"),
    };
    format!("{held}; {counters}{unleased}")
}
