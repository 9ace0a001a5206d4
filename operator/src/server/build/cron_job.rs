//! The jobs: what the accounting crawler does, each at its times.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use leasehold_core::run::RunKind;
use leasehold_crds::ExpirationMode;

use super::super::runs_by_itself;
use super::super::validate::Validated;
use super::config_map;
use crate::names::{cron_name, labels};
use crate::pod::{self, Mounts, Program};

/// Work that a job's pods share through the database: each runs the same command.
const WORKERS_OF_A_POD: &str = "4";

struct Plan<'a> {
    kind: RunKind,
    schedule: &'a str,
    time_zone: &'a str,
    arguments: Vec<&'static str>,
    pods: i32,
    minutes_max: i32,
}

pub(super) fn cron_jobs(validated: &Validated) -> Vec<CronJob> {
    let maintenance = &validated.spec.maintenance;
    let mode = validated.spec.expiration.mode;
    let backup = &validated.database.backup;
    let plan = |kind, schedule, arguments, minutes_max| Plan {
        kind,
        schedule,
        time_zone: &maintenance.time_zone,
        arguments,
        pods: 1,
        minutes_max,
    };
    let (expire, collect, audit) = (&maintenance.expire, &maintenance.collect, &maintenance.audit);
    let reconcile = &maintenance.reconcile;
    let expire_arguments = if mode == ExpirationMode::DryRun { vec!["expire", "--dry-run"] } else { vec!["expire"] };
    let reconcile_arguments = vec!["reconcile", "--workers", WORKERS_OF_A_POD];
    let plans = [
        plan(RunKind::Expire, &expire.schedule, expire_arguments, expire.max_duration_minutes),
        plan(RunKind::Collect, &collect.schedule, vec!["collect"], collect.max_duration_minutes),
        Plan {
            pods: reconcile.parallelism,
            ..plan(RunKind::Reconcile, &reconcile.schedule, reconcile_arguments, reconcile.max_duration_minutes)
        },
        plan(RunKind::Audit, &audit.schedule, vec!["audit"], audit.max_duration_minutes),
        Plan { time_zone: &backup.time_zone, ..plan(RunKind::Backup, &backup.schedule, vec!["backup"], 600) },
    ];
    plans.into_iter().map(|plan| cron_job(validated, plan)).collect()
}

fn cron_job(validated: &Validated, plan: Plan<'_>) -> CronJob {
    let name = cron_name(&validated.owner.key.name, plan.kind.as_str());
    let pod = pod::spec(Program {
        image: validated.image.clone(),
        source: &validated.spec.image,
        arguments: plan.arguments.into_iter().map(str::to_owned).collect(),
        mounts: Mounts::default()
            .config(&config_map::jobs_name(validated))
            .data()
            .s3(&validated.backend.s3)
            .database(&validated.database.connection.parameters, &validated.maintenance_role.secret),
        resources: pod::job_resources(),
    });
    let pod = PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(config_map::service_account_name(validated)),
        ..pod
    };
    let of_job = labels(&validated.owner.key.name, plan.kind.as_str());
    let job = JobSpec {
        completion_mode: (plan.pods > 1).then(|| "Indexed".to_owned()),
        completions: Some(plan.pods),
        parallelism: Some(plan.pods),
        backoff_limit: Some(2),
        active_deadline_seconds: Some(i64::from(plan.minutes_max) * 60),
        ttl_seconds_after_finished: Some(86_400),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(of_job.clone()), ..ObjectMeta::default() }),
            spec: Some(pod),
        },
        ..JobSpec::default()
    };
    CronJob {
        metadata: validated.owner.owned(name, plan.kind.as_str()),
        spec: Some(CronJobSpec {
            schedule: plan.schedule.to_owned(),
            time_zone: Some(plan.time_zone.to_owned()),
            suspend: Some(!runs_by_itself(&validated.spec, plan.kind)),
            // Two runs of a kind at once do no harm (the database lets one go on), but no good either.
            concurrency_policy: Some("Forbid".to_owned()),
            starting_deadline_seconds: Some(300),
            successful_jobs_history_limit: Some(1),
            failed_jobs_history_limit: Some(3),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(of_job), ..ObjectMeta::default() }),
                spec: Some(job),
            },
        }),
        status: None,
    }
}
