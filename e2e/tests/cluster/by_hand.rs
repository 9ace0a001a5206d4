//! A deployment without an operator: what a person would write who has only the image.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use leasehold_e2e::image::product::reference;
use leasehold_e2e::leasehold::{Credentials, binary};
use leasehold_e2e::process::run_ok;
use leasehold_e2e_services::TcpProxy;
use leasehold_e2e_services::postgres::SUPERUSER;
use serde_json::{Map, Value, json};

use super::world::{PODS_TIMEOUT, World, node_port};

/// The name of everything.
pub const NAME: &str = "leasehold";

const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Where pods find secrets and the configuration.
const SECRETS: &str = "/run/secrets/leasehold";
const CONFIG: &str = "/etc/leasehold";

/// Makes schema, account, identity and `replicas` pods, and gives the account.
pub fn deploy(world: &World, replicas: u32) -> Result<Credentials> {
    let name = world.kubectl.namespace();
    world.make_stores(name)?;
    let port = node_port();
    let secrets = secrets(world)?;
    let (folder, outside) = (world.directory.path().join("prepared"), world.directory.path().join("secrets"));
    fs::create_dir_all(&outside)?;
    for (file, content) in &secrets {
        fs::write(outside.join(file), content.as_str().context("a secret that is no text")?)?;
    }
    let services = [world.managed.database.address(), world.managed.store.address()].map(|at| at.to_string());
    let here = config(name, port, &services, &outside.display().to_string());
    let config_file = world.directory.path().join("leasehold.toml");
    fs::write(&config_file, here)?;
    // With the account comes the identity, which pods get as a Secret. The schema is made from outside first, and the
    // Job in the cluster finds nothing left to do: that is what it finds at most upgrades.
    let leasehold = |arguments: &[&str]| {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--config").arg(&config_file).arg("--data-dir").arg(&folder);
        run_ok(command.args(["--output", "json"]), COMMAND_TIMEOUT)
    };
    leasehold(&["migrate"])?;
    let account: Credentials = serde_json::from_str(&leasehold(&["account", "create", "alice"])?)?;
    let named = |host: String, proxy: &TcpProxy| format!("{host}:{}", proxy.address().port());
    let managed = world.managed;
    let services =
        [named(managed.database_host(), &managed.database_proxy), named(managed.store_host(), &managed.store_proxy)];
    let config = config(name, port, &services, SECRETS);
    let image = reference(NAME)?;
    let objects = [
        object("v1", "ConfigMap", json!({"data": {"leasehold.toml": config}})),
        secret("leasehold-services", &secrets),
        secret("leasehold-identity", &files(folder.join("identity"))?),
        object("batch/v1", "Job", json!({"spec": {"template": pod(&image, &["migrate"], "Never")}})),
        object("v1", "Service", service(port)),
        object("apps/v1", "Deployment", json!({"spec": deployment(&image, replicas)})),
    ];
    world.kubectl.apply_all(&objects)?;
    world.story(|| {
        world.kubectl.run(&["wait", "--for=condition=Complete", "--timeout=180s", &format!("job/{NAME}")])?;
        world.kubectl.wait_rolled_out(NAME, PODS_TIMEOUT)
    })?;
    Ok(account)
}

/// The configuration of a process that reaches database and store at these addresses.
fn config(name: &str, port: u16, [database, store]: &[String; 2], secrets: &str) -> String {
    let (database, database_port) = database.rsplit_once(':').unwrap_or((database, ""));
    format!(
        "[server]
listen = \"0.0.0.0:4443\"
admin_listen = \"0.0.0.0:9090\"
advertise = \"127.0.0.1:{port}\"
drain_notice_seconds = 5
drain_seconds = 20
[database]
host = \"{database}\"
port = {database_port}
name = \"{name}\"
user = \"{SUPERUSER}\"
password_file = \"{secrets}/database-password\"
ca_file = \"{secrets}/database-ca.pem\"
[storage.s3]
bucket = \"{name}\"
endpoint = \"https://{store}\"
access_key_id_file = \"{secrets}/s3-id\"
secret_access_key_file = \"{secrets}/s3-secret\"
ca_file = \"{secrets}/s3-ca.pem\"
[log]
format = \"json\"
"
    )
}

/// What pods need to know and nobody else.
fn secrets(world: &World) -> Result<Map<String, Value>> {
    let store = world.managed.store.credentials();
    let entries = [
        ("database-password", world.managed.database.password().context("the database has no password")?.to_owned()),
        ("database-ca.pem", world.managed.database_authority()?),
        ("s3-id", store.access_key.clone()),
        ("s3-secret", store.secret_key.clone()),
        ("s3-ca.pem", world.managed.store_authority()?),
    ];
    Ok(entries.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
}

fn files(folder: PathBuf) -> Result<Map<String, Value>> {
    let mut files = Map::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let content = fs::read_to_string(entry.path())?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), content.into());
    }
    Ok(files)
}

fn object(version: &str, kind: &str, mut object: Value) -> Value {
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    object["metadata"]["name"] = NAME.into();
    object
}

fn secret(name: &str, data: &Map<String, Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

fn service(port: u16) -> Value {
    let port = json!({"name": "storage", "port": 4443, "targetPort": 4443, "nodePort": port});
    json!({"spec": {"type": "NodePort", "selector": {"app": NAME}, "ports": [port]}})
}

fn deployment(image: &str, replicas: u32) -> Value {
    json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": NAME}},
        // An old pod goes when its successor is ready.
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": pod(image, &["serve"], "Always"),
    })
}

/// A pod as a namespace with restricted security takes it.
fn pod(image: &str, arguments: &[&str], restart: &str) -> Value {
    let config = format!("{CONFIG}/leasehold.toml");
    let arguments = [arguments, &["--config", &config, "--data-dir", "/data"]].concat();
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": 9090}, "periodSeconds": 2});
    let mut container = json!({
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "identity", "mountPath": "/data/identity", "readOnly": true},
            {"name": "services", "mountPath": SECRETS, "readOnly": true},
            {"name": "config", "mountPath": CONFIG, "readOnly": true},
        ],
    });
    if restart == "Always" {
        container["readinessProbe"] = probe("/healthz/ready");
        container["livenessProbe"] = probe("/healthz/live");
        container["startupProbe"] = probe("/healthz/started");
    }
    let secret = |name: &str| json!({"secretName": name, "defaultMode": 0o440});
    json!({
        "metadata": {"labels": {"app": if restart == "Always" { NAME } else { "migration" }}},
        "spec": {
            "restartPolicy": restart,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 40,
            "securityContext": {
                "runAsNonRoot": true,
                "fsGroup": leasehold_e2e::image::USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "identity", "secret": secret("leasehold-identity")},
                {"name": "services", "secret": secret("leasehold-services")},
                {"name": "config", "configMap": {"name": NAME}},
            ],
        },
    })
}
